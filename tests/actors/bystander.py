"""Reads the streams of Exeunt as anyone may who is let in: what was published about a run, and whether all of it is
answered.

It writes nothing and takes nothing away. What it reads are the events that the services publish; it uses their types
(`exeunt.events.codec`), because those are the interface.
"""

import asyncio
from dataclasses import dataclass
from typing import Self

import msgspec
import nats
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from exeunt.events.codec import read_event
from exeunt.events.event_types import EventType, Outcome
from exeunt.run.snapshot import Snapshot

# In the order in which work is passed on: what one had when it was asked is with a later one, or done, when all were.
CONSUMERS = (("RUNS", "timeout-scheduler"), ("DEADLINES", "timeout-scheduler-due"), ("RUNS", "terminator"))
_POLL = 0.01


@dataclass(frozen=True)
class Recorded:
    """One event of RUNS: an event with its snapshot, or (`event_type` was answered by it) an outcome."""

    sequence: int
    subject: str
    cancellation: str
    event_type: EventType
    snapshot: Snapshot | None = None
    outcome: Outcome | None = None


class Bystander:
    """Entered as an async context manager."""

    def __init__(self, nats_url: str) -> None:
        self._nats_url = nats_url
        self._connection: Client | None = None

    @property
    def streams(self) -> JetStreamContext:
        assert self._connection is not None
        return self._connection.jetstream()

    async def __aenter__(self) -> Self:
        self._connection = await nats.connect(self._nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        await self._connection.close()

    async def history(self, uid: str) -> list[Recorded]:
        """What RUNS holds of one run, in order; nothing where there is no such stream."""
        recorded: list[Recorded] = []
        sequence = 1
        while True:
            try:
                message = await self.streams.get_msg("RUNS", seq=sequence, subject=_of(uid), next=True, direct=True)
            except (NotFoundError, NatsTimeoutError):
                return recorded
            assert message.seq is not None
            assert message.subject is not None
            sequence = message.seq + 1
            recorded.append(_read(message.seq, message.subject, message.headers or {}, message.data or b""))

    async def event_types(self, uid: str) -> list[EventType]:
        """The events that were said of one run, in order, outcomes left out."""
        return [recorded.event_type for recorded in await self.history(uid) if recorded.outcome is None]

    async def outcomes(self, uid: str) -> list[tuple[EventType, str]]:
        """Each event that was answered, with the rule that decided, in order."""
        return [
            (recorded.event_type, recorded.outcome.rule)
            for recorded in await self.history(uid)
            if recorded.outcome is not None
        ]

    async def wait_for_event(
        self, uid: str, event_type: EventType, within: float = 10, *, cancel_observed_at: str | None = None
    ) -> Recorded:
        """The first event of type `event_type`, in the cancellation of `cancel_observed_at` where that is given.

        AssertionError tells what was published instead.
        """
        return await self._wait_for(uid, event_type, within, cancel_observed_at, outcome=False)

    async def wait_for_outcome(
        self, uid: str, event_type: EventType, within: float = 10, *, cancel_observed_at: str | None = None
    ) -> Recorded:
        """The first outcome of `event_type`, as `wait_for_event` does it for the event itself."""
        return await self._wait_for(uid, event_type, within, cancel_observed_at, outcome=True)

    async def wait_until_answered(
        self, uid: str, event_type: EventType, within: float = 10, *, cancel_observed_at: str | None = None
    ) -> None:
        """Returns when the terminator has acknowledged the first event of that type, or answers something before it.

        Of a cancel while the topology is up there is no outcome: nothing is done about it.
        """
        event = await self.wait_for_event(uid, event_type, within, cancel_observed_at=cancel_observed_at)
        try:
            async with asyncio.timeout(within):
                while not await self._has_acknowledged(event.sequence):  # noqa: ASYNC110 - the world
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"{event_type} not answered within {within:g} s") from None

    async def waits(self, uid: str, within: float = 10) -> bool:
        """Whether the run is left as it is when its cancel has been heard: because its topology is up, and no rule says
        otherwise.
        """
        event = await self.wait_for_event(uid, EventType.CANCEL_REQUESTED, within)
        await self.wait_until_answered(uid, EventType.CANCEL_REQUESTED, within)
        assert event.snapshot is not None
        answers = [cause for cause, _ in await self.outcomes(uid)]
        return event.snapshot.topology.gone is None and EventType.CANCEL_REQUESTED not in answers

    async def _has_acknowledged(self, sequence: int) -> bool:
        try:
            info = await self.streams.consumer_info("RUNS", "terminator")
        except (JetStreamError, NatsTimeoutError):
            return False
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        return floor >= sequence or (await self._is_idle("RUNS", "terminator"))

    async def _wait_for(
        self, uid: str, event_type: EventType, within: float, cancel_observed_at: str | None, *, outcome: bool
    ) -> Recorded:
        history: list[Recorded] = []
        cancellation = cancel_observed_at and cancel_observed_at.replace(".", "_")
        try:
            async with asyncio.timeout(within):
                while True:
                    history = await self.history(uid)
                    for recorded in history:
                        about = recorded.event_type is event_type and cancellation in (None, recorded.cancellation)
                        if about and (recorded.outcome is not None) == outcome:
                            return recorded
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            heard = ", ".join(
                f"{'outcome of ' if recorded.outcome else ''}{recorded.event_type}" for recorded in history
            )
            kind = "outcome of " if outcome else ""
            raise AssertionError(f"no {kind}{event_type} within {within:g} s; said: {heard or 'nothing'}") from None

    async def wait_until_idle(self, within: float = 10) -> None:
        """Returns when every event so far has been answered for good.

        A schedule that is armed for later is not waited for. Raises AssertionError with what is left.
        """
        left: list[str] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    left = [name for stream, name in CONSUMERS if not await self._is_idle(stream, name)]
                    if not left:
                        return
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"still at work after {within:g} s: {', '.join(left)}") from None

    async def _is_idle(self, stream: str, consumer: str) -> bool:
        try:
            info = await self.streams.consumer_info(stream, consumer)
        except (JetStreamError, NatsTimeoutError):
            return False  # it is being made anew
        return not info.num_pending and not info.num_ack_pending

    async def armed(self, uid: str) -> int:
        """How many schedules are pending for a run."""
        subject = f"exeunt.deadlines.armed.*.*.{uid}.*"
        info = await self.streams.stream_info("DEADLINES", subjects_filter=subject)
        return sum((info.state.subjects or {}).values())

    async def wait_until_none_armed(self, uid: str, within: float = 10) -> None:
        """Returns when no schedule is pending for a run: it was disarmed, or it has fired."""
        try:
            async with asyncio.timeout(within):
                while await self.armed(uid):  # noqa: ASYNC110 - the world
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"a schedule still after {within:g} s") from None

    async def wait_until_armed(self, uid: str, within: float = 10) -> None:
        """Returns when a schedule is pending for a run; AssertionError when there is none in time."""
        try:
            async with asyncio.timeout(within):
                while not await self.armed(uid):  # noqa: ASYNC110 - the world
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"no schedule within {within:g} s") from None


def _of(uid: str) -> str:
    return f"exeunt.runs.*.*.{uid}.>"


def _read(sequence: int, subject: str, headers: dict[str, str], data: bytes) -> Recorded:
    cancellation, *what = subject.split(".")[5:]
    if what[0] == "outcome":
        outcome = msgspec.json.decode(data, type=Outcome)
        return Recorded(sequence, subject, cancellation, EventType(what[1]), outcome=outcome)
    event = read_event(headers, data)
    return Recorded(sequence, subject, cancellation, event.event_type, snapshot=event.snapshot)
