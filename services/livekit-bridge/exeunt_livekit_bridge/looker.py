"""Carries out the commands of a look: asks LiveKit, reads and writes the stream SIGNALS, waits. `machine` decides."""

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog
from msgspec.structs import replace
from structlog.contextvars import bind_contextvars

from exeunt.back_off import spread
from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, Delivery, Retry
from exeunt.bus.errors import BusUnavailable, PublishRefused
from exeunt.bus.publisher import Stored, last_message, publish
from exeunt.errors import PoisonEvent
from exeunt.events.subjects import SIGNALS, trigger_token_subject
from exeunt.settings import Settings
from exeunt.telemetry import semconv
from exeunt.telemetry.metrics import LIVEKIT_LOOKS, LIVEKIT_SIGNAL_LATENCY
from exeunt.telemetry.tracing import Hop, apart
from exeunt_livekit_bridge.last_signal import LastSignal, read_last_signal
from exeunt_livekit_bridge.livekit import LiveKit, LiveKitUnavailable
from exeunt_livekit_bridge.look import read_look
from exeunt_livekit_bridge.machine import (
    Asking,
    Begin,
    Done,
    Failed,
    Input,
    LastSignalRead,
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
    ReadLastSignal,
    Result,
    Rooms,
)

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
        self._failing_since: float | None = None  # loop time of the first of the looks that failed in a row
        self.unavailable_reason: str | None = None
        """Why nothing can be published now, for /readyz: NATS or the stream SIGNALS, as the last look found it."""

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
        with apart("look", "CONSUMER", delivery.headers, attributes, waited=by_timer) as hop:
            looking = Looking(look, by_timer=by_timer, not_callers=self._not_callers, interval=self._interval)
            command = await self._look(looking, hop, heard=None if by_timer else look.heard)
            if by_timer and looking.result is Result.KNOWN:
                hop.drop()
        LIVEKIT_LOOKS.add(result=str(looking.result))
        if isinstance(command, Done):
            return Ack()
        return Retry(spread(command.after), str(looking.result))

    async def _look(self, looking: Looking, hop: Hop, *, heard: datetime | None) -> Done | LookAgain:
        """To the end of the look. `heard` is when the webhook came that led to it; None when it was the timer."""
        command = looking.receive(Begin())
        while not isinstance(command, Done | LookAgain):
            try:
                answer = await self._answer(command, hop, heard)
            except (LiveKitUnavailable, BusUnavailable, PublishRefused) as error:
                hop.failed(error)
                log.warning("look not done", command=type(command).__name__, error=str(error))
                answer = Failed(self._failing_for())
                if not isinstance(error, LiveKitUnavailable):
                    self.unavailable_reason = str(error)
            else:
                if isinstance(command, ReadLastSignal | Publish):
                    self.unavailable_reason = None
            command = looking.receive(answer)
        if looking.result is not Result.FAILED:
            self._failing_since = None
        return command

    def _failing_for(self) -> float:
        """Seconds since the first of the looks that have failed in a row, of which there is one now."""
        now = asyncio.get_running_loop().time()
        self._failing_since = self._failing_since or now
        return now - self._failing_since

    async def _answer(self, command: Asking, hop: Hop, heard: datetime | None) -> Input:
        match command:
            case ReadLastSignal(sid):
                last = await last_message(self._bus, SIGNALS, trigger_token_subject(sid))
                if last is None:
                    return LastSignalRead(LastSignal())
                return LastSignalRead(
                    read_last_signal(
                        last.subject, last.headers, last.data, sequence=last.sequence, stored_at=last.timestamp
                    )
                )
            case ListRooms(name):
                rooms = await self._livekit.rooms(name)
                return Rooms(tuple(room.sid for room in rooms if room.name == name), datetime.now(UTC))
            case ListParticipants(name):
                return Participants(await self._livekit.participants(name), datetime.now(UTC))
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return PauseOver()
            case Publish():
                return await self._publish(command, hop, heard)

    async def _publish(self, command: Publish, hop: Hop, heard: datetime | None) -> Published | Overtaken:
        message = replace(command.message, headers={**command.message.headers, **hop.headers})
        stored = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE)
        if not isinstance(stored, Stored):
            return Overtaken()
        what = "gone" if command.gone else "up"
        hop.event(what, **{semconv.WHY: command.detail})
        log.info("signal published", what=what, why=command.detail)
        if heard is not None:
            LIVEKIT_SIGNAL_LATENCY.record(max(0.0, (datetime.now(UTC) - heard).total_seconds()))
        return Published(stored.sequence)
