"""The terminator, composed."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from exeunt.bus.delivery import Delivery
from exeunt.bus.hearsay import Hearsay
from exeunt.bus.mesh_streams import ensure_stream_and_consumer
from exeunt.bus.pull import PullLoop
from exeunt.bus.shares import Share
from exeunt.events.event_types import ANSWERED_EVENT_TYPES
from exeunt.events.subjects import RUNS, TERMINATOR, every, run_of
from exeunt.process.health import InPart, Pulse
from exeunt.process.insist import insist
from exeunt.process.service import Connections, main
from exeunt.telemetry.metrics import expect_stops
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.remembered import Remembered
from exeunt_terminator.terminator import Terminator
from exeunt_terminator.without_bus import WithoutBus

_MOST_WAITING: Final = 2_000
"""Messages that wait here for a place, so that another namespace's are seen behind those of one in trouble: some 16 MB.
"""
_SILENCE = 30.0
"""Seconds: the pull loop beats every second, also while NATS is away."""


class TerminatorService:
    """One pull loop, answered by one `Terminator`; and `WithoutBus`, for when nothing can be pulled, or is stored."""

    def __init__(self, connections: Connections) -> None:
        expect_stops()
        settings, bus = connections.settings, connections.bus
        publishing = settings.kubernetes_events and not settings.dry_run
        self._events = KubernetesEvents(connections.kube, enabled=publishing)
        remembered = Remembered()
        self._terminator = Terminator(connections.kube, bus, settings, self._events, remembered)
        filters = tuple(every(event_type) for event_type in ANSWERED_EVENT_TYPES)
        self._ensure = partial(ensure_stream_and_consumer, bus, settings, RUNS, TERMINATOR, filters)
        self._pull = PullLoop(
            bus,
            RUNS,
            TERMINATOR,
            max_in_flight=settings.max_in_flight,
            recreate=self._ensure,
            ack_wait=settings.ack_wait.total_seconds(),
            max_deliveries=settings.max_deliveries,
            share=_share,
            max_waiting=_MOST_WAITING,
        )
        self._hearsay = Hearsay(bus)
        self._without_bus = WithoutBus(
            connections.kube,
            bus,
            settings,
            events=self._events,
            remembered=remembered,
            hearsay=self._hearsay,
            pull=self._pull,
        )

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        return (
            {
                "facts": lambda: self._without_bus.reported(
                    self._pull.unavailable_reason or self._hearsay.unavailable_reason
                ),
                "clock": self._clock_trouble,
            },
            {"facts": Pulse(lambda: self._pull.last_progress, _SILENCE)},
        )

    def _clock_trouble(self) -> InPart | None:
        """Deadlines are a part: all other stops go on."""
        unavailable_reason = self._terminator.clock_trouble()
        return InPart(f"{unavailable_reason}: no run is ended by its deadline here") if unavailable_reason else None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            beside = (self._events.run(), self._hearsay.run(), self._without_bus.run())
            others = [tasks.create_task(each) for each in beside]
            await insist("make or check the streams and the consumer", self._ensure)
            await self._pull.run(self._terminator.handle)
            for other in others:
                other.cancel()

    async def stop(self, budget: float) -> None:
        now = asyncio.get_running_loop().time
        end = now() + budget
        await self._without_bus.stop(budget)
        await self._pull.stop(max(0.0, end - now()))


def _share(delivery: Delivery) -> Share:
    return Share(*run_of(delivery.subject))


def compose(connections: Connections) -> TerminatorService:
    """The one place where the terminator's parts meet."""
    return TerminatorService(connections)


def serve() -> NoReturn:
    """Run it until SIGTERM."""
    main("exeunt-terminator", compose, waits_for_streams=False)
