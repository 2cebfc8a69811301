"""Carries out what a deadline asks for: calls to the kube-apiserver, and messages on the streams RUNS and DEADLINES."""

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog
from msgspec.structs import replace

from exeunt.bus.connection import Bus
from exeunt.bus.errors import ApiRefused, BusUnavailable, PermissionDenied, PublishRefused
from exeunt.bus.publisher import Stored, last_message, publish
from exeunt.bus.streams import purge_subject
from exeunt.events.codec import event_message
from exeunt.events.event_types import EventType
from exeunt.events.messages import Message
from exeunt.events.subjects import DEADLINES, RUNS, TERMINATOR, armed_subject
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, NotFound, Undecodable
from exeunt.kube.resources import STORY_RUNS
from exeunt.kube.stories import find_story
from exeunt.run.snapshot import read_run, read_story
from exeunt.settings import Settings
from exeunt.telemetry.tracing import Hop
from exeunt_timeout_scheduler import commands
from exeunt_timeout_scheduler.commands import (
    AckFloor,
    Arm,
    Denied,
    Disarm,
    Failed,
    GetAckFloor,
    GetRun,
    GetStory,
    HeldUntil,
    Hold,
    Input,
    LastMessage,
    NoMessage,
    NotStored,
    Publish,
    Purged,
    Question,
    RunRead,
    StoryRead,
)
from exeunt_timeout_scheduler.deadlines import schedule

SOURCE: Final = "/exeunt/timeout-scheduler"
AWAY: Final = (ApiUnavailable, BusUnavailable)
"""Whatever is asked next would wait for the same."""
_PUBLISH_DEADLINE: Final = 20.0
"""Seconds to arm or to publish before the message that asked for it goes back to the stream."""
_LONGEST_SLEEP: Final = 1.0
"""Seconds. The clock on the wall may be set, and the loop's own does not know."""

log = structlog.get_logger()


async def hold(until: datetime) -> HeldUntil:
    """Sleep until then, or for a second."""
    remaining = (until - datetime.now(UTC)).total_seconds()
    await asyncio.sleep(min(max(0.0, remaining), _LONGEST_SLEEP))
    return HeldUntil()


class Calls:
    """The calls of any number of deadlines."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings) -> None:
        self._kube = kube
        self._bus = bus
        self._fence_wait = settings.fence_wait

    async def answer(self, asked: Question, hop: Hop) -> Input:
        """Raises those of AWAY; any other refusal is an answer."""
        try:
            return await self._ask(asked, hop.headers)
        except (ApiError, Undecodable) as error:
            hop.failed(error)
            return Failed(str(error))

    async def _ask(self, asked: Question, headers: dict[str, str]) -> Input:
        match asked:
            case Hold(until):
                return await hold(until)
            case GetRun():
                return await self.get_run(asked)
            case GetStory():
                return await self.get_story(asked)
            case Arm(deadline, at):
                return await self._store(schedule(deadline, at, headers))
            case Publish(snapshot, at, after):
                message = event_message(EventType.DEADLINE_REACHED, snapshot, source=SOURCE, now=at, context=headers)
                return await self._store(replace(message, expected_last_subject_sequence=after))
            case Disarm(run):
                return Purged(await purge_subject(self._bus, DEADLINES, armed_subject(run.cancellation)))
            case LastMessage() | GetAckFloor():
                try:
                    return await self._look_up(asked)
                except PermissionDenied as error:
                    log.error("what was published is not known", error=str(error))  # noqa: TRY400 - no bug of ours
                    return Denied(str(error))

    async def get_run(self, asked: GetRun) -> Input:
        """Raises ApiUnavailable, ApiError, Undecodable."""
        get = self._kube.get(STORY_RUNS, asked.run.namespace, asked.run.name)
        # At once: its deadline has come.
        found, read = await asyncio.gather(get, self.get_story(asked.story), return_exceptions=True)
        if isinstance(found, NotFound):
            return commands.NotFound()
        if isinstance(found, BaseException):
            raise found
        if isinstance(read, BaseException):
            raise read
        now = datetime.now(UTC)
        run = read_run(found, first_seen=asked.first_seen, now=now, fence_wait=self._fence_wait)
        return RunRead(run, read_story(found, read.story) if read.story else None)

    async def get_story(self, asked: GetStory | None) -> StoryRead:
        """Raises ApiUnavailable."""
        return StoryRead(await find_story(self._kube, asked.namespace, asked.name) if asked else None)

    async def _store(self, message: Message) -> Input:
        try:
            answer = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE, tells=True)
        except PublishRefused as error:
            return NotStored(str(error))
        return commands.Stored() if isinstance(answer, Stored) else commands.AlreadyStored()

    async def _look_up(self, asked: LastMessage | GetAckFloor) -> Input:
        if isinstance(asked, GetAckFloor):
            try:
                info = await self._bus.api(f"CONSUMER.INFO.{RUNS}.{TERMINATOR}")
            except ApiRefused:  # no terminator has ever been there
                return AckFloor(0)
            return AckFloor(info["ack_floor"]["stream_seq"])
        found = await last_message(self._bus, asked.stream, asked.subject)
        if found is None:
            return NoMessage()
        return commands.Message(found.sequence, found.timestamp, found.headers, found.data)
