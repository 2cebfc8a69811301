"""A process of the terminator: its real machine, with the simulated servers around it."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

import msgspec
from msgspec.structs import replace

from exeunt.clock import parse_instant
from exeunt.errors import PoisonEvent
from exeunt.events.codec import ReceivedEvent, outcome_message, read_event
from exeunt.events.event_types import ANSWERED_EVENT_TYPES
from exeunt.events.signals import Signal, read_signal
from exeunt.events.subjects import RUNS, SIGNALS, signal_subject, trigger_token_subject
from exeunt.run.snapshot import RunState, read_run
from exeunt_terminator import commands
from exeunt_terminator.commands import (
    Ack,
    CancelChildren,
    ChildrenCanceled,
    Command,
    DeadLetter,
    Delete,
    Delivered,
    End,
    Failed,
    GetRun,
    GiveBack,
    Input,
    LastSignals,
    List,
    Listed,
    NotFound,
    Patch,
    Record,
    RunRead,
    SecondLook,
    Signals,
)
from exeunt_terminator.machine import Stopping
from exeunt_terminator.sub_stories import to_cancel
from simulation import jetstream, settings
from simulation.apiserver import STORY_RUN, ApiServer, Standing
from simulation.clockwork import Clockwork, seconds
from simulation.faults import Troubles
from simulation.jetstream import Delivery, JetStream, StoredMessage, Unavailable
from simulation.processes import Process

DURABLE = "terminator"


def is_stopping(subject: str) -> bool:
    return subject.endswith(ANSWERED_EVENT_TYPES) and ".outcome." not in subject


class Stop:
    """One delivery on its way through the machine. `looked_at`: when the evidence was looked at last, in true time."""

    def __init__(self, delivery: Delivery, event: ReceivedEvent, stopping: Stopping) -> None:
        self.delivery = delivery
        self.event = event
        self.stopping = stopping
        self.looked_at: float | None = None


class Terminator(Process):
    def __init__(
        self, clock: Clockwork, troubles: Troubles, name: str, api: ApiServer, nats: JetStream, *, propagates: bool
    ) -> None:
        super().__init__(clock, troubles, name)
        self._api = api
        self._nats = nats
        self._propagates = propagates
        self._consumer = nats.consumer(RUNS, DURABLE, is_stopping)
        self.on_command: Callable[[Command, str], float] = lambda *_: 0.0
        """Told each command, and the run's name, before it is carried out; answers with how much longer it takes."""
        self.set_aside: set[str] = set()
        """By the uid of its run."""

    def begin(self) -> None:
        self._consumer.join(self, self._deliver)

    def _deliver(self, delivery: Delivery) -> None:
        self.at_work.add(delivery)
        try:
            event = read_event(delivery.message.headers, delivery.message.payload)
        except PoisonEvent as poison:
            self._end(delivery, DeadLetter(str(poison)))
            return
        if delivery.deliveries > jetstream.MOST_DELIVERIES:
            self._end(delivery, DeadLetter("too many deliveries"))
            return
        stop = Stop(delivery, event, Stopping(event, dry_run=False, propagate_cancel=self._propagates))
        back_off = timedelta(seconds=delivery.back_off)
        sequence, stored_at = delivery.message.sequence, delivery.message.at
        self.clock.note(
            self.name, f"takes {event.event_type} of {event.snapshot.run.cancellation} ({delivery.deliveries})"
        )
        self._hear(stop, Delivered(sequence, delivery.deliveries, stored_at, back_off))

    def _hear(self, stop: Stop, heard: Input) -> None:
        command = stop.stopping.receive(heard, self.now())
        delay = self.on_command(command, stop.event.snapshot.run.name)
        if delay and not isinstance(command, End):
            self.later(delay, partial(self._do, stop, heard, command))
        else:
            self._do(stop, heard, command)

    def _do(self, stop: Stop, heard: Input, command: Command) -> None:
        self.clock.happened[f"terminator: {type(command).__name__}"] += 1
        self.clock.happened[f"terminator hears: {type(heard).__name__}"] += 1
        self.clock.note(self.name, f"{_told(heard)} -> {_told(command)}")
        match command:
            case Patch():
                standing = Standing(seconds(parse_instant(stop.event.attributes.time)), stop.looked_at)
                self._api.finalize(self, command, standing, partial(self._hear, stop))
            case GetRun(run, first_seen):
                self._ask(stop, partial(self._get, run.name, seconds(first_seen) if first_seen else None))
            case List():
                self._ask(stop, partial(self._list, stop, command))
            case LastSignals(run):
                self._last_signals(stop, run)
            case Delete():
                self._delete(stop, command, 0, ())
            case CancelChildren(run):
                self._ask(stop, partial(self._cancel_children, run))
            case Record():
                self._record(stop, command)
            case Ack() | SecondLook() | DeadLetter() | GiveBack():
                self._end(stop.delivery, command)

    def _ask(self, stop: Stop, serve: "partial[Input]") -> None:
        self._api.ask(self, serve, partial(self._hear, stop), Failed)

    def _get(self, name: str, first_seen: float | None) -> Input:
        run = self._api.run(name)
        if run is None:
            return NotFound()
        now = self.now()
        seen = now if first_seen is None else now + timedelta(seconds=first_seen - seconds(now))
        return RunRead(read_run(run, first_seen=seen, now=now, fence_wait=settings.FENCE_WAIT))

    def _list(self, stop: Stop, asked: List) -> Input:
        stop.looked_at = self.clock.now
        name = asked.run.name
        return Listed(
            tuple(self._api.step_runs(name)) if asked.step_runs else (),
            tuple(self._api.bindings(name)) if asked.bindings else (),
        )

    def _last_signals(self, stop: Stop, run: RunState) -> None:
        """One read for each way to name the run, as `last_signals` does."""
        subjects = [signal_subject(run.namespace, run.name)]
        if run.trigger_token:
            subjects.append(trigger_token_subject(run.trigger_token))
        found: list[Signal] = []

        def have_read(answer: StoredMessage | Unavailable | None) -> None:
            if isinstance(answer, Unavailable):
                self._hear(stop, Failed(answer.why))
                return
            if answer is not None:
                with suppress(PoisonEvent):
                    found.append(read_signal(answer.subject, answer.headers, answer.payload))
            read_next()

        def read_next() -> None:
            if subjects:
                stop.looked_at = self.clock.now
                self._nats.read(self, SIGNALS, subjects.pop(), have_read)
            else:
                self._hear(stop, Signals(tuple(found)))

        read_next()

    def _delete(self, stop: Stop, asked: Delete, done: int, deleted: tuple[str, ...]) -> None:
        """One after the other; what fails leaves the rest."""
        if done == len(asked.step_runs):
            self._hear(stop, commands.Deleted(deleted))
            return
        ref = asked.step_runs[done]

        def answered(answer: object) -> None:
            if answer is None:
                self._hear(stop, Failed("given up", deleted))
            else:
                self._delete(stop, asked, done + 1, (*deleted, ref.name) if answer else deleted)

        self._api.ask(self, lambda: self._api.delete_step_run(ref.name, ref.uid, asked.run), answered, lambda _: None)

    def _cancel_children(self, run: RunState) -> Input:
        there = [each for name in self._api.objects[STORY_RUN] if (each := self._api.run(name)) is not None]
        children = to_cancel(run, there)
        for child in children:
            self.clock.happened["a sub-story is canceled"] += 1
            self._api.cancel_run(child.metadata.name)
        return ChildrenCanceled(tuple(child.metadata.name for child in children))

    def _record(self, stop: Stop, command: Record) -> None:
        event = stop.event
        message = outcome_message(
            command.outcome,
            event.snapshot.run.cancellation,
            event.event_type,
            source="/exeunt/terminator",
            now=self.now(),
            context={},
        )
        message = replace(message, expected_last_subject_sequence=command.after)
        self._nats.publish(self, message, partial(self._recorded, stop))

    def _recorded(self, stop: Stop, answer: jetstream.Answer) -> None:
        match answer:
            case jetstream.Stored():
                self._hear(stop, commands.Stored())
            case jetstream.AlreadyStored(sequence):
                self._hear(stop, commands.AlreadyStored(sequence))
            case jetstream.NotStored():
                self._hear(stop, commands.NotStored())
            case Unavailable(why):
                self._hear(stop, Failed(why))

    def _end(self, delivery: Delivery, end: Command) -> None:
        match end:
            case SecondLook():
                delivery.give_back(settings.SECOND_LOOK.total_seconds())
            case GiveBack(_, after):
                delivery.give_back(after.total_seconds())
            case DeadLetter():
                self.set_aside.add(delivery.message.subject.split(".")[4])
                self.clock.happened["a message is set aside"] += 1
                delivery.ack()
            case _:
                delivery.ack()


def _told(what: msgspec.Struct) -> str:
    name = type(what).__name__
    why = getattr(what, "why", None)
    return f"{name}({why})" if why else name
