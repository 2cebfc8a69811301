"""Carries out what a watcher asks for: writes and reads of the stream RUNS, and reads of StoryRuns."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

import structlog
from msgspec.structs import replace

from exeunt.bus import publisher
from exeunt.bus.connection import Bus
from exeunt.bus.errors import ApiRefused, BusUnavailable, PublishRefused
from exeunt.bus.publisher import message_at, publish
from exeunt.bus.recall import recalled, snapshot_of
from exeunt.bus.streams import STREAM_NOT_FOUND
from exeunt.events.codec import event_message
from exeunt.events.event_types import EventType, cancellation_of
from exeunt.events.subjects import RUNS
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, NotFound, Undecodable
from exeunt.kube.resources import STORY_RUNS
from exeunt.process.insist import insist
from exeunt.run import bobrapet
from exeunt.run.models import StoryRun
from exeunt.run.snapshot import Snapshot
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.metrics import EVENTS_PUBLISHED, STOP_LATENESS
from exeunt.telemetry.tracing import sending
from exeunt_watcher.commands import (
    AlreadyStored,
    Answer,
    GetRun,
    GetStream,
    MessageAt,
    MessageRead,
    Publish,
    Question,
    Recall,
    Recalled,
    Refused,
    RunRead,
    RunUndecodable,
    Stored,
    StreamRead,
)
from exeunt_watcher.offers import StreamState

SOURCE: Final = "/exeunt/watcher"
_PUBLISH_DEADLINE: Final = 30.0
"""Seconds for one attempt to publish, with its own retries, before the log says that it is still to be done."""

T = TypeVar("T")
log = structlog.get_logger()


class Calls:
    """Each call is made until it is answered. `on_failure` hears of every try that a dependency did not answer."""

    def __init__(self, kube: KubeClient, bus: Bus, *, on_failure: Callable[[], None]) -> None:
        self._kube = kube
        self._bus = bus
        self._on_failure = on_failure

    async def answer(self, asked: Question) -> Answer:
        """In a task of its own, whose log lines tell the run."""
        match asked:
            case GetRun(key):
                try:
                    return RunRead(asked, await self._insist("read a run that a list left out", self._read, key))
                except Undecodable as error:
                    log.warning("StoryRun not usable", error=str(error))
                    return RunUndecodable(asked)
            case Publish(event_type, snapshot):
                bind_run(snapshot.run.cancellation)
                try:
                    return await self._insist(f"publish {event_type}", self._publish, asked, datetime.now(UTC))
                except PublishRefused as error:  # one run's object that is too large must not end the watcher of all
                    log.error("event refused", event_type=event_type, error=str(error))  # noqa: TRY400 - no bug of ours
                    return Refused(asked)
            case Recall(event_type, snapshot):
                bind_run(snapshot.run.cancellation)
                of = cancellation_of(event_type, snapshot.run)
                return Recalled(asked, await self._insist(f"recall {event_type}", recalled, self._bus, of, event_type))
            case MessageAt(sequence, other):
                bind_run(other.snapshot.run.cancellation)
                found = await self._insist("see what is stored in its place", message_at, self._bus, RUNS, sequence)
                return MessageRead(asked, snapshot_of(found))
            case GetStream():
                return StreamRead(asked, await self.look_at_stream())

    async def look_at_stream(self) -> StreamState | None:
        """None where there is none."""
        return await self._insist("look at the stream", self._look_at_stream)

    async def _insist(self, what: str, call: Callable[..., Awaitable[T]], *arguments: object) -> T:
        return await insist(what, partial(call, *arguments), on_failure=self._on_failure)

    async def _read(self, key: tuple[str, str]) -> StoryRun | None:
        """The run, if it is there. Raises Undecodable, and ApiUnavailable for any refusal: then it is asked again."""
        try:
            return await self._kube.get(STORY_RUNS, *key)
        except NotFound:
            return None
        except ApiError as error:  # such as 403 while the permissions of a restarted server are on their way
            raise ApiUnavailable(str(error)) from error

    async def _look_at_stream(self) -> StreamState | None:
        """Raises BusUnavailable."""
        try:
            info = await self._bus.api(f"STREAM.INFO.{RUNS}")
        except ApiRefused as refused:
            if refused.err_code == STREAM_NOT_FOUND:
                return None
            raise BusUnavailable(str(refused)) from refused
        state = info["state"]
        return StreamState(info["created"], state["first_seq"], state["last_seq"], state.get("num_deleted", 0))

    async def _publish(self, asked: Publish, now: datetime) -> Stored | AlreadyStored:
        """Somebody else having published it is success."""
        event_type, snapshot, late = asked.event_type, asked.snapshot, asked.late
        with sending(event_type, snapshot) as hop:
            message = event_message(event_type, snapshot, source=SOURCE, now=now, context=hop.headers)
            message = replace(message, expected_last_subject_sequence=asked.after)
            try:
                answer = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE, tells=True)
            except BusUnavailable:
                hop.drop()  # the try that succeeds is the hop
                raise
            if isinstance(answer, publisher.AlreadyStored):
                hop.drop()
                return AlreadyStored(asked, answer.sequence)
            EVENTS_PUBLISHED.add(fact=str(event_type))
            if late is not None:
                STOP_LATENESS.record(late.by.total_seconds(), cause=late.cause, ended_by=late.ended_by)
            log.info(event_type, sequence=answer.sequence, gone=snapshot.topology.gone and snapshot.topology.gone.kind)
            if event_type is EventType.CANCEL_REQUESTED:
                _warn(snapshot)
            return Stored(asked, answer.sequence)


def _warn(snapshot: Snapshot) -> None:
    """Of what people wrote and nobody can follow: once for each stop, by the watcher that was first to publish it."""
    for rejected in snapshot.shutdown.rejected:
        log.warning("shutdown timeout not usable", rule=rejected.rule, value=rejected.value, why=rejected.why)
    for written_by, value in (("StoryRun", snapshot.run.enabled_unclear), ("Story", snapshot.story.enabled_unclear)):
        if value is not None:
            why = f'{bobrapet.ENABLED} is neither "true" nor "false": it counts as absent'
            log.warning("opt-out not readable", rule=f"{written_by} annotation", value=value, why=why)
