"""Carries out the commands of a look: asks LiveKit, reads and writes the stream SIGNALS, waits. `machine` decides."""

import asyncio
import random
from datetime import UTC, datetime
from typing import Final, assert_never

import structlog
from opentelemetry.trace import SpanKind
from structlog.contextvars import bind_contextvars

from exeunt import semconv
from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, Delivery, Retry
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.messages import Message
from exeunt.bus.publisher import Stored, last_message, publish
from exeunt.errors import PoisonEvent
from exeunt.metrics import LIVEKIT_LOOKS, LIVEKIT_SIGNAL_LATENCY
from exeunt.settings import Settings
from exeunt.subjects import SIGNALS, trigger_token_subject
from exeunt.tracing import Hop, apart
from exeunt_livekit_bridge.livekit import LiveKit, LiveKitUnavailable
from exeunt_livekit_bridge.look import Look, read_look
from exeunt_livekit_bridge.machine import (
    Begin,
    Command,
    Done,
    Failed,
    Input,
    LastSaid,
    ListParticipants,
    ListRooms,
    LookAgain,
    Looking,
    Overtaken,
    Participants,
    Pause,
    PauseOver,
    Publish,
    Published,
    ReadLastSaid,
    Rooms,
)
from exeunt_livekit_bridge.said import Said, read_said

DURABLE: Final = "livekit-bridge"
_PUBLISH_DEADLINE: Final = 5.0
"""Seconds to store a signal. What was seen is older than that then, so it is looked again."""

log = structlog.get_logger()


class Looker:
    """Takes looks from the stream. Any number of instances may run; they share the consumer."""

    def __init__(self, livekit: LiveKit, bus: Bus, settings: Settings) -> None:
        self._livekit = livekit
        self._bus = bus
        self._not_callers = settings.livekit_not_callers
        self._interval = settings.livekit_look_interval.total_seconds()

    async def handle(self, delivery: Delivery) -> Ack | Retry:
        try:
            look = read_look(delivery.data)
        except PoisonEvent as error:
            # Only this service writes looks, and a room that is there is found again without this one.
            log.error("look dropped", subject=delivery.subject, error=str(error))  # noqa: TRY400 - no bug
            return Ack()
        bind_contextvars(room=look.room, sid=look.sid)
        by_timer = delivery.num_delivered > 1
        attributes: dict[str, str | int] = {
            semconv.LIVEKIT_ROOM: look.room,
            semconv.LIVEKIT_SID: look.sid,
            semconv.LIVEKIT_EVENT: look.event,
            semconv.DELIVERY: delivery.num_delivered,
        }
        with apart("look", SpanKind.CONSUMER, delivery.headers, attributes, waited=by_timer) as hop:
            looking = Looking(look, by_timer=by_timer, not_callers=self._not_callers, interval=self._interval)
            return await _Look(self._livekit, self._bus, looking, look, hop, by_timer=by_timer).run()


class _Look:
    """One look on its way."""

    def __init__(self, livekit: LiveKit, bus: Bus, looking: Looking, look: Look, hop: Hop, *, by_timer: bool) -> None:
        self._livekit = livekit
        self._bus = bus
        self._looking = looking
        self._look = look
        self._hop = hop
        self._by_timer = by_timer
        self._result = "known"

    async def run(self) -> Ack | Retry:
        command = self._looking.receive(Begin())
        while not isinstance(command, Done | LookAgain):
            command = self._looking.receive(await self._answer(command))
        LIVEKIT_LOOKS.add(result=self._result)
        if self._by_timer and self._result == "known":
            self._hop.drop()
        if isinstance(command, Done):
            return Ack()
        return Retry(command.after * random.uniform(0.75, 1.25), self._result)  # noqa: S311 - spread, not secrecy

    async def _answer(self, command: Command) -> Input:
        try:
            return await self._do(command)
        except (LiveKitUnavailable, BusUnavailable) as error:
            self._result = "failed"
            self._hop.failed(error)
            log.warning("look not done", command=type(command).__name__, error=str(error))
            return Failed(self._livekit.away_for)

    async def _do(self, command: Command) -> Input:
        match command:
            case ReadLastSaid(sid):
                return LastSaid(await self._last_said(sid))
            case ListRooms(name):
                rooms = await self._livekit.rooms(name)
                return Rooms(tuple(room.sid for room in rooms if room.name == name), datetime.now(UTC))
            case ListParticipants(name):
                return Participants(await self._livekit.participants(name), datetime.now(UTC))
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return PauseOver()
            case Publish():
                return await self._publish(command)
            case Done() | LookAgain():
                raise AssertionError("unreachable: these end a look")
        assert_never(command)

    async def _last_said(self, sid: str) -> Said:
        last = await last_message(self._bus, SIGNALS, trigger_token_subject(sid))
        return Said() if last is None else read_said(last.headers, last.sequence, last.timestamp)

    async def _publish(self, command: Publish) -> Published | Overtaken:
        message = command.message
        traced = Message(
            subject=message.subject,
            payload=message.payload,
            headers={**message.headers, **self._hop.headers},
            expected_last_subject_sequence=message.expected_last_subject_sequence,
        )
        stored = await publish(self._bus, traced, deadline=_PUBLISH_DEADLINE)
        if not isinstance(stored, Stored):
            return Overtaken()
        self._result = "gone" if command.gone else "up"
        self._hop.event(self._result, **{semconv.WHY: command.detail})
        log.info("said", what=self._result, why=command.detail)
        if not self._by_timer and self._look.heard is not None:
            LIVEKIT_SIGNAL_LATENCY.record(max(0.0, (datetime.now(UTC) - self._look.heard).total_seconds()))
        return Published(stored.sequence)
