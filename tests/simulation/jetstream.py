"""JetStream: streams that take a message once, durable consumers that deliver it at least once, message schedules by
the server's own clock, and volumes that are lost.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, TypeVar

from exeunt.bus.unstored import Unstored, Word
from exeunt.clock import parse_instant
from exeunt.events.messages import Message
from exeunt.events.subjects import DEADLETTERS, DEADLINES, LIVEKIT, RUNS, SIGNALS
from exeunt_watcher.offers import StreamState
from simulation.clockwork import Clockwork, instant, seconds
from simulation.faults import PUBLISH, Fault, Troubles
from simulation.processes import Process

ACK_WAIT: Final = 10.0
MOST_DELIVERIES: Final = 100
_CUT_OFF: Final = 2.0
"""Seconds in which whoever is cut off has noticed it: it asks every second."""
_WORKQUEUES: Final = frozenset({DEADLINES, LIVEKIT})
T = TypeVar("T")
_PREFIXES: Final = {
    "exeunt.runs.": RUNS,
    "exeunt.signals.": SIGNALS,
    "exeunt.deadlines.": DEADLINES,
    "exeunt.livekit.": LIVEKIT,
    "exeunt.deadletters.": DEADLETTERS,
}


class Stored(NamedTuple):
    sequence: int


class AlreadyStored(NamedTuple):
    sequence: int


class NotStored(NamedTuple):
    """The stream will never take it."""


class Unavailable(NamedTuple):
    """It is not stored, or nobody knows."""

    why: str


Answer = Stored | AlreadyStored | NotStored | Unavailable


class StoredMessage(NamedTuple):
    sequence: int
    subject: str
    headers: dict[str, str]
    payload: bytes
    at: datetime
    """By the server's clock."""
    by: str


class Stream:
    """A stream since it was made; a lost one is made anew as another of these."""

    def __init__(self) -> None:
        self.messages: dict[int, StoredMessage] = {}
        self.last: dict[str, int] = {}
        self.sequence = 0

    def remove(self, sequence: int) -> None:
        message = self.messages.pop(sequence, None)
        if message is not None and self.last.get(message.subject) == sequence:
            del self.last[message.subject]


@dataclass(eq=False, frozen=True)
class Delivery:
    """One message on its way to a process of a consumer."""

    consumer: "Consumer"
    generation: int
    message: StoredMessage
    deliveries: int
    process: Process

    @property
    def back_off(self) -> float:
        """As `exeunt.bus.delivery.back_off`, whose jitter is not ours to decide."""
        longest: float = min(30.0, 2.0 ** min(self.deliveries, 10))
        return self.process.clock.little(longest / 2, longest)

    def ack(self) -> None:
        self.consumer.settle(self, None)

    def give_back(self, delay: float) -> None:
        self.consumer.settle(self, delay)


