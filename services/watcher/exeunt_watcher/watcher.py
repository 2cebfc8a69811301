"""Drives the machine: watches, signals and time in; its commands are carried out, and their answers are told to it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, Delivery
from exeunt.cancelled import as_own_task
from exeunt.errors import PoisonEvent
from exeunt.events.signals import read_signal
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import Rewound
from exeunt.kube.list_watch import ListWatch
from exeunt.settings import Settings
from exeunt_watcher.calls import Calls
from exeunt_watcher.commands import AllSignalsHeard, Covered, GetRun, Input, Question, Restored, Seen, SignalHeard, Tick
from exeunt_watcher.coverage import Coverage
from exeunt_watcher.machine import RESOURCES, Watching, selector
from exeunt_watcher.measures import measure_stops, observe_watches

_TICK: Final = 1.0
"""Seconds between looks at what only time changes, an overdue cancel_observed_at or a stale heartbeat, and between
measurements.
"""
_WINDOW: Final = 256
"""Requests to NATS on their way at once. When it is away they fill it, and who has more waits; none is dropped."""
LISTS_AT_ONCE: Final = 16
"""Lists fetched in parallel: hundreds of namespaces have four lists each, at the start and when a kube-apiserver
restarts.
"""

Hear = Callable[[Seen | Restored | Tick], Awaitable[None]]

log = structlog.get_logger()


def watching(namespaces: Iterable[str | None], settings: Settings) -> Watching:
    """A machine that knows nothing yet; `namespaces` is (None,) for all of them."""
    return Watching(
        namespaces,
        default_timeout=settings.shutdown_timeout,
        fence_wait=settings.fence_wait,
        heartbeats_stale_after=settings.heartbeat_stale_after or None,
        sweep_interval=settings.sweep_interval,
        second_look=settings.second_look,
    )


def watches(namespaces: Iterable[str | None], kube: KubeClient) -> Iterator[ListWatch[Any]]:
    """One for each kind in each namespace, which list in turns."""
    turns = asyncio.Semaphore(LISTS_AT_ONCE)
    for namespace in namespaces:
        for resource in RESOURCES:
            yield ListWatch(kube, resource, namespace=namespace, list_field_selector=selector(resource), turns=turns)


async def follow(begin: Callable[[], Iterable[ListWatch[Any]]], hear: Hear, *, tick: float) -> NoReturn:
    """Have all changes heard, and every `tick` seconds that time has passed, for ever; with watches that are begun anew
    where etcd was restored from a backup.
    """
    while True:
        try:
            await as_own_task(_follow_all(begin(), hear, tick))
        except* Rewound as rewound:
            log.warning("etcd was restored from a backup: starting over", found=str(rewound.exceptions[0]))
        await hear(Restored())


async def _follow_all(watches: Iterable[ListWatch[Any]], hear: Hear, tick: float) -> None:
    async with asyncio.TaskGroup() as tasks:
        for watch in watches:
            tasks.create_task(_follow_one(watch, hear))
        while True:
            await asyncio.sleep(tick)
            await hear(Tick())


async def _follow_one(watch: ListWatch[Any], hear: Hear) -> None:
    async with aclosing(aiter(watch)) as changes:
        async for change in changes:
            await hear(Seen(watch.resource, watch.namespace, change))
            del change  # a page may be large, and the next change far away


async def check_signal(delivery: Delivery) -> Ack:
    """One look at each signal, for all watchers together. Raises PoisonEvent for what is none, which is then set aside;
    what cannot count is logged.
    """
    signal = read_signal(delivery.subject, delivery.headers, delivery.data)
    if signal.is_ahead_of(delivery.timestamp):
        log.warning(
            "signal ignored", subject=delivery.subject, why="it lies in the future", time=str(signal.at),
            detail=signal.detail,
        )  # fmt: skip
    return Ack()


class Watcher:
    """Watches one cluster (or some of its namespaces) and publishes what happens to realtime runs."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings) -> None:
        self._kube = kube
        self._namespaces = settings.namespaces or (None,)
        self._tick_interval = min(_TICK, settings.sweep_interval.total_seconds())
        self._machine: Watching = watching(self._namespaces, settings)
        self._calls = Calls(kube, bus, on_failure=self._waits)
        self._asking = asyncio.TaskGroup()
        self._window = asyncio.Semaphore(_WINDOW)
        self._reads = asyncio.Semaphore(LISTS_AT_ONCE)
        self._watching: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.coverage = Coverage(watches(self._namespaces, kube), self._machine)
        observe_watches(lambda: self.coverage.served)
        self.last_waited = float("-inf")
        """Loop time at which a dependency that is away was last tried: whatever waits for it is not stuck."""

    def _waits(self) -> None:
        self.last_waited = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Watch until `drain`."""
        try:
            async with self._asking, asyncio.TaskGroup() as tasks:
                self._watching = tasks.create_task(self._watch())
        finally:
            self._ended.set()

    async def drain(self, budget: float) -> None:
        """Watch no more, and let the events that are on their way arrive, for `budget` seconds at the most."""
        if self._watching is None:
            return  # NATS was not there yet to begin with
        self._watching.cancel()
        try:
            async with asyncio.timeout(budget):
                await self._ended.wait()
        except TimeoutError:
            # Nothing is lost: what holds is published by the next watcher, or by another one that runs.
            log.warning("events unpublished at the end", budget=budget)

    async def on_signal(self, delivery: Delivery) -> Ack:
        """Somebody publishes that a topology is gone, or up again. The stream keeps it: what follows need not be stored
        yet.

        What is no signal is nothing to this watcher; `check_signal` sets it aside, once for all of them.
        """
        with suppress(PoisonEvent):
            signal = read_signal(delivery.subject, delivery.headers, delivery.data)
            if not signal.is_ahead_of(delivery.timestamp):
                await self._hear(SignalHeard(signal))
        return Ack()

    async def signals_heard(self) -> None:
        """Every signal that is in the stream has been given to `on_signal`."""
        found = await self._calls.look_at_stream()
        await self._hear(AllSignalsHeard(found))

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure())
            await follow(self._begin, self._hear, tick=self._tick_interval)

    def _begin(self) -> list[ListWatch[Any]]:
        """New watches."""
        self.coverage = Coverage(watches(self._namespaces, self._kube), self._machine)
        return self.coverage.watches

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if self._machine.live:
                measure_stops(self._machine.pending(), datetime.now(UTC))

    async def _hear(self, heard: Input) -> None:
        """Tell the machine, and put on its way what it asks for; returns at once while there is room in the window."""
        for command in self._machine.receive(heard, datetime.now(UTC)):
            if isinstance(command, Covered):
                log.info("watching", namespace=command.namespace, unfinished_runs=command.unfinished_runs)
                continue
            window = self._reads if isinstance(command, GetRun) else self._window
            await window.acquire()
            self._asking.create_task(self._carry_out(command, window))

    async def _carry_out(self, command: Question, window: asyncio.Semaphore) -> None:
        try:
            answer = await self._calls.answer(command)
        finally:
            window.release()
        await self._hear(answer)
