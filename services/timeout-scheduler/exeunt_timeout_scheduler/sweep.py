"""The net below the events: the deadlines compared with the unfinished canceled runs of the cluster.

On boot and at every sweep interval each open stop is armed if it is not, so an emptied stream costs nothing but time.
A run that is still unfinished well after its deadline is said to be overdue once more, whatever became of the first
event: it may have been lost, set aside, or etcd may have been restored from before the stop.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog
from structlog.contextvars import bind_contextvars

from exeunt.bobrapet import UNFINISHED
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.publisher import last_message
from exeunt.events import Fact
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, NotFound, Undecodable
from exeunt.kube.models import Story, StoryRun
from exeunt.kube.resources import STORIES, STORY_RUNS
from exeunt.settings import Settings
from exeunt.snapshot import Snapshot, read_run, read_story, resolve_shutdown, story_key
from exeunt.subjects import RUNS, fact_subject
from exeunt.tracing import sweeping
from exeunt_timeout_scheduler.deadlines import closed
from exeunt_timeout_scheduler.scheduler import Scheduler

_AT_ONCE: Final = 16
"""Runs looked after in parallel, so that a sweep does not crowd out the stops themselves."""

log = structlog.get_logger()


class Sweep:
    """Compares deadlines with StoryRuns."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings, scheduler: Scheduler) -> None:
        self._kube = kube
        self._bus = bus
        self._settings = settings
        self._scheduler = scheduler
        self.last_progress = float("inf")
        """Loop time of its last sign of life; infinite before `run`: what has not begun cannot be stuck."""

    async def run(self) -> None:
        """Sweep at once and then at every interval, until cancelled. A sweep that fails is tried at the next one."""
        loop = asyncio.get_running_loop()
        while True:
            self.last_progress = loop.time()
            try:
                await self._sweep()
            except (ApiUnavailable, ApiError, BusUnavailable) as error:
                log.warning("sweep not done", error=str(error))
            await asyncio.sleep(self._settings.sweep_interval.total_seconds())

    async def _sweep(self) -> None:
        canceled: list[StoryRun] = []
        for namespace in self._settings.namespaces or (None,):
            listing = await self._kube.list(STORY_RUNS, namespace, field_selector=UNFINISHED)
            for error in listing.undecodable:
                log.warning("StoryRun not usable", error=str(error))
            canceled += [run for run in listing.items if run.spec.cancel_requested]
        stories = {key: await self._story(key) for key in {story_key(run) for run in canceled}}
        slots = asyncio.Semaphore(_AT_ONCE)

        async def look_after(run: StoryRun) -> None:
            async with slots:
                await self._look_after(run, stories[story_key(run)])

        answers = await asyncio.gather(*map(look_after, canceled), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _story(self, key: tuple[str, str]) -> Story | None:
        try:
            return await self._kube.get(STORIES, *key)
        except NotFound:
            return None
        except Undecodable as error:
            log.warning("Story not usable", error=str(error))
            return None

    async def _look_after(self, run: StoryRun, story: Story | None) -> None:
        now = datetime.now(UTC)
        snapshot = Snapshot(
            run=read_run(run, first_seen=now, now=now, fence_wait=self._settings.fence_wait),
            story=read_story(run, story),
            shutdown=resolve_shutdown(run, story, self._settings.shutdown_timeout),
        )
        bind_contextvars(run=str(snapshot.run.episode))
        deadline = snapshot.deadline
        if deadline is None or closed(snapshot) is not None:
            return  # a run without a Story is left to the watcher, who knows whether it streams
        last = await last_message(self._bus, RUNS, fact_subject(snapshot.run.episode, Fact.DEADLINE_REACHED))
        with sweeping(snapshot) as hop:
            if last is None:
                if not await self._scheduler.arm(snapshot, hop):
                    hop.drop()
            elif now - last.timestamp > self._settings.overdue_after:
                log.warning("overdue", said_at=last.timestamp.isoformat())
                hop.failed("overdue")
                await self._scheduler.say_reached(snapshot, hop, expected_last_sequence=last.sequence)
            else:
                hop.drop()
