"""Sees what happens to runs, by watches of its own: every figure is the time between two moments that it saw.

It sees what a bystander of the cluster would see. So a figure holds the same delivery of a watch event at both ends,
and nothing that a service says of itself.
"""

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, Self

from bench.api import Api
from bench.floor import follow
from bench.world import STEPS
from exeunt.kube.resources import STEP_RUNS, STORY_RUNS, TRANSPORT_BINDINGS
from exeunt.run.bobrapet import CANCEL_OBSERVED_AT, is_terminal

Key = tuple[str, str]
"""Namespace and name of a run."""


class Moment(NamedTuple):
    """When something was seen: on a clock for differences (seconds), and on the one that deadlines go by."""

    clock: float
    wall: datetime

    @classmethod
    def now(cls) -> Self:
        return cls(time.perf_counter(), datetime.now(UTC))


class Sighting:
    """What was seen of one run, each moment a future until then.

    `running`: all of its StepRuns and TransportBindings. `observed_cancel`: cancel_observed_at. `gone`: its last
    TransportBinding deleted. `ended`: a terminal phase. `cleaned_up`: its last StepRun deleted.
    """

    def __init__(self) -> None:
        moment = asyncio.get_running_loop().create_future
        self.running: asyncio.Future[Moment] = moment()
        self.observed_cancel: asyncio.Future[Moment] = moment()
        self.gone: asyncio.Future[Moment] = moment()
        self.ended: asyncio.Future[Moment] = moment()
        self.cleaned_up: asyncio.Future[Moment] = moment()
        self.bindings: set[str] = set()
        self.step_runs: set[str] = set()


class Observer:
    """Watches all namespaces, from the moment it is entered as an async context manager."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._sightings: defaultdict[Key, Sighting] = defaultdict(Sighting)
        self._watching = asyncio.Barrier(4)
        self._running: asyncio.Task[None] | None = None

    def of(self, key: Key) -> Sighting:
        return self._sightings[key]

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._watch(), name="observer")
        async with asyncio.timeout(30):
            await self._watching.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._running is not None
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running  # which raises what has ended it before its time

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_story_runs())
            tasks.create_task(self._watch_step_runs())
            tasks.create_task(self._watch_bindings())

    async def _watch_story_runs(self) -> None:
        async for run, _ in follow(self._api, STORY_RUNS, None, self._watching):
            sighting = self.of(run.metadata.key)
            if CANCEL_OBSERVED_AT in run.metadata.annotations:
                _seen(sighting.observed_cancel)
            if run.status is not None and is_terminal(run.status.phase):
                _seen(sighting.ended)

    async def _watch_step_runs(self) -> None:
        async for step_run, deleted in follow(self._api, STEP_RUNS, None, self._watching):
            meta = step_run.metadata
            sighting = self.of((meta.namespace, step_run.spec.story_run_ref.name))
            _count(sighting, sighting.step_runs, meta.name, sighting.cleaned_up, deleted=deleted)

    async def _watch_bindings(self) -> None:
        async for binding, deleted in follow(self._api, TRANSPORT_BINDINGS, None, self._watching):
            meta, reference = binding.metadata, binding.spec.story_run_ref
            if reference is not None and reference.name is not None:
                sighting = self.of((meta.namespace, reference.name))
                _count(sighting, sighting.bindings, meta.name, sighting.gone, deleted=deleted)


def _count(sighting: Sighting, there: set[str], name: str, none_left: asyncio.Future[Moment], *, deleted: bool) -> None:
    if not deleted:
        there.add(name)
        if len(sighting.step_runs) == len(sighting.bindings) == len(STEPS):
            _seen(sighting.running)
        return
    there.discard(name)
    if not there:
        _seen(none_left)


def _seen(moment: asyncio.Future[Moment]) -> None:
    if not moment.done():
        moment.set_result(Moment.now())
