"""What more than one service of Exeunt speaks.

In the order in which a stop meets it: `bobrapet` (the operator's words), `kube` (reading and writing its objects),
`snapshot` (one run as it was read), `shutdown_timeout` (how long it may take to stop), `episodes` (one cancellation of
one run), `events` (what is said about it), `cloudevents` and `subjects` (how and where it is said), `bus` (NATS
JetStream). `settings`, `telemetry`, `health` and `service` make a process of it.
"""

from importlib.metadata import version

__version__ = version("exeunt")
"""As pyproject.toml says it, and nothing else: `make docs` writes it into the chart and the manifests."""
