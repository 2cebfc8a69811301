"""Storing a message exactly once, however often it takes, and reading single messages back.

An event is unique by its subject: with `expected_last_subject_sequence=0` only the first message on it is
stored, and everybody else learns who was first. That also makes every retry safe: a try that timed out may
have been stored, and the next try then finds it. `connection` supplies requests and errors, `streams` the
streams.
"""

import asyncio
import contextlib
import re
from datetime import datetime

import msgspec
import nats.errors
import structlog

from exeunt.back_off import BackOff
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusError, BusUnavailable, NoResponders, PermissionDenied, PublishRefused
from exeunt.bus.hearsay import tell
from exeunt.bus.unanswered import asked_of
from exeunt.bus.unstored import Word
from exeunt.events.messages import Message
from exeunt.telemetry.metrics import NATS_ERRORS

WRONG_LAST_SEQUENCE = 10071
WRONG_LAST_SEQUENCE_UNKNOWN = 10164  # a rival's message is being replicated; its sequence is not known yet

_BACK_OFF = BackOff(0.1, 2)
_TELLING = 1.0  # seconds for a connection over which to tell of what is not stored
_RECREATE_PATIENCE = 1.0  # seconds for looking after a missing stream between two tries

log = structlog.get_logger(__name__)


class Stored(msgspec.Struct, frozen=True):
    """The message was stored by the call that returns this."""

    sequence: int


class AlreadyStored(msgspec.Struct, frozen=True):
    """Another message, or an earlier try of this one, holds the place at `sequence` (0: a deleted one)."""

    sequence: int


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message read back. `headers` has lower-case keys; `timestamp` is the server's, in UTC."""

    subject: str
    sequence: int
    headers: dict[str, str]
    data: bytes
    timestamp: datetime


class _PubError(msgspec.Struct, frozen=True):
    code: int
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, frozen=True):
    seq: int = 0
    duplicate: bool = False
    error: _PubError | None = None


_pub_ack = msgspec.json.Decoder(_PubAck)


async def publish(bus: Bus, message: Message, *, deadline: float, tells: bool = False) -> Stored | AlreadyStored:
    """Store `message`, trying again with back-off and jitter until `deadline` seconds have passed.

    When its stream is missing, `bus.recreate_streams` is called once per try. `tells`: stops wait for this, so while it
    is not stored the terminators are told (`unstored`). Raises BusUnavailable (whether it was stored is not known),
    PublishRefused (it never will be), PermissionDenied, BusClosed.
    """
    clock = asyncio.get_running_loop().time
    since, failures = clock(), 0
    until = since + deadline
    last: BusUnavailable | None = None
    while (left := until - clock()) > 0:
        # Tries are short: what was asked of a leader that is no more is not worth waiting for.
        patience = 2.0 if failures else 1.0
        try:
            answer = await _publish_once(bus, message, min(patience, left))
        except BusUnavailable as unavailable:
            last = unavailable
        else:
            if tells and message.subject in bus.unstored:
                await tell(bus, Word(message))
            return answer
        await asyncio.sleep(max(0.0, min(_BACK_OFF.wait(failures), until - clock())))
        failures += 1
        if tells:
            # Before the next try, since nobody may answer that for seconds; over the connection that there is by now.
            with contextlib.suppress(BusUnavailable):
                await bus.wait_connected(min(_TELLING, until - clock()))
            await tell(bus, Word(message, str(last), clock() - since))
    if bus.is_denied(message.subject, since=since):
        raise PermissionDenied(f"permission denied for subject {message.subject}") from last
    raise BusUnavailable(f"not stored on {message.subject} within {deadline:g} s: {last or 'no answer'}") from last


async def publish_own(bus: Bus, stream: str, message: Message, *, deadline: float) -> Stored | AlreadyStored:
    """The same, but that an earlier try counts as stored: AlreadyStored is another message."""
    answer = await publish(bus, message, deadline=deadline)
    if isinstance(answer, AlreadyStored):
        there = await last_message(bus, stream, message.subject)
        if there is not None and there.data == message.payload:
            return Stored(there.sequence)
    return answer


async def _publish_once(bus: Bus, message: Message, patience: float) -> Stored | AlreadyStored:
    headers, since = message.headers, asyncio.get_running_loop().time()
    if message.expected_last_subject_sequence is not None:
        expected = str(message.expected_last_subject_sequence)
        headers = headers | {"Nats-Expected-Last-Subject-Sequence": expected}
    try:
        reply = await bus.request(message.subject, message.payload, timeout=patience, headers=headers or None)
    except NoResponders:
        if bus.recreate_streams is not None:
            # Where the stream only lacks a leader nobody answers this either, and a leader may be there any moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECREATE_PATIENCE):
                    await bus.recreate_streams()
        raise
    except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
        NATS_ERRORS.add(error_type=PublishRefused.__name__)
        raise PublishRefused(f"cannot publish on {message.subject}: {error}") from error
    ack = _pub_ack.decode(reply.data)
    try:
        if ack.error is not None:
            return _judge(message.subject, ack.error)
    except BusUnavailable as unavailable:
        bus.change.unanswered(asked_of(message.subject), str(unavailable), since=since)
        raise
    bus.change.answered(asked_of(message.subject))
    return AlreadyStored(ack.seq) if ack.duplicate else Stored(ack.seq)


def _judge(subject: str, error: _PubError) -> AlreadyStored:
    """An error that means success, or the exception that says whether trying again makes sense."""
    reported = f"{error.description} ({error.code}/{error.err_code})"
    if error.err_code == WRONG_LAST_SEQUENCE and (sequence := re.search(r"\d+$", error.description)):
        return AlreadyStored(int(sequence.group()))
    if error.err_code == WRONG_LAST_SEQUENCE_UNKNOWN:
        raise BusUnavailable(f"the stream cannot take {subject} now: {reported}")
    failure: BusError = (
        BusUnavailable(f"the stream cannot take {subject} now: {reported}")
        if error.code >= 429
        else PublishRefused(f"the stream will not take {subject}: {reported}")
    )
    NATS_ERRORS.add(error_type=type(failure).__name__)
    raise failure


async def last_message(bus: Bus, stream: str, subject: str) -> StoredMessage | None:
    """The newest message on `subject`, or None. Raises BusUnavailable, NoResponders (no stream)."""
    return await _direct_get(bus, f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")


async def message_at(bus: Bus, stream: str, sequence: int) -> StoredMessage | None:
    """The message at that stream sequence, or None. Raises BusUnavailable, NoResponders (no stream)."""
    return await _direct_get(bus, f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode({"seq": sequence}))


async def _direct_get(bus: Bus, subject: str, request: bytes) -> StoredMessage | None:
    reply = await bus.request(subject, request, timeout=5.0)
    bus.change.answered(asked_of(subject))
    headers = {key.lower(): value for key, value in (reply.headers or {}).items()}
    status = headers.get("status")
    if status == "404":
        return None
    if status is not None:
        raise BusUnavailable(f"{subject} answered {status} {headers.get('description', '')}")
    return StoredMessage(
        subject=headers["nats-subject"],
        sequence=int(headers["nats-sequence"]),
        headers=headers,
        data=reply.data,
        timestamp=datetime.fromisoformat(headers["nats-time-stamp"]),
    )