class Consumer:
    """A durable consumer and the processes that pull from it."""

    def __init__(self, nats: "JetStream", stream: str, name: str, matches: Callable[[str], bool]) -> None:
        self.nats = nats
        self.stream = stream
        self.name = name
        self.matches = matches
        self.members: list[tuple[Process, Callable[[Delivery], None]]] = []
        self.deliveries: dict[int, int] = {}
        self.unsettled: dict[int, Delivery | None] = {}
        """By sequence, in whose hands it is."""
        self.generation = 0
        self._ready: list[int] = []
        self._awaited = False

    def join(self, process: Process, handle: Callable[[Delivery], None]) -> None:
        self.members = [member for member in self.members if member[0] is not process]
        self.members.append((process, handle))
        self._dispatch()

    def offer(self, message: StoredMessage) -> None:
        if self.matches(message.subject):
            self.unsettled[message.sequence] = None
            self._ready.append(message.sequence)
            self._dispatch()

    def forget(self, sequence: int) -> None:
        """The message is no more."""
        self.unsettled.pop(sequence, None)
        self.deliveries.pop(sequence, None)

    def reset(self) -> None:
        """It is lost, and made anew: everything that the stream has is delivered again, for the first time."""
        self.generation += 1
        self.deliveries.clear()
        self.unsettled.clear()
        self._ready.clear()
        for message in list(self.nats.streams[self.stream].messages.values()):
            self.offer(message)

    @property
    def floor(self) -> int:
        """Up to this sequence everything is settled."""
        return min(self.unsettled, default=self.nats.streams[self.stream].sequence + 1) - 1

    def _dispatch(self) -> None:
        clock, nats = self.nats.clock, self.nats
        while self._ready:
            free = [
                member
                for member in self.members
                if member[0].alive and not nats.troubles.strikes(member[0].name, Fault.NO_NATS)
            ]
            if not free or nats.away:
                if not self._awaited:
                    self._awaited = True
                    clock.after(1.0, self._dispatch_again)
                return
            sequence = self._ready.pop(0)
            message = nats.streams[self.stream].messages.get(sequence)
            if message is None or sequence not in self.unsettled:
                continue
            process, handle = clock.chance.choice(free)
            self.deliveries[sequence] = count = self.deliveries.get(sequence, 0) + 1
            delivery = Delivery(self, self.generation, message, count, process)
            self.unsettled[sequence] = delivery
            clock.happened["redelivery" if count > 1 else "delivery"] += 1
            process.later(clock.little(0.001, 0.05), partial(handle, delivery))
            if nats.troubles.strikes(process.name, Fault.DUPLICATE):
                clock.after(clock.little(0.01, 3), partial(self._again, delivery))
            clock.after(ACK_WAIT, partial(self._expired, delivery, process.incarnation))

    def _dispatch_again(self) -> None:
        self._awaited = False
        self._dispatch()

    def _expired(self, delivery: Delivery, incarnation: int) -> None:
        if not self._holds(delivery):
            return
        process = delivery.process
        at_work = process.alive and process.incarnation == incarnation and not process.frozen
        if at_work and delivery in process.at_work and not self.nats.troubles.strikes(process.name, Fault.NO_NATS):
            self.nats.clock.after(ACK_WAIT, partial(self._expired, delivery, incarnation))
        else:
            self._again(delivery)

    def _holds(self, delivery: Delivery) -> bool:
        held = self.unsettled.get(delivery.message.sequence)
        return delivery.generation == self.generation and held is delivery

    def _again(self, delivery: Delivery) -> None:
        if self._holds(delivery):
            self.unsettled[delivery.message.sequence] = None
            self._ready.append(delivery.message.sequence)
            self._dispatch()

    def settle(self, delivery: Delivery, delay: float | None) -> None:
        """An acknowledgement, or with a `delay` its opposite, is sent. What it is about may be delivered again by now:
        an acknowledgement counts all the same, whosoever it is.
        """
        delivery.process.at_work.discard(delivery)
        nats, sequence = self.nats, delivery.message.sequence
        lost = nats.troubles.strikes(delivery.process.name, Fault.NO_NATS, Fault.ACK_LOST)
        if lost or nats.away or delivery.generation != self.generation or sequence not in self.unsettled:
            return
        if delay is None:
            self.forget(sequence)
            if self.stream in _WORKQUEUES:
                nats.streams[self.stream].remove(sequence)
        elif self._holds(delivery):
            nats.clock.after(delay, partial(self._again, delivery))


