"""A process of the LiveKit bridge: its real machine, with the simulated servers around it."""

from collections.abc import Callable
from functools import partial

from exeunt.events.subjects import LIVEKIT, SIGNALS, trigger_token_subject
from exeunt_livekit_bridge.last_signal import LastSignal, read_last_signal
from exeunt_livekit_bridge.look import DISCOVERED, look_message, new_look, read_look
from exeunt_livekit_bridge.machine import (
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
    Rooms,
)
from simulation import jetstream, settings
from simulation.clockwork import Clockwork
from simulation.faults import Fault, Troubles
from simulation.jetstream import Delivery, JetStream, StoredMessage, Unavailable
from simulation.livekit import LiveKit, Room
from simulation.processes import Process

_NOT_CALLERS = ("bubu-agent*",)


class Bridge(Process):
    """`on_signal` is told what is published: the sid, when the look at it began, and whether it is over."""

    def __init__(self, clock: Clockwork, troubles: Troubles, name: str, livekit: LiveKit, nats: JetStream) -> None:
        super().__init__(clock, troubles, name)
        self._livekit = livekit
        self._nats = nats
        self._looks = nats.consumer(LIVEKIT, "livekit-bridge", lambda _: True)
        self._failing_since: float | None = None
        self.on_signal: list[Callable[..., None]] = []

    def begin(self) -> None:
        self._failing_since = None
        self._looks.join(self, self._deliver)
        self.later(self.clock.little(0.1, 2), self._discover)

    def webhook(self, event: str, room: Room) -> None:
        self.later(0.001, lambda: self._store(event, room.sid, room.name))

    def _store(self, event: str, sid: str, name: str, *, unless_known: bool = False) -> None:
        look = new_look(sid, name, event, "alice", self.now())
        self._nats.publish(self, look_message(look, {}, unless_known=unless_known), lambda _: None)

    def _discover(self) -> None:
        self.later(settings.DISCOVERY_INTERVAL, self._discover)
        if not self.troubles.strikes(self.name, Fault.LIVEKIT_AWAY):
            for room in self._livekit.rooms.values():
                self._store(DISCOVERED, room.sid, room.name, unless_known=True)

    def _deliver(self, delivery: Delivery) -> None:
        self.at_work.add(delivery)
        look = read_look(delivery.message.payload)
        by_timer = delivery.deliveries > 1
        looking = Looking(look, by_timer=by_timer, not_callers=_NOT_CALLERS, interval=settings.LOOK_INTERVAL)
        self._hear(looking, delivery, look.sid, self.clock.now, Begin())

    def _hear(self, looking: Looking, delivery: Delivery, sid: str, since: float, heard: Input) -> None:
        command = looking.receive(heard)
        self.clock.happened[f"bridge: {type(command).__name__}"] += 1
        self.clock.happened[f"bridge hears: {type(heard).__name__}"] += 1
        then = partial(self._hear, looking, delivery, sid, since)
        match command:
            case ReadLastSignal():
                self._nats.read(self, SIGNALS, trigger_token_subject(sid), lambda found: then(self._last_said(found)))
            case ListRooms(name):
                self._ask(lambda: self._rooms(name), then)
            case ListParticipants(name):
                self._ask(lambda: Participants(self._livekit.participants(name), self.now()), then)
            case Pause(length):
                self.later(length, lambda: then(PauseOver()))
            case Publish(message, gone):
                self._nats.publish(self, message, lambda answer: then(self._published(answer)))
                for told in self.on_signal:
                    told(sid, since, gone=gone)
            case Done():
                delivery.ack()
            case LookAgain(after):
                if not isinstance(heard, Failed):
                    self._failing_since = None
                delivery.give_back(after * self.clock.little(0.75, 1.25))

    def _ask(self, serve: Callable[[], Input], then: Callable[[Input], None]) -> None:
        if self.troubles.strikes(self.name, Fault.LIVEKIT_AWAY):
            self.later(self.clock.little(0.5, 5), lambda: then(self._failed()))
        else:
            little = self.clock.little
            self.clock.after(little(0.001, 0.02), lambda: self.later(little(0.001, 0.02), partial(then, serve())))

    def _rooms(self, name: str) -> Rooms:
        room = self._livekit.rooms.get(name)
        return Rooms((room.sid,) if room else (), self.now())

    def _failed(self) -> Failed:
        self._failing_since = self.clock.now if self._failing_since is None else self._failing_since
        return Failed(self.clock.now - self._failing_since)

    def _last_said(self, found: StoredMessage | Unavailable | None) -> Input:
        match found:
            case None:
                return LastSignalRead(LastSignal())
            case Unavailable():
                return self._failed()
            case _:
                said = read_last_signal(
                    found.subject, found.headers, found.payload, sequence=found.sequence, stored_at=found.at
                )
                return LastSignalRead(said)

    def _published(self, answer: jetstream.Answer) -> Input:
        match answer:
            case jetstream.Stored(sequence):
                return Published(sequence)
            case jetstream.AlreadyStored():
                return Overtaken()
            case _:
                return self._failed()
