"""What every service does around its work: settings, logs, connections, health, and an orderly end.

On SIGTERM or SIGINT nothing new is taken, what is in flight gets the drain budget, and the process exits 0. A second
signal ends it at once. What has to be set otherwise, here or at NATS, exits 2 with its message; anything else that ends
the process exits 1 with its traceback in the log.
"""

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Final, NoReturn, Protocol

import structlog
import uvloop
from msgspec import Struct

from exeunt.bus.backlogs import report_backlogs
from exeunt.bus.configured import connect_as
from exeunt.bus.connection import Bus
from exeunt.bus.errors import PermissionDenied, StreamMisconfigured
from exeunt.bus.mesh_streams import EnsureStreams, ensure_streams
from exeunt.errors import UsageError
from exeunt.kube.client import KubeClient
from exeunt.process.health import Health, Pulse, serve_health
from exeunt.process.insist import insist
from exeunt.settings import Settings, read_settings
from exeunt.telemetry.configured import configure_telemetry
from exeunt.telemetry.logs import configure_logs
from exeunt.telemetry.metrics import CLOCK_OFFSET, DEPENDENCY_UP

_CONNECT_TIMEOUT = 5.0
_CLOSE_BUDGET = 3.0
_SET_OTHERWISE: Final = (UsageError, StreamMisconfigured, PermissionDenied)
"""Errors that tell whoever runs us what to change; where they came up is of no use to them."""

log = structlog.get_logger()


class Connections(Struct, frozen=True):
    """What a service stands on."""

    settings: Settings
    bus: Bus
    cluster: KubeClient | None = None

    @property
    def kube(self) -> KubeClient:
        """The kube-apiserver. Raises RuntimeError in a service that was started without."""
        if self.cluster is None:
            raise RuntimeError("this service was started without Kubernetes")
        return self.cluster


class Work(Protocol):
    """What a service does, between being composed and being told to stop."""

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        """Its own dependencies and pulses, beside the connections'."""

    async def run(self) -> None:
        """Work until `stop`; returning earlier is a bug."""

    async def stop(self, budget: float) -> None:
        """Take nothing new and finish what is in flight, within `budget` seconds."""


def main(
    service: str,
    compose: Callable[[Connections], Work],
    *,
    ensure: EnsureStreams = ensure_streams,
    kubernetes: bool = True,
    waits_for_streams: bool = True,
) -> NoReturn:
    """Run one service to its end and exit. There are no arguments: asked for help, or anything else, it says so.

    `ensure` makes or checks the streams that it stands on; without `kubernetes` no kube-apiserver is looked for.
    A service that has something to do without its streams does not have them waited for, and makes them itself.
    """
    if sys.argv[1:]:
        way = " KUBECONFIG or a service account leads it to the kube-apiserver." if kubernetes else ""
        sys.stderr.write(
            f"{service} runs until SIGTERM and takes no arguments. It is set by environment variables that begin with"
            f" EXEUNT_: `exeunt settings` lists them.{way}\n"
        )
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    try:
        settings = read_settings()
        configure_logs(settings, service=service)
        uvloop.run(
            _serve(service, compose, settings, ensure, kubernetes=kubernetes, waits_for_streams=waits_for_streams)
        )
    except Exception as error:
        leaves = [*_leaves(error)]
        if not all(isinstance(leaf, _SET_OTHERWISE) for leaf in leaves):
            log.critical("ended by an error", error="; ".join(repr(leaf) for leaf in leaves), exc_info=True)
            sys.exit(1)
        for leaf in leaves:
            sys.stderr.write(f"{service}: {leaf}\n")
        sys.exit(2)
    sys.exit(0)


async def _serve(
    service: str,
    compose: Callable[[Connections], Work],
    settings: Settings,
    ensure: EnsureStreams,
    *,
    kubernetes: bool,
    waits_for_streams: bool,
) -> None:
    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    _allow_open_files()
    async with AsyncExitStack() as stack:
        telemetry = configure_telemetry(service)
        stack.push_async_callback(telemetry.shutdown, _CLOSE_BUDGET)
        kube = None
        if kubernetes:
            budget = settings.retry_budget.total_seconds()
            kube = await KubeClient.connect(strict=settings.tls_strict, retry_budget=budget)
            stack.push_async_callback(kube.close)
        # No patience here: without NATS, too, somebody has to answer /livez and tell on /readyz what is missing.
        bus = await connect_as(service, settings, connect_timeout=_CONNECT_TIMEOUT, patience=0)
        stack.push_async_callback(bus.close, _CLOSE_BUDGET)
        bus.recreate_streams = lambda: ensure(bus, settings)

        work = compose(Connections(settings, bus, kube))
        dependencies, pulses = work.health()
        everywhere = {"nats": lambda: bus.unavailable_reason, "jetstream": lambda: bus.change.unavailable_reason}
        health = Health(everywhere | ({"kubernetes": kube.unavailable_reason} if kube else {}) | dependencies, pulses)
        clocks = {"nats": bus.clock} | ({"kube-apiserver": kube.clock} if kube else {})
        CLOCK_OFFSET.observe(
            lambda: {(name,): ahead for name, clock in clocks.items() if (ahead := clock.ahead) is not None}
        )
        DEPENDENCY_UP.observe(lambda: {(name,): ask() is None for name, ask in health.dependencies.items()})
        server = await serve_health(health, settings.http_addr, telemetry.endpoint)
        stack.callback(server.close)

        awaited = bus.recreate_streams if waits_for_streams else None
        running = asyncio.create_task(_work(work, kube, bus, awaited, settings), name=service)
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not running.done():
            log.info("stopping", budget_s=settings.drain_budget.total_seconds())
            await work.stop(settings.drain_budget.total_seconds())
            running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        if not stopping.is_set():
            raise RuntimeError(f"{service} has ended without being told to")
        log.info("stopped")


async def _work(
    work: Work, kube: KubeClient | None, bus: Bus, ensure: Callable[[], Awaitable[None]] | None, settings: Settings
) -> None:
    async with asyncio.TaskGroup() as tasks:
        probed = settings.namespaces or ("default",)
        probing = tasks.create_task(kube.probe(probed)) if kube else None
        reporting = tasks.create_task(report_backlogs(bus)) if kube else None
        if ensure is not None:
            await insist("make or check the streams", ensure)
        # What was imported is there for good: a full collection would walk it, and hold a stop up for 14 to 40 ms.
        gc.collect()
        gc.freeze()
        log.info("started")
        await work.run()
        for other in (probing, reporting):
            if other:
                other.cancel()


def _allow_open_files() -> None:
    """As many as the kernel lets us, as Go's programs do: each watch is one, so 1024 are those of 250 namespaces."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            loop.remove_signal_handler(number)
            signal.raise_signal(number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
