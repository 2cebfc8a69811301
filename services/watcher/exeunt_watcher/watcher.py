"""The watcher's shell: objects in, facts out.

Nothing is said of a namespace before every kind in it has been listed once and every signal heard, because a list that
has not come yet looks like "gone" (`coverage`). What the stream remembers of a run (its topology was established) is
given back to the projection first. From then on each change is projected and what begins to hold is said; and what
holds of unfinished stops is offered again at every sweep, which the stream refuses when it has it. So a lost event, a
lost stream or a lost process costs time, never a stop. When the cluster is found to be as it was before, because etcd
was restored from a backup, the watcher starts over, as a new process would.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from exeunt.bobrapet import UNFINISHED
from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, Delivery
from exeunt.errors import PoisonEvent
from exeunt.events import Fact
from exeunt.insist import insist
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, NotFound, Rewound, Undecodable
from exeunt.kube.list_watch import Change, Changed, ListWatch, Missing, Relisted, Removed
from exeunt.kube.models import StoryRun
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS, Resource
from exeunt.settings import Settings
from exeunt.signals import read_signal
from exeunt.snapshot import Snapshot
from exeunt_watcher.coverage import Coverage
from exeunt_watcher.fact_publisher import FactPublisher
from exeunt_watcher.facts import facts_between, standing
from exeunt_watcher.lateness import Lateness
from exeunt_watcher.measures import measure_stops, observe_watches
from exeunt_watcher.memory import recall
from exeunt_watcher.projection import Key, Projection
from exeunt_watcher.signals_heard import SignalsHeard

_SIGNALS: Final = "signals"
"""What has to have been heard, as every watch has to have listed, before anything is said."""
_TICK: Final = 1.0
"""Seconds between looks at what only time changes, an overdue fence or a stale heartbeat, and between measurements."""

_LISTS_AT_ONCE: Final = 16
"""Lists fetched in parallel: hundreds of namespaces have four each, at the start and when a kube-apiserver restarts."""

log = structlog.get_logger()


class _Kind(NamedTuple):
    """One watched kind and what takes its objects in; StoryRuns alone are not merely dropped when they go."""

    watch: ListWatch[Any]
    take: Callable[[Any], list[Key]]
    drop: Callable[[Key], list[Key]] | None


class Watcher:
    """Watches one cluster (or some of its namespaces) and says what happens to realtime runs."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings) -> None:
        self._kube = kube
        self._bus = bus
        self._settings = settings
        self._facts = FactPublisher(bus, on_failure=self._waits)
        self._signals = SignalsHeard()
        self._watching: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._besides: tuple[object, ...] = (_SIGNALS,)
        self._start_over()
        observe_watches(lambda: self.coverage.served)
        self.live = asyncio.Event()
        """Some namespace is covered: facts are being said."""
        self.last_waited = float("-inf")
        """Loop time at which a dependency that is away was last tried: whatever waits for it is not stuck."""

    def _start_over(self) -> None:
        """Know nothing of the cluster."""
        settings, turns = self._settings, asyncio.Semaphore(_LISTS_AT_ONCE)
        self._projection = Projection(
            default_timeout=settings.shutdown_timeout,
            fence_wait=settings.fence_wait,
            heartbeats_stale_after=settings.heartbeat_stale_after or None,
            signals=self._signals,
        )
        self._lateness = Lateness()
        self._kinds = [
            kind for namespace in settings.namespaces or (None,) for kind in self._kinds_of(namespace, turns)
        ]
        self.coverage = Coverage((kind.watch for kind in self._kinds), besides=self._besides)

    def _kinds_of(self, namespace: str | None, turns: asyncio.Semaphore) -> Iterable["_Kind"]:
        def watch(resource: Resource[Any], selector: str | None = None) -> ListWatch[Any]:
            return ListWatch(self._kube, resource, namespace=namespace, list_field_selector=selector, turns=turns)

        known = self._projection
        yield _Kind(watch(STORIES), known.story, known.story_gone)
        yield _Kind(watch(TRANSPORT_BINDINGS), known.binding, known.binding_gone)
        yield _Kind(watch(STEP_RUNS, UNFINISHED), known.step_run, known.step_run_gone)
        yield _Kind(watch(STORY_RUNS, UNFINISHED), known.story_run, None)

    def _waits(self) -> None:
        self.last_waited = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Watch until `drain`."""
        try:
            async with self._facts, asyncio.TaskGroup() as tasks:
                self._watching = tasks.create_task(self._watch())
        finally:
            self._ended.set()

    async def drain(self, budget: float) -> None:
        """Watch no more, and let the facts that are on their way arrive, for `budget` seconds at the most."""
        if self._watching is None:
            return  # NATS was not there yet to begin with
        self._watching.cancel()
        try:
            async with asyncio.timeout(budget):
                await self._ended.wait()
        except TimeoutError:
            # Nothing is lost: what holds is said by the next watcher, or by another one that runs.
            log.warning("facts unsaid at the end", budget=budget)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as watching:
                    for kind in self._kinds:
                        watching.create_task(kind.watch.run(partial(self._changed, kind)))
                    watching.create_task(self._tick())
                    watching.create_task(self._measure())
            except* Rewound as rewound:
                log.warning("etcd was restored from a backup: starting over", found=str(rewound.exceptions[0]))
                self._start_over()

    async def _changed(self, kind: "_Kind", change: Change[Any]) -> None:
        match change:
            case Relisted(items=items, missing=missing):
                touched = set()
                fresh = [] if kind.drop else [item.metadata.key for item in items if not self._knows(item)]
                for gone in missing:  # first, since a name may be in use again
                    if kind.drop:
                        touched.update(kind.drop(gone.key))
                    elif gone.key in self._projection.known_runs():  # not one that has finished
                        await self._vanished(gone)
                for item in items:
                    touched.update(kind.take(item))
                fresh = [key for key in fresh if self.coverage.covers(key[0])]
                await recall(fresh, self._projection, self._facts)
                await self._touched(touched)
                await self._listed(kind.watch.namespace, kind.watch)
            case Changed(object=item):
                await self._touched(kind.take(item))
            case Removed(object=item) if kind.drop:
                await self._touched(kind.drop(item.metadata.key))
            case Removed(object=item):
                await self._deleted(item.metadata.key, item.metadata.uid)
            case Missing(key=key) if kind.drop:
                await self._touched(kind.drop(key))
            case Missing():
                await self._vanished(change)

    def _knows(self, run: StoryRun) -> bool:
        known = self._projection.snapshot(run.metadata.key)
        return known is not None and known.run.uid == run.metadata.uid

    async def signals_heard(self) -> None:
        """Every signal that is in the stream has been given to `on_signal`."""
        self._besides = ()
        for namespace in self.coverage.namespaces:
            await self._listed(namespace, _SIGNALS)

    async def _listed(self, namespace: str | None, what: object) -> None:
        """Once every kind of a namespace has been listed, and the signals: recall what the stream knows, then say what
        holds.
        """
        coverage, projection = self.coverage, self._projection
        if not coverage.listed(namespace, what):
            return
        await recall([key for key in projection.known_runs() if namespace in (None, key[0])], projection, self._facts)
        coverage.cover(namespace)
        self.live.set()
        # Runs elsewhere may have waited for Stories that are here.
        runs = [key for key in projection.known_runs() if namespace in (None, *projection.namespaces(key))]
        log.info("watching", namespace=namespace, unfinished_runs=len(runs))
        await self._touched(runs)

    async def _touched(self, keys: Iterable[Key]) -> None:
        """Project these runs and say what begins to hold."""
        for key in keys:
            if not self.coverage.covers(*self._projection.namespaces(key)):
                continue
            now = datetime.now(UTC)
            projected = self._projection.project(key, now)
            if projected is not None:
                previous, current = projected
                late = self._lateness.see(previous, current, now)
                for fact in facts_between(previous, current):
                    await self._facts.say(fact, current, late if fact is Fact.RUN_TERMINAL else None)

    async def _vanished(self, missing: Missing) -> None:
        """A relist does not show the run: it may be finished, which the list leaves out, or deleted."""
        read = partial(self._read, missing.key)
        try:
            run = await insist("read a run that a list left out", read, on_failure=self._waits)
        except Undecodable as error:
            log.warning("StoryRun not usable", error=str(error))
            self._forget(missing.key)  # until the watch shows one that is
            return
        if run is None or run.metadata.uid != missing.uid:
            await self._deleted(missing.key, missing.uid)  # and made anew, perhaps, under the same name
        if run is not None:
            await self._touched(self._projection.story_run(run))

    async def _read(self, key: Key) -> StoryRun | None:
        """The run, if it is there. Raises Undecodable, and ApiUnavailable for any refusal: then it is asked again."""
        try:
            return await self._kube.get(STORY_RUNS, *key)
        except NotFound:
            return None
        except ApiError as error:  # such as 403 while the permissions of a restarted server are on their way
            raise ApiUnavailable(str(error)) from error

    async def _deleted(self, key: Key, uid: str) -> None:
        known = self._projection.snapshot(key)
        if known is not None and known.run.uid != uid:
            return  # the news of an older run of this name
        last = self._forget(key)
        if last is not None and last.realtime:
            await self._facts.say(Fact.RUN_DELETED, last)

    def _forget(self, key: Key) -> Snapshot | None:
        """Know the run no more; its last snapshot, if it had one."""
        self._lateness.forget(key)
        return self._projection.run_gone(key)

    async def on_signal(self, delivery: Delivery) -> Ack:
        """Somebody says that a topology is gone, or up again. The stream keeps it: what follows need not be said yet.

        What is no signal is nothing to this watcher; `signal_check` sets it aside, once for all of them.
        """
        with suppress(PoisonEvent):
            signal = read_signal(delivery.subject, delivery.headers, delivery.data)
            if not signal.is_ahead_of(delivery.timestamp):
                await self._touched(self._projection.signal(signal))
        return Ack()

    async def _measure(self) -> None:
        await self.live.wait()
        while True:
            await asyncio.sleep(_TICK)
            canceled = map(self._projection.snapshot, self._projection.canceled())
            measure_stops(filter(None, canceled), self._lateness, datetime.now(UTC))

    async def _tick(self) -> None:
        """Look again at what time alone changes, and at every sweep offer what holds."""
        sweep = self._settings.sweep_interval.total_seconds()
        loop = asyncio.get_running_loop()
        next_sweep = loop.time() + sweep
        await self.live.wait()
        while True:
            await asyncio.sleep(min(_TICK, sweep))
            await self._touched(self._projection.canceled())
            if loop.time() >= next_sweep:
                next_sweep = loop.time() + sweep
                self._projection.forget_signals(datetime.now(UTC))
                await self._offer(self._projection.canceled())

    async def _offer(self, keys: Iterable[Key]) -> None:
        for key in keys:
            snapshot = self._projection.snapshot(key)
            if snapshot is not None:
                for fact in standing(snapshot):
                    await self._facts.say(fact, snapshot)