class JetStream:
    """`away`: there is no leader, or no server; `dead`: nor will there be before everything else has come to its end.
    `offset`: seconds that its clock is ahead.
    """

    def __init__(self, clock: Clockwork, troubles: Troubles) -> None:
        self.clock = clock
        self.troubles = troubles
        self.offset = 0.0
        self.away = self.dead = False
        self.unstored = Unstored()
        self.wiped_at: list[float] = []
        self.wiped_unheard: set[float] = set()
        """Those of these moments at which somebody was cut off."""
        self.refused: set[str] = set()
        """Subjects of which it has refused a message for good."""
        self.streams = {name: Stream() for name in (*_WORKQUEUES, RUNS, SIGNALS, DEADLETTERS)}
        self.consumers: dict[str, Consumer] = {}
        self.on_wipe: list[Callable[[], None]] = []
        self.on_stored: list[Callable[[str, StoredMessage], None]] = []
        self.on_unstored: list[Callable[[Message], None]] = []
        self._followers: list[_Follower] = []

    def consumer(self, stream: str, name: str, matches: Callable[[str], bool]) -> Consumer:
        if name not in self.consumers:
            self.consumers[name] = Consumer(self, stream, name, matches)
        return self.consumers[name]

    def works_for(self, process: Process) -> bool:
        """Whether that process hears of it at all."""
        cut_off = any(
            trouble.fault is Fault.NO_NATS and trouble.likelihood >= 1 and trouble.process in (None, process.name)
            for trouble in self.troubles.now
        )
        return not (self.away or cut_off)

    # What a process may ask.

    def publish(self, process: Process, message: Message, then: Callable[[Answer], None]) -> None:
        fault = self.troubles.strikes(process.name, Fault.NO_NATS, *PUBLISH)
        little = self.clock.little

        def answer(given: Answer, longest: float = 0.02) -> None:
            self._tell(process, message, given)
            process.later(little(0.001, longest), lambda: then(given))

        def serve(*, twice: bool = False, unanswered: bool = False) -> None:
            if self.away:
                answer(Unavailable("no leader"), 5)
                return
            stored = self.store(message, process.name)
            if unanswered:
                answer(Unavailable("no answer"), 8)
            else:  # what was published twice finds itself
                answer(AlreadyStored(stored.sequence) if twice and isinstance(stored, Stored) else stored)

        match fault:
            case Fault.NO_NATS | Fault.PUBLISH_GIVEN_UP:
                answer(Unavailable(fault), 8)
            case Fault.PUBLISH_REFUSED:
                self.refused.add(message.subject)
                answer(NotStored())
            case Fault.PUBLISH_UNANSWERED:
                self.clock.after(little(0.001, 2), partial(serve, unanswered=True))
            case Fault.PUBLISH_TWICE:
                self.clock.after(
                    little(0.001, 2), partial(serve, twice=message.expected_last_subject_sequence is not None)
                )
            case _:
                self.clock.after(little(0.001, 0.03), serve)

    def _tell(self, process: Process, message: Message, given: Answer) -> None:
        """As watchers and timeout-schedulers tell the terminators."""
        if process.name.startswith(("watcher", "scheduler")) and self.works_for(process):
            word = Word(message, given.why if isinstance(given, Unavailable) else "")
            self.unstored.hear(word, self.clock.now)
            for told in self.on_unstored if word.why else ():
                told(message)

    def publish_own(self, process: Process, stream: str, message: Message, then: Callable[[Answer], None]) -> None:
        """The same, but that an earlier try counts as stored, as `exeunt.bus.publisher.publish_own` has it."""

        def seen(sequence: int, there: StoredMessage | Unavailable | None) -> None:
            if isinstance(there, Unavailable):
                then(there)
            elif there is not None and there.payload == message.payload:
                then(Stored(there.sequence))
            else:
                then(AlreadyStored(sequence))

        def answered(answer: Answer) -> None:
            if isinstance(answer, AlreadyStored):
                self.read(process, stream, message.subject, partial(seen, answer.sequence))
            else:
                then(answer)

        self.publish(process, message, answered)

    def read(
        self,
        process: Process,
        stream: str,
        subject: str | int,
        then: Callable[[StoredMessage | Unavailable | None], None],
    ) -> None:
        """The last message on a subject, or the one at a sequence."""
        little = self.clock.little

        def serve() -> None:
            there = self.streams[stream]
            sequence = there.last.get(subject, 0) if isinstance(subject, str) else subject
            found = there.messages.get(sequence)
            process.later(little(0.001, 0.02), lambda: then(Unavailable("no leader") if self.away else found))

        if fault := self.troubles.strikes(process.name, Fault.NO_NATS, Fault.READ_FAILED):
            process.later(little(0.5, 5), lambda: then(Unavailable(fault)))
        else:
            self.clock.after(little(0.001, 0.03), serve)

    def follow(self, process: Process, handle: Callable[[StoredMessage], None], caught_up: Callable[[], None]) -> None:
        """Hand over all of SIGNALS, from its beginning on."""
        self._followers = [follower for follower in self._followers if follower.process is not process]
        self._followers.append(_Follower(self, process, handle, caught_up))

    def purge(self, process: Process, stream: str, subject: str, then: Callable[[int | Unavailable], None]) -> None:
        self.ask(process, partial(self._remove, stream, subject), then)

    def ask(self, process: Process, serve: Callable[[], T], then: Callable[[T | Unavailable], None]) -> None:
        """Something that JetStream's API answers."""
        little = self.clock.little
        fault = self.troubles.strikes(process.name, Fault.NO_NATS, Fault.READ_FAILED)
        if fault or self.away:
            process.later(little(0.5, 5), lambda: then(Unavailable(fault or "no leader")))
        else:
            self.clock.after(little(0.001, 0.03), lambda: process.later(little(0.001, 0.02), partial(then, serve())))

    def state(self, name: str) -> StreamState:
        stream = self.streams[name]
        first = min(stream.messages, default=stream.sequence + 1)
        gaps = stream.sequence + 1 - first - len(stream.messages)
        return StreamState(str(len(self.wiped_at)), first, stream.sequence, gaps)

    # What it does.

    def store(self, message: Message, by: str) -> Stored | AlreadyStored:
        name = next(stream for prefix, stream in _PREFIXES.items() if message.subject.startswith(prefix))
        stream = self.streams[name]
        last = stream.last.get(message.subject, 0)
        expected = message.expected_last_subject_sequence
        if expected is not None and expected != last:
            return AlreadyStored(last)
        if name == LIVEKIT and last:
            self.forget(name, last)  # the newer one takes its place
        stream.sequence += 1
        headers = {key.lower(): value for key, value in message.headers.items()}
        at = instant(self.clock.now + self.offset)
        stored = StoredMessage(stream.sequence, message.subject, headers, message.payload, at, by)
        stream.messages[stored.sequence] = stored
        stream.last[message.subject] = stored.sequence
        for told in self.on_stored:
            told(name, stored)
        if "nats-schedule" in headers:
            due = seconds(parse_instant(headers["nats-schedule"].removeprefix("@at "))) - self.clock.now - self.offset
            self.clock.after(max(0.0, due) + self.clock.little(0, 0.25), partial(self._fire, stream, stored))
        for consumer in self.consumers.values():
            if consumer.stream == name:
                consumer.offer(stored)
        if name == SIGNALS:
            for follower in self._followers:
                follower.wake()
        return Stored(stored.sequence)

    def forget(self, name: str, sequence: int) -> None:
        self.streams[name].remove(sequence)
        for consumer in self.consumers.values():
            if consumer.stream == name:
                consumer.forget(sequence)

    def _remove(self, name: str, subject: str) -> int:
        sequence = self.streams[name].last.get(subject)
        if sequence is None:
            return 0
        self.forget(name, sequence)
        return 1

    def _fire(self, stream: Stream, armed: StoredMessage) -> None:
        if self.streams[DEADLINES] is not stream or armed.sequence not in stream.messages:
            return
        if self.away:
            self.clock.after(1.0, partial(self._fire, stream, armed))
            return
        stream.remove(armed.sequence)
        self.store(
            Message(subject=armed.headers["nats-schedule-target"], payload=armed.payload, headers={}), "schedule"
        )

    def wipe(self) -> None:
        """The volume is lost; streams and consumers are made anew."""
        self.clock.note("nats", "is wiped")
        self.wiped_at.append(self.clock.now)
        if self.clock.now - self.troubles.struck_at.get(Fault.NO_NATS, float("-inf")) < _CUT_OFF:
            self.wiped_unheard.add(self.clock.now)
        self.streams = {name: Stream() for name in self.streams}
        for consumer in self.consumers.values():
            consumer.reset()
        for follower in self._followers:
            follower.begin_again()
        for told in self.on_wipe:
            told()

    def lose_consumer(self, number: int) -> None:
        consumers = list(self.consumers.values())
        consumers[number % len(consumers)].reset()

    def stop(self, lasting: float) -> None:
        """No leader, or no server, for a while."""
        self.away = True
        self.clock.after(lasting, self._back)

    def _back(self) -> None:
        self.away = self.dead

    def die(self) -> None:
        self.away = self.dead = True

    def revive(self) -> None:
        self.away = self.dead = False


class _Follower:
    def __init__(
        self, nats: JetStream, process: Process, handle: Callable[[StoredMessage], None], caught_up: Callable[[], None]
    ) -> None:
        self.process = process
        self._nats = nats
        self._handle = handle
        self._caught_up: Callable[[], None] | None = caught_up
        self._position = 0
        self._at_work = False
        self.wake()

    def begin_again(self) -> None:
        self._position = 0

    def wake(self) -> None:
        if not self._at_work:
            self._at_work = True
            self.process.later(self._nats.clock.little(0.001, 0.1), self._go_on)

    def _go_on(self) -> None:
        nats = self._nats
        if nats.away or nats.troubles.strikes(self.process.name, Fault.NO_NATS):
            self.process.later(1.0, self._go_on)
            return
        for message in self._unread():
            self._position = message.sequence
            self._handle(message)
        self._at_work = False
        if self._caught_up is not None:
            caught_up, self._caught_up = self._caught_up, None
            caught_up()

    def _unread(self) -> Iterator[StoredMessage]:
        there = self._nats.streams[SIGNALS]
        return (there.messages[at] for at in range(self._position + 1, there.sequence + 1) if at in there.messages)
