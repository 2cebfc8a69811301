"""Stops on their way: the real machine, each of whose commands is carried out on the simulated kube-apiserver."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

import msgspec

from exeunt.errors import PoisonEvent
from exeunt.events.codec import ReceivedEvent
from exeunt.events.event_types import EventType
from exeunt.events.signals import Signal, read_signal
from exeunt.events.subjects import SIGNALS, signal_subject, trigger_token_subject
from exeunt.run.managed_fields import FIELD_MANAGER, ended_by
from exeunt.run.snapshot import RunState, read_run, read_story
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
from simulation import settings
from simulation.apiserver import STORY_RUN, ApiServer, Basis
from simulation.clockwork import seconds
from simulation.jetstream import JetStream, StoredMessage, Unavailable
from simulation.processes import Process


class Stop:
    """One event on its way through the machine. `record` and `end` are what becomes of its outcome and of its event;
    `name` is the one that it ends its run in. `looked_at`: when the evidence was looked at last, in true time;
    `read_at`: and the run.
    """

    def __init__(
        self,
        event: ReceivedEvent,
        stopping: Stopping,
        record: Callable[["Stop", Record], None],
        end: Callable[[Command], None],
    ) -> None:
        self.event = event
        self.stopping = stopping
        self.record = record
        self.end = end
        self.name = ""
        self.looked_at: float | None = None
        self.read_at: float | None = None

    @property
    def basis(self) -> Basis:
        by_deadline = self.event.event_type is EventType.DEADLINE_REACHED
        return Basis(self.looked_at, self.stopping.snapshot.story.resource_version, self.read_at, by_deadline)


class Stops:
    """Carries out what the stops of a process ask for. Without `nats` nobody knows of any signal."""

    def __init__(self, process: Process, api: ApiServer, nats: JetStream | None, *, propagates: bool) -> None:
        self.propagates = propagates
        self.on_command: Callable[[Command, str], float] = lambda *_: 0.0
        """Told each command, and the run's name, before it is carried out; answers with how much longer it takes."""
        self._process = process
        self._api = api
        self._nats = nats

    def begin(self, stop: Stop, delivered: Delivered) -> None:
        run = stop.event.snapshot.run
        stop.name = f"{FIELD_MANAGER}/{next(self._process.clock.numbers)}"
        self._process.clock.note(
            self._process.name, f"takes {stop.event.event_type} of {run.cancellation} ({delivered.deliveries})"
        )
        self.hear(stop, delivered)

    def hear(self, stop: Stop, heard: Input) -> None:
        command = stop.stopping.receive(heard, self._process.now())
        delay = self.on_command(command, stop.event.snapshot.run.name)
        if delay and not isinstance(command, End):
            self._process.later(delay, partial(self._do, stop, heard, command))
        else:
            self._do(stop, heard, command)

    def _do(self, stop: Stop, heard: Input, command: Command) -> None:
        self._process.clock.happened[f"terminator: {type(command).__name__}"] += 1
        self._process.clock.happened[f"terminator hears: {type(heard).__name__}"] += 1
        self._process.clock.note(self._process.name, f"{_told(heard)} -> {_told(command)}")
        match command:
            case Patch():
                self._api.finalize(self._process, command, stop.name, stop.basis, partial(self.hear, stop))
            case GetRun(run, first_seen, story):
                since = seconds(first_seen) if first_seen else None
                self._ask(stop, partial(self._get, stop, run.name, since, story=story))
            case List():
                self._ask(stop, partial(self._list, stop, command))
            case LastSignals(run):
                self._last_signals(stop, run)
            case Delete():
                self._delete(stop, command, 0, ())
            case CancelChildren(run):
                self._ask(stop, partial(self._cancel_children, run))
            case Record():
                stop.record(stop, command)
            case Ack() | SecondLook() | DeadLetter() | GiveBack():
                stop.end(command)

    def _ask(self, stop: Stop, serve: "partial[Input]") -> None:
        self._api.ask(self._process, serve, partial(self.hear, stop), Failed)

    def _get(self, stop: Stop, name: str, first_seen: float | None, *, story: bool) -> Input:
        stop.read_at = self._process.clock.now
        run = self._api.run(name)
        if run is None:
            return NotFound()
        now = self._process.now()
        seen = now if first_seen is None else now + timedelta(seconds=first_seen - seconds(now))
        state = read_run(run, first_seen=seen, now=now, fence_wait=settings.FENCE_WAIT)
        there = self._api.story(run.spec.story_ref.name) if story else None
        own = ended_by(run.metadata.managed_fields) == stop.name
        return RunRead(state, own=own, story=read_story(run, there) if there else None)

    def _list(self, stop: Stop, asked: List) -> Input:
        stop.looked_at = self._process.clock.now
        name = asked.run.name
        return Listed(
            tuple(self._api.step_runs(name)) if asked.step_runs else (),
            tuple(self._api.bindings(name)) if asked.bindings else (),
        )

    def _last_signals(self, stop: Stop, run: RunState) -> None:
        """One read for each way to name the run, as `last_signals` does."""
        nats = self._nats
        if nats is None:
            self.hear(stop, Signals(()))
            return
        subjects = [signal_subject(run.namespace, run.name)]
        if run.trigger_token:
            subjects.append(trigger_token_subject(run.trigger_token))
        found: list[Signal] = []

        def have_read(answer: StoredMessage | Unavailable | None) -> None:
            if isinstance(answer, Unavailable):
                self.hear(stop, Failed(answer.why))
                return
            if answer is not None:
                with suppress(PoisonEvent):
                    found.append(read_signal(answer.subject, answer.headers, answer.payload))
            read_next()

        def read_next() -> None:
            if subjects:
                stop.looked_at = self._process.clock.now
                nats.read(self._process, SIGNALS, subjects.pop(), have_read)
            else:
                self.hear(stop, Signals(tuple(found)))

        read_next()

    def _delete(self, stop: Stop, asked: Delete, done: int, deleted: tuple[str, ...]) -> None:
        """One after the other; what fails leaves the rest."""
        if done == len(asked.step_runs):
            self.hear(stop, commands.Deleted(deleted))
            return
        ref = asked.step_runs[done]

        def answered(answer: object) -> None:
            if answer is None:
                self.hear(stop, Failed("given up", deleted))
            else:
                self._delete(stop, asked, done + 1, (*deleted, ref.name) if answer else deleted)

        self._api.ask(
            self._process, lambda: self._api.delete_step_run(ref.name, ref.uid, asked.run), answered, lambda _: None
        )

    def _cancel_children(self, run: RunState) -> Input:
        there = [each for name in self._api.objects[STORY_RUN] if (each := self._api.run(name)) is not None]
        children = to_cancel(run, there)
        for child in children:
            self._process.clock.happened["a sub-story is canceled"] += 1
            self._api.cancel_run(child.metadata.name)
        return ChildrenCanceled(tuple(child.metadata.name for child in children))


def _told(what: msgspec.Struct) -> str:
    name = type(what).__name__
    why = getattr(what, "why", None)
    return f"{name}({why})" if why else name
