"""A process of the watcher: its real machine, with the simulated servers around it."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from exeunt.errors import PoisonEvent
from exeunt.events.codec import event_message, read_event
from exeunt.events.event_types import cancellation_of
from exeunt.events.signals import read_signal
from exeunt.events.subjects import RUNS, event_subject
from exeunt.run.snapshot import Snapshot
from exeunt_watcher.commands import (
    AllSignalsHeard,
    AlreadyStored,
    Covered,
    GetRun,
    GetStream,
    Input,
    MessageAt,
    MessageRead,
    Publish,
    Recall,
    Recalled,
    Refused,
    SignalHeard,
    Stored,
    StreamRead,
    Tick,
)
from exeunt_watcher.machine import Watching
from exeunt_watcher.offers import StreamState
from simulation import jetstream, settings
from simulation.apiserver import ApiServer, Change
from simulation.clockwork import Clockwork
from simulation.ends import Ends
from simulation.faults import Troubles
from simulation.jetstream import JetStream, StoredMessage, Unavailable
from simulation.processes import Process
from simulation.watches import Watches

_NAMING: Final = 2 / 3
"""Of the watchers so many name StepRuns in their events. Those of the others have them listed."""


def new_machine() -> Watching:
    return Watching(
        (None,),
        default_timeout=settings.DEFAULT_TIMEOUT,
        fence_wait=settings.FENCE_WAIT,
        heartbeats_stale_after=None,
        sweep_interval=settings.SWEEP_INTERVAL,
        second_look=settings.SECOND_LOOK,
    )


class Watcher(Process):
    def __init__(self, clock: Clockwork, troubles: Troubles, name: str, api: ApiServer, nats: JetStream) -> None:
        super().__init__(clock, troubles, name)
        self._api = api
        self._nats = nats
        self._names_step_runs = clock.chance.random() < _NAMING
        self.watches: Watches | None = None
        self.machine = new_machine()
        self.ends = Ends()
        self.on_publish: list[Callable[[Publish, str | None], None]] = []
        """Told what is news, and at which version its Story was shown last."""
        api.on_change.append(self._wake)

    def begin(self) -> None:
        self.machine = new_machine()
        self.ends = Ends()
        if self.watches is not None:
            self.watches.end()
        self.watches = Watches(self._api, self, self._hear)
        self._nats.follow(self, self._on_signal, partial(self._look_at_stream, AllSignalsHeard))
        self.later(settings.TICK, self._tick)

    def _wake(self, change: Change) -> None:
        if self.alive and self.watches is not None:
            self.watches.wake(change)

    def _on_signal(self, message: StoredMessage) -> None:
        try:
            signal = read_signal(message.subject, message.headers, message.payload)
        except PoisonEvent:
            return
        if not signal.is_ahead_of(message.at):
            self._hear(SignalHeard(signal))

    def _tick(self) -> None:
        self._hear(Tick())
        self.later(settings.TICK, self._tick)

    def _hear(self, heard: Input) -> None:
        self.clock.happened[f"watcher hears: {type(heard).__name__}"] += 1
        self.ends.hear(heard)
        for command in self.machine.receive(heard, self.now()):
            self.clock.happened[f"watcher: {type(command).__name__}"] += 1
            match command:
                case Covered():
                    pass
                case Publish(event_type, snapshot):
                    if self.watches is not None and not isinstance(heard, MessageRead):
                        shown = self.watches.story_version(snapshot.story.name)
                        for told in self.on_publish:
                            told(command, shown)
                    if not self._names_step_runs:
                        snapshot = replace(snapshot, step_runs=None)  # as where they are too many
                    gone = snapshot.topology.gone.kind if snapshot.topology.gone else "up"
                    self.clock.note(self.name, f"publishes {event_type} of {snapshot.run.cancellation}: {gone}")
                    now = self.now()
                    message = event_message(event_type, snapshot, source="/exeunt/watcher", now=now, context={})
                    message = replace(message, expected_last_subject_sequence=command.after)
                    self._nats.publish(self, message, partial(self._published, command, message))
                case Recall(event_type, snapshot):
                    subject = event_subject(cancellation_of(event_type, snapshot.run), event_type)
                    self._read(command, subject)
                case MessageAt(sequence):
                    self._read(command, sequence)
                case GetStream():
                    self._look_at_stream(partial(StreamRead, command))
                case GetRun() if self.watches is not None:
                    self.watches.get_run(command)

    def _published(self, command: Publish, message: Any, answer: jetstream.Answer) -> None:
        match answer:
            case jetstream.Stored(sequence):
                self._hear(Stored(command, sequence))
            case jetstream.AlreadyStored(sequence):
                self._hear(AlreadyStored(command, sequence))
            case jetstream.NotStored():
                self._hear(Refused(command))
            case Unavailable():
                publish = partial(self._nats.publish, self, message, partial(self._published, command, message))
                self.later(self.clock.little(0.2, 2), publish)

    def _look_at_stream(self, heard: Callable[[StreamState | None], Input]) -> None:
        self._nats.ask(self, partial(self._nats.state, RUNS), partial(self._have_looked, heard))

    def _have_looked(
        self, heard: Callable[[StreamState | None], Input], found: StreamState | Unavailable | None
    ) -> None:
        if isinstance(found, Unavailable):
            self.later(self.clock.little(0.2, 2), partial(self._look_at_stream, heard))
        else:
            self._hear(heard(found))

    def _read(self, command: Recall | MessageAt, where: str | int) -> None:
        self._nats.read(self, RUNS, where, partial(self._have_read, command, where))

    def _have_read(
        self, command: Recall | MessageAt, where: str | int, found: StoredMessage | Unavailable | None
    ) -> None:
        if isinstance(found, Unavailable):
            self.later(self.clock.little(0.2, 2), partial(self._read, command, where))
        elif isinstance(command, Recall):
            self._hear(Recalled(command, _snapshot(found)))
        else:
            self._hear(MessageRead(command, _snapshot(found)))


def _snapshot(message: StoredMessage | None) -> Snapshot | None:
    if message is None:
        return None
    try:
        return read_event(message.headers, message.payload).snapshot
    except PoisonEvent:  # an outcome, say, where streams were made anew
        return None
