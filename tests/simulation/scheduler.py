"""A process of the timeout-scheduler: its real machines, with the simulated servers around them."""

from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from exeunt.errors import PoisonEvent
from exeunt.events.codec import event_message, read_event
from exeunt.events.event_types import EventType
from exeunt.events.subjects import DEADLINES, RUNS, TERMINATOR, armed_subject
from exeunt.run.models import StoryRun
from exeunt.run.snapshot import read_run
from exeunt_timeout_scheduler import commands, way
from exeunt_timeout_scheduler.commands import (
    Ack,
    AckFloor,
    Arm,
    Command,
    DeadLetter,
    Disarm,
    Failed,
    Fired,
    Found,
    GetAckFloor,
    GetRun,
    GetStory,
    GiveBack,
    Heard,
    HeldUntil,
    Hold,
    Input,
    LastMessage,
    NoMessage,
    NotFound,
    Publish,
    Purged,
    RunRead,
    StoryRead,
)
from exeunt_timeout_scheduler.deadlines import read_deadline, schedule
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.sweeping import Listed, LookAfter, NotListed, Sweeping
from exeunt_timeout_scheduler.way import HEARD
from simulation import jetstream, settings
from simulation.apiserver import ApiServer
from simulation.clockwork import Clockwork, seconds
from simulation.faults import Troubles
from simulation.jetstream import Delivery, JetStream, StoredMessage, Unavailable
from simulation.processes import Process


def is_heard(subject: str) -> bool:
    return subject.endswith(tuple(HEARD)) and ".outcome." not in subject


class Scheduler(Process):
    def __init__(self, clock: Clockwork, troubles: Troubles, name: str, api: ApiServer, nats: JetStream) -> None:
        super().__init__(clock, troubles, name)
        self._api = api
        self._nats = nats
        self._facts = nats.consumer(RUNS, "timeout-scheduler", is_heard)
        self._due = nats.consumer(DEADLINES, "timeout-scheduler-due", lambda subject: ".due." in subject)

        self.held_back: set[str] = set()
        """By uid: runs whose overdue event waited for what the terminators had not acknowledged, of whichever run."""

    def begin(self) -> None:
        self._facts.join(self, self._on_event)
        self._due.join(self, self._on_due)
        self.later(self.clock.little(0.1, 1), self._sweep)

    def _on_event(self, delivery: Delivery) -> None:
        self.at_work.add(delivery)
        try:
            heard = Heard(read_event(delivery.message.headers, delivery.message.payload))
        except PoisonEvent as poison:
            self._end(delivery, DeadLetter(str(poison)))
            return
        self._hear(Scheduling(), partial(self._end, delivery), heard)

    def _on_due(self, delivery: Delivery) -> None:
        self.at_work.add(delivery)
        self._hear(Scheduling(), partial(self._end, delivery), Fired(read_deadline(delivery.message.payload)))

    def _sweep(self) -> None:
        self.later(settings.SWEEP_INTERVAL.total_seconds(), self._sweep)
        sweeping = Sweeping(())
        for _ in sweeping.begin():
            self._api.ask(self, self._list, partial(self._listed, sweeping), lambda why: NotListed(why, away=True))

    def _list(self) -> Listed | NotListed:
        return Listed(self._api.unfinished_runs())

    def _listed(self, sweeping: Sweeping, heard: Listed | NotListed) -> None:
        for command in sweeping.receive(heard):
            self.clock.happened[f"scheduler: {type(command).__name__}"] += 1
            if isinstance(command, LookAfter):
                self._look_after(command.run)

    def _look_after(self, run: StoryRun) -> None:
        found = Found(run, settings.DEFAULT_TIMEOUT, settings.FENCE_WAIT, settings.OVERDUE_AFTER)
        self._hear(Scheduling(), lambda _: None, found)

    def _hear(self, scheduling: Scheduling, end: Callable[[Command], None], heard: Input) -> None:
        command = scheduling.receive(heard, self.now())
        self.clock.happened[f"scheduler hears: {type(heard).__name__}"] += 1
        self.clock.happened[f"scheduler: {type(command).__name__}"] += 1
        if way.Result.UNSETTLED in scheduling.trail:
            self.held_back.add(scheduling.snapshot.run.uid)
        if not isinstance(command, Hold):
            self.clock.note(self.name, f"{type(heard).__name__} -> {type(command).__name__}")
        then = partial(self._hear, scheduling, end)
        api, nats = self._api, self._nats
        match command:
            case Hold(until):
                remaining = seconds(until) - seconds(self.now())
                self.later(min(max(0.001, remaining), 1.0), lambda: then(HeldUntil()))
            case GetRun():
                api.ask(self, partial(self._get, command), then, Failed)
            case GetStory(_, name):
                api.ask(self, lambda: StoryRead(api.story(name)), then, Failed)
            case Arm(deadline, at):
                nats.publish(self, schedule(deadline, at, {}), lambda answer: then(_stored(answer)))
            case Disarm(run):
                subject = armed_subject(run.cancellation)
                nats.purge(self, DEADLINES, subject, lambda found: then(_or_failed(found, Purged)))
            case LastMessage(subject, stream):
                nats.read(self, stream, subject, lambda found: then(_message(found)))
            case GetAckFloor():
                floor = nats.consumer(RUNS, TERMINATOR, lambda _: False)
                nats.ask(self, lambda: floor.floor, lambda found: then(_or_failed(found, AckFloor)))
            case Publish(snapshot, at, after):
                message = event_message(
                    EventType.DEADLINE_REACHED, snapshot, source="/exeunt/timeout-scheduler", now=at, context={}
                )
                message = replace(message, expected_last_subject_sequence=after)
                nats.publish(self, message, lambda answer: then(_stored(answer)))
            case Ack() | DeadLetter() | GiveBack():
                end(command)

    def _get(self, asked: GetRun) -> Input:
        run = self._api.run(asked.run.name)
        if run is None:
            return NotFound()
        return RunRead(read_run(run, first_seen=asked.first_seen, now=self.now(), fence_wait=settings.FENCE_WAIT))

    def _end(self, delivery: Delivery, end: Command) -> None:
        if isinstance(end, GiveBack):
            delivery.give_back(delivery.back_off)
            return
        if isinstance(end, DeadLetter):
            self.clock.happened["a message is set aside"] += 1
        delivery.ack()


def _stored(answer: jetstream.Answer) -> Input:
    match answer:
        case jetstream.Stored():
            return commands.Stored()
        case jetstream.AlreadyStored():
            return commands.AlreadyStored()
        case jetstream.NotStored():
            return commands.NotStored("refused")
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
            return commands.Message(found.sequence, found.at, found.headers, found.payload)
