"""The net below the events: the deadlines compared with the unfinished canceled runs of the cluster.

On boot and at every sweep interval each open stop is armed if it is not, so an emptied stream costs nothing but time.
A run that is still unfinished well after its deadline is said to be overdue once more, whatever became of the first
event: it may have been lost, set aside, or etcd may have been restored from before the stop. The shutdown timeout is
what the watcher said at the cancel, whatever became of the Story since; so is what a missing Story cannot tell.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog
from msgspec.structs import replace

from exeunt.bobrapet import UNFINISHED
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable, PermissionDenied, PublishRefused
from exeunt.bus.publisher import last_message
from exeunt.events import Fact
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, NotFound, Undecodable
from exeunt.kube.models import Story, StoryRun
from exeunt.kube.resources import STORIES, STORY_RUNS
from exeunt.logs import bind_run
from exeunt.recall import snapshot_of
from exeunt.settings import Settings
from exeunt.snapshot import Snapshot, read_run, read_story, resolve_shutdown, story_key
from exeunt.subjects import RUNS, fact_subject
from exeunt.tracing import sweeping
from exeunt_timeout_scheduler.deadlines import closed, say_again_at
from exeunt_timeout_scheduler.scheduler import Scheduler

_AT_ONCE: Final = 16
"""Stories read and runs looked after in parallel, so that a sweep does not crowd out the stops themselves."""

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
        while True:
            self._moves()
            try:
                await self._sweep()
            except* (ApiUnavailable, BusUnavailable) as errors:
                log.warning("sweep not done", error=str(errors.exceptions[0]))
            await asyncio.sleep(self._settings.sweep_interval.total_seconds())

    def _moves(self) -> None:
        self.last_progress = asyncio.get_running_loop().time()

    async def _sweep(self) -> None:
        """Look after every canceled run. A dependency that is away ends it: each of them would wait for the same."""
        canceled = await self._canceled()
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            stories = {key: tasks.create_task(self._story(key, slots)) for key in {story_key(run) for run in canceled}}
            for run in canceled:
                tasks.create_task(self._look_after(run, stories[story_key(run)], slots))

    async def _canceled(self) -> list[StoryRun]:
        """The unfinished canceled runs of all namespaces. Raises ApiUnavailable when none of them can be listed."""
        slots, listed = asyncio.Semaphore(_AT_ONCE), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            lists = [
                tasks.create_task(self._canceled_in(namespace, slots, listed))
                for namespace in self._settings.namespaces or (None,)
            ]
        return [run for each in lists for run in each.result()]

    async def _canceled_in(
        self, namespace: str | None, slots: asyncio.Semaphore, listed: asyncio.Event
    ) -> list[StoryRun]:
        """Those of one namespace. What is refused there, or fails while others are `listed`, is told and no more: the
        others do not wait for it, and the next sweep asks again.
        """
        several = len(self._settings.namespaces) > 1
        async with slots:
            try:
                listing = await self._kube.list(
                    STORY_RUNS, namespace, field_selector=UNFINISHED, retry=not several, optional=several
                )
            except (ApiError, ApiUnavailable) as error:
                if isinstance(error, ApiUnavailable) and not listed.is_set():
                    raise
                log.warning("StoryRuns not listed", namespace=namespace, error=str(error))
                return []
            finally:
                self._moves()
        listed.set()
        for undecodable in listing.undecodable:
            log.warning("StoryRun not usable", error=str(undecodable))
        return [run for run in listing.items if run.spec.cancel_requested]

    async def _story(self, key: tuple[str, str], slots: asyncio.Semaphore) -> Story | None:
        """A Story; None when it is missing, and also when it is refused (another's namespace) or unreadable."""
        async with slots:
            try:
                return await self._kube.get(STORIES, *key, optional=True)
            except NotFound:
                return None
            except (ApiError, Undecodable) as error:
                log.warning("Story not usable", story="/".join(key), error=str(error))
                return None
            finally:
                self._moves()

    async def _look_after(self, run: StoryRun, story: asyncio.Task[Story | None], slots: asyncio.Semaphore) -> None:
        found = await story
        async with slots:
            try:
                await self._compare(run, found)
            except PublishRefused as error:  # one run's object that is too large must not end the service of all
                log.error("deadline refused", run=run.metadata.key, error=str(error))  # noqa: TRY400 - no bug of ours
            self._moves()

    async def _compare(self, run: StoryRun, story: Story | None) -> None:
        now = datetime.now(UTC)
        snapshot = Snapshot(
            run=read_run(run, first_seen=now, now=now, fence_wait=self._settings.fence_wait),
            story=read_story(run, story),
            shutdown=resolve_shutdown(run, story, self._settings.shutdown_timeout),
        )
        bind_run(snapshot.run.episode)
        snapshot = await self._as_told(snapshot)
        deadline = snapshot.deadline
        if deadline is None or closed(snapshot) is not None:
            return  # also a run without a Story of which nobody has told that it streams
        last = await last_message(self._bus, RUNS, fact_subject(snapshot.run.episode, Fact.DEADLINE_REACHED))
        with sweeping(snapshot) as hop:
            if last is None:
                if not await self._scheduler.arm(snapshot, hop):
                    hop.drop()
            elif now > say_again_at(deadline, last.timestamp, self._settings.overdue_after):
                log.warning("overdue", said_at=last.timestamp.isoformat())
                hop.failed("overdue")
                await self._scheduler.say_reached(snapshot, hop, expected_last_sequence=last.sequence)
            else:
                hop.drop()

    async def _as_told(self, snapshot: Snapshot) -> Snapshot:
        """The same with what a watcher said at the cancel, if it did: its shutdown timeout, and, where the Story is
        missing, that there was one, or that the run streams.
        """
        subject = fact_subject(snapshot.run.episode, Fact.CANCEL_REQUESTED)
        try:
            told = snapshot_of(await last_message(self._bus, RUNS, subject))
        except PermissionDenied as error:  # permissions of an older version
            log.error("what was said at the cancel is not known", error=str(error))  # noqa: TRY400 - no bug of ours
            return snapshot
        if told is None:
            return snapshot
        if snapshot.story.resource_version is None:
            snapshot = replace(snapshot, story=told.story, streams=told.streams)
        return replace(snapshot, shutdown=told.shutdown)
