"""The timeout-scheduler, composed."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from exeunt.bus.mesh_streams import ensure_stream_and_consumer
from exeunt.bus.pull import PullLoop
from exeunt.events.subjects import DEADLINES, EVERY_DUE, RUNS, TIMEOUT_SCHEDULER, TIMEOUT_SCHEDULER_DUE, every
from exeunt.process.health import Pulse
from exeunt.process.insist import insist
from exeunt.process.service import Connections, main
from exeunt.telemetry.metrics import expect_deadlines
from exeunt_timeout_scheduler.calls import Calls
from exeunt_timeout_scheduler.scheduler import Scheduler
from exeunt_timeout_scheduler.sweep import Sweep
from exeunt_timeout_scheduler.way import HEARD

_MOST_HELD: Final = 2_000
"""Fired schedules held at once: each waits for its instant, and must not keep another from being on time."""
_SILENCE = 30.0
"""Seconds: the pull loops beat every second, also while NATS is away."""


class TimeoutSchedulerService:
    """Two pull loops (events that arm and disarm, schedules that have fired) and the sweep."""

    def __init__(self, connections: Connections) -> None:
        expect_deadlines()
        settings, bus, kube = connections.settings, connections.bus, connections.kube
        self._scheduler = Scheduler(kube, bus, settings)
        self._sweep = Sweep(kube, Calls(kube, bus, settings), settings)
        self._interval = settings.sweep_interval.total_seconds()
        self._retry_budget = settings.retry_budget.total_seconds()
        ensure = partial(ensure_stream_and_consumer, bus, settings)
        filters = tuple(every(event_type) for event_type in HEARD)
        pull = partial(
            PullLoop, bus, ack_wait=settings.ack_wait.total_seconds(), max_deliveries=settings.max_deliveries
        )
        self._ensure_events = partial(ensure, RUNS, TIMEOUT_SCHEDULER, filters)
        self._ensure_due = partial(ensure, DEADLINES, TIMEOUT_SCHEDULER_DUE, (EVERY_DUE,))
        self._events = pull(
            RUNS,
            TIMEOUT_SCHEDULER,
            max_in_flight=settings.max_in_flight,
            recreate=self._ensure_events,
        )
        self._due = pull(
            DEADLINES,
            TIMEOUT_SCHEDULER_DUE,
            max_in_flight=_MOST_HELD,
            recreate=self._ensure_due,
            ack_sync=True,
        )

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        # One sweep may wait out a whole retry budget of the kube-apiserver before the next.
        sweep_silence = self._interval + 3 * self._retry_budget + _SILENCE
        return (
            {"facts": lambda: self._events.unavailable_reason, "deadlines": lambda: self._due.unavailable_reason},
            {
                "facts": Pulse(lambda: self._events.last_progress, _SILENCE),
                "deadlines": Pulse(lambda: self._due.last_progress, _SILENCE),
                "sweep": Pulse(lambda: self._sweep.last_progress, sweep_silence),
            },
        )

    async def run(self) -> None:
        await insist("make or check the consumers", self._ensure_events)
        await insist("make or check the consumers", self._ensure_due)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._events.run(self._scheduler.on_event))
            tasks.create_task(self._due.run(self._scheduler.on_due))
            tasks.create_task(self._sweep.run())

    async def stop(self, budget: float) -> None:
        await asyncio.gather(self._events.stop(budget), self._due.stop(budget))


def compose(connections: Connections) -> TimeoutSchedulerService:
    """The one place where the timeout-scheduler's parts meet."""
    return TimeoutSchedulerService(connections)


def serve() -> NoReturn:
    """Run it until SIGTERM."""
    main("exeunt-timeout-scheduler", compose)
