"""The net below the events: the deadlines compared with the unfinished canceled runs of the cluster.

On boot and at every sweep interval each open stop is armed if it is not, so an emptied stream costs nothing but time.
A run that is still unfinished well after its deadline is published as overdue, whatever became of the first event: it
may have been lost, set aside, or etcd may have been restored from before the stop. `sweeping` says what is listed,
`machine` what is done for each run.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from exeunt.cancelled import as_own_task
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable
from exeunt.kube.resources import STORY_RUNS
from exeunt.run.bobrapet import UNFINISHED
from exeunt.run.models import StoryRun
from exeunt.settings import Settings
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.tracing import Hop, sweeping
from exeunt_timeout_scheduler.calls import AWAY
from exeunt_timeout_scheduler.commands import DeadLetter, End, Found, GetStory, Input, Question, StoryRead
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.measures import DONE, render
from exeunt_timeout_scheduler.sweeping import GiveUp, List, Listed, LookAfter, NotListed, Sweeping

_AT_ONCE: Final = 16
"""Namespaces listed and runs looked after in parallel, so that a sweep does not crowd out the stops themselves."""

log = structlog.get_logger()


class Answers(Protocol):
    """Who carries out what a deadline asks for, as `Calls` does."""

    async def answer(self, asked: Question, hop: Hop, /) -> Input:
        """Raises those of AWAY."""

    async def get_story(self, asked: GetStory, /) -> StoryRead:
        """Raises ApiUnavailable."""


class Sweep:
    """Compares deadlines with StoryRuns."""

    def __init__(self, kube: KubeClient, calls: Answers, settings: Settings) -> None:
        self._kube = kube
        self._settings = settings
        self._calls = calls
        self.last_progress = float("inf")
        """Loop time of its last sign of life; infinite before `run`: what has not begun cannot be stuck."""

    async def run(self) -> None:
        """Sweep at once and then at every interval, until cancelled. A sweep that fails is tried at the next one."""
        while True:
            self._moves()
            try:
                await as_own_task(self._sweep())
            except* AWAY as errors:
                log.warning("sweep not done", error=str(errors.exceptions[0]))
            await asyncio.sleep(self._settings.sweep_interval.total_seconds())

    async def _sweep(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            _OneSweep(self._kube, self._calls, self._settings, tasks, self._moves).begin()

    def _moves(self) -> None:
        self.last_progress = asyncio.get_running_loop().time()


class _OneSweep:
    """Looks after every canceled run. A dependency that is away ends it: each of them would wait for the same."""

    def __init__(
        self, kube: KubeClient, calls: Answers, settings: Settings, tasks: asyncio.TaskGroup, moves: Callable[[], None]
    ) -> None:
        self._kube = kube
        self._calls = calls
        self._settings = settings
        self._tasks = tasks
        self._moves = moves
        self._sweeping = Sweeping(settings.namespaces)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._stories: dict[GetStory, asyncio.Task[StoryRead]] = {}

    def begin(self) -> None:
        for asked in self._sweeping.begin():
            self._tasks.create_task(self._list(asked))

    async def _list(self, asked: List) -> None:
        pages = self._kube.pages(
            STORY_RUNS,
            asked.namespace,
            field_selector=UNFINISHED,
            retry=asked.patiently,
            optional=not asked.patiently,
        )
        async with self._slots, aclosing(pages):
            try:
                async for page in pages:
                    self._moves()
                    for undecodable in page.undecodable:
                        log.warning("StoryRun not usable", error=str(undecodable))
                    self._hear(Listed(tuple(page.items)))
            except (ApiError, ApiUnavailable) as error:
                self._moves()
                log.warning("StoryRuns not listed", namespace=asked.namespace, error=str(error))
                self._hear(NotListed(str(error), away=isinstance(error, ApiUnavailable)))

    def _hear(self, heard: Listed | NotListed) -> None:
        for command in self._sweeping.receive(heard):
            match command:
                case LookAfter(run):
                    self._tasks.create_task(self._look_after(run))
                case GiveUp(why):
                    raise ApiUnavailable(why)

    async def _look_after(self, run: StoryRun) -> None:
        settings, scheduling = self._settings, Scheduling()
        found = Found(run, settings.shutdown_timeout, settings.fence_wait, settings.overdue_after)
        async with self._slots:
            command = scheduling.receive(found, datetime.now(UTC))
            bind_run(scheduling.snapshot.run.cancellation)
            while isinstance(command, GetStory):  # outside of the span, which is dropped where nothing follows
                command = scheduling.receive(await self._story(command), datetime.now(UTC))
                self._moves()
            with sweeping(scheduling.snapshot) as hop:
                while not isinstance(command, End):
                    command = scheduling.receive(await self._calls.answer(command, hop), datetime.now(UTC))
                    self._moves()
                render(scheduling, hop)
                if not DONE.intersection(scheduling.trail):
                    hop.drop()
        if isinstance(command, DeadLetter):  # one run's object that is too large must not end the service of all
            log.error("deadline refused", error=command.why)

    def _story(self, asked: GetStory) -> asyncio.Task[StoryRead]:
        """Each Story is read once in a sweep, within a slot of whoever needs it first."""
        if asked not in self._stories:
            self._stories[asked] = self._tasks.create_task(self._calls.get_story(asked))
        return self._stories[asked]
