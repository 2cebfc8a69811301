"""A process of the timeout-scheduler: its real machines, with the simulated servers around them."""

from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from exeunt.errors import PoisonEvent
from exeunt.events.codec import event_message, read_event
from exeunt.events.event_types import EventType
from exeunt.events.subjects import DEADLINES, RUNS, TERMINATOR, armed_subject
from exeunt.run.snapshot import RunState
from exeunt_timeout_scheduler.commands import (
    AckFloor,
    AlreadyStored,
    Arm,
    DeadLetter,
    End,
    Failed,
    Fired,
    GetAckFloor,
    GiveBack,
    Heard,
    Input,
    LastMessage,
    Message,
    NoMessage,
    NotStored,
    Publish,
    Purged,
    Stored,
)
from exeunt_timeout_scheduler.deadlines import read_deadline, schedule
from exeunt_timeout_scheduler.way import HEARD
from simulation import jetstream
from simulation.apiserver import ApiServer
from simulation.clockwork import Clockwork
from simulation.deadlines import Deadlines, Then
from simulation.faults import Troubles
from simulation.jetstream import Delivery, JetStream, StoredMessage, Unavailable
from simulation.processes import Process


def is_heard(subject: str) -> bool:
    return subject.endswith(tuple(HEARD)) and ".outcome." not in subject


class Scheduler(Process):
    def __init__(self, clock: Clockwork, troubles: Troubles, name: str, api: ApiServer, nats: JetStream) -> None:
        super().__init__(clock, troubles, name)
        self._nats = nats
        self._facts = nats.consumer(RUNS, "timeout-scheduler", is_heard)
        self._due = nats.consumer(DEADLINES, "timeout-scheduler-due", lambda subject: ".due." in subject)
        self.deadlines = Deadlines(self, api, self)

    def begin(self) -> None:
        self._facts.join(self, self._on_event)
        self._due.join(self, self._on_due)
        self.later(self.clock.little(0.1, 1), self.deadlines.sweep)

    def _on_event(self, delivery: Delivery) -> None:
        self.at_work.add(delivery)
        try:
            heard = Heard(read_event(delivery.message.headers, delivery.message.payload))
        except PoisonEvent as poison:
            self._end(delivery, DeadLetter(str(poison)))
            return
        self.deadlines.begin(heard, partial(self._end, delivery))

    def _on_due(self, delivery: Delivery) -> None:
        self.at_work.add(delivery)
        self.deadlines.begin(Fired(read_deadline(delivery.message.payload)), partial(self._end, delivery))

    def _end(self, delivery: Delivery, end: End) -> None:
        if isinstance(end, GiveBack):
            delivery.give_back(delivery.back_off)
            return
        if isinstance(end, DeadLetter):
            self.clock.happened["a message is set aside"] += 1
        delivery.ack()

    # What deadlines ask of the streams.

    def arm(self, asked: Arm, then: Then) -> None:
        self._nats.publish(self, schedule(asked.deadline, asked.at, {}), lambda answer: then(_stored(answer)))

    def disarm(self, run: RunState, then: Then) -> None:
        subject = armed_subject(run.cancellation)
        self._nats.purge(self, DEADLINES, subject, lambda found: then(_or_failed(found, Purged)))

    def publish_reached(self, asked: Publish, then: Then) -> None:
        message = event_message(
            EventType.DEADLINE_REACHED, asked.snapshot, source="/exeunt/timeout-scheduler", now=asked.at, context={}
        )
        message = replace(message, expected_last_subject_sequence=asked.after)
        self._nats.publish(self, message, lambda answer: then(_stored(answer)))

    def look_up(self, asked: LastMessage | GetAckFloor, then: Then) -> None:
        if isinstance(asked, LastMessage):
            self._nats.read(self, asked.stream, asked.subject, lambda found: then(_message(found)))
        else:
            floor = self._nats.consumer(RUNS, TERMINATOR, lambda _: False)
            self._nats.ask(self, lambda: floor.floor, lambda found: then(_or_failed(found, AckFloor)))


def _stored(answer: jetstream.Answer) -> Input:
    match answer:
        case jetstream.Stored():
            return Stored()
        case jetstream.AlreadyStored():
            return AlreadyStored()
        case jetstream.NotStored():
            return NotStored("refused")
        case Unavailable(why):
            return Failed(why)


def _or_failed(found: int | Unavailable, answer: Callable[[int], Input]) -> Input:
    return Failed(found.why) if isinstance(found, Unavailable) else answer(found)


def _message(found: StoredMessage | Unavailable | None) -> Input:
    match found:
        case None:
            return NoMessage()
        case Unavailable(why):
            return Failed(why)
        case _:
            return Message(found.sequence, found.at, found.headers, found.payload)
