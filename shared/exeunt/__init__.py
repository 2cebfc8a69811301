"""What the services of Exeunt share, in layers: each package imports only from those below it (`.importlinter`).

`history`    histories of stops, read from the stream or a file
`process`    what makes a process of a service: start, health, an orderly end
`kube`       the kube-apiserver: requests, lists and watches, credentials
`bus`        NATS JetStream: streams, publishing, pulling
`telemetry`  logs, metrics, traces
`rules`      what more than one service decides by
`events`     the events and their form on the wire
`run`        bobrapet's run, and one run as it was read
`net`        proxies, TLS, listening sockets

`settings` has every setting, `clock` how instants and durations are written, `back_off` how long to
wait between tries, `errors` the tree of errors.
"""

from importlib.metadata import version

__version__ = version("exeunt")
"""As pyproject.toml says it, and nothing else: `make docs` writes it into the chart and the manifests."""
