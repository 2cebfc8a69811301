"""The terminator, composed."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from exeunt.bus.mesh_streams import ensure_stream_and_consumer
from exeunt.bus.pull import PullLoop
from exeunt.events.event_types import STOPPING_EVENT_TYPES
from exeunt.events.subjects import RUNS, every
from exeunt.process.health import Pulse
from exeunt.process.insist import insist
from exeunt.process.service import Connections, main
from exeunt.telemetry.metrics import expect_stops
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.terminator import DURABLE, Terminator

_SILENCE = 30.0
"""Seconds: the pull loop beats every second, also while NATS is away."""


class TerminatorService:
    """One pull loop, answered by one `Terminator`."""

    def __init__(self, connections: Connections) -> None:
        expect_stops()
        settings, bus = connections.settings, connections.bus
        publishing = settings.kubernetes_events and not settings.dry_run
        self._events = KubernetesEvents(connections.kube, enabled=publishing)
        self._terminator = Terminator(connections.kube, bus, settings, self._events)
        filters = tuple(every(event_type) for event_type in STOPPING_EVENT_TYPES)
        self._ensure = partial(ensure_stream_and_consumer, bus, settings, RUNS, DURABLE, filters)
        self._pull = PullLoop(
            bus,
            RUNS,
            DURABLE,
            max_in_flight=settings.max_in_flight,
            recreate=self._ensure,
            ack_wait=settings.ack_wait.total_seconds(),
            max_deliveries=settings.max_deliveries,
        )

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        return (
            {"facts": lambda: self._pull.unavailable_reason},
            {"facts": Pulse(lambda: self._pull.last_progress, _SILENCE)},
        )

    async def run(self) -> None:
        await insist("make or check the consumer", self._ensure)
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(self._events.run())
            await self._pull.run(self._terminator.handle)
            publishing.cancel()

    async def stop(self, budget: float) -> None:
        await self._pull.stop(budget)


def compose(connections: Connections) -> TerminatorService:
    """The one place where the terminator's parts meet."""
    return TerminatorService(connections)


def serve() -> NoReturn:
    """Run it until SIGTERM."""
    main("exeunt-terminator", compose)
