"""What this process tells of itself, by the standard OTEL_* variables. `tracing` and `metrics` say what there is.

- Metrics are always there, at /metrics. OTEL_SDK_DISABLED=true turns off these and everything else here.
- Where any variable OTEL_* is set, `exporting` follows it, and OpenTelemetry is loaded: 1.5 MiB and a tenth of the CPU
  of a start, 20 MiB where something is exported. Elsewhere nothing of it is needed.
"""

import asyncio
import os
import threading
import uuid
from collections.abc import Callable

import structlog

from exeunt import __version__
from exeunt.net.http_server import Handler
from exeunt.telemetry import semconv
from exeunt.telemetry.metrics import INSTRUMENTS
from exeunt.telemetry.prometheus import metrics_endpoint

log = structlog.get_logger()


class Telemetry:
    """What was configured. `endpoint` answers /metrics, `shutdowns` end what is exported."""

    def __init__(self, endpoint: Handler, shutdowns: list[Callable[[], object]]) -> None:
        self.endpoint = endpoint
        self._shutdowns = shutdowns

    async def shutdown(self, budget: float) -> None:
        """Export what is left, for `budget` seconds at the most. Threads that hang do not keep the process alive."""
        try:
            async with asyncio.timeout(budget):
                await asyncio.gather(*map(_in_daemon_thread, self._shutdowns))
        except TimeoutError:
            log.warning("spans or metrics lost at the end: the collector does not answer", budget=budget)


def configure_telemetry(service: str) -> Telemetry:
    """Set up this process. Raises UsageError for an OTEL_* variable that cannot be followed."""
    who = {
        semconv.SERVICE_NAME: service,
        semconv.SERVICE_VERSION: __version__,
        semconv.SERVICE_INSTANCE: os.environ.get("HOSTNAME") or str(uuid.uuid4()),
    }
    reported_by = () if disabled() else ("all", service.removeprefix("exeunt-"))
    ours = [instrument for instrument in INSTRUMENTS if instrument.services in reported_by]
    if not any(name.startswith("OTEL_") for name in os.environ):
        return Telemetry(metrics_endpoint(who, ours), [])

    from exeunt.telemetry import exporting  # noqa: PLC0415 - loads OpenTelemetry, which nobody has asked for so far

    resource = exporting.resource(who)
    return Telemetry(metrics_endpoint(resource.attributes, ours), exporting.export(resource, ours))


def disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


async def _in_daemon_thread(call: Callable[[], object]) -> None:
    """Wait for a blocking call. `asyncio.to_thread` would have the end of the process wait for it, too."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        call()
        # When nobody waits any more there may be no loop.
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry-shutdown", daemon=True).start()
    await done.wait()
