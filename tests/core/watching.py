"""The stream RUNS and a watcher without I/O, for searches by hypothesis: the real machine, whose commands are carried
out at once, on a stream whose messages have been encoded and are decoded by the real codec.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from core.objects import FENCE_WAIT
from exeunt.events.codec import event_message, read_event
from exeunt.events.event_types import EventType, cancellation_of
from exeunt.events.messages import Message
from exeunt.events.subjects import event_subject
from exeunt.kube.changes import Page
from exeunt.kube.resources import Resource
from exeunt.run.cancellations import Cancellation
from exeunt.run.models import KubeObject
from exeunt.run.snapshot import Snapshot
from exeunt_watcher.commands import (
    AllSignalsHeard,
    AlreadyStored,
    Answer,
    Command,
    Covered,
    GetRun,
    GetStream,
    Input,
    MessageAt,
    MessageRead,
    Publish,
    Recall,
    Recalled,
    RunRead,
    Seen,
    Stored,
    StreamRead,
    Tick,
)
from exeunt_watcher.machine import RESOURCES, Watching
from exeunt_watcher.offers import StreamState
from exeunt_watcher.projection import Projection


class Stream:
    """RUNS: a message is kept if the last one on its subject is the one that is expected, mostly none (ADR 3)."""

    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        """The last one on each subject; outcomes are not among them."""
        self.sequences: dict[str, int] = {}
        self.last = 0

    def publish(self, message: Message) -> bool:
        """Whether it was stored."""
        assert message.expected_last_subject_sequence is not None
        stored = self.next(message.subject, after=message.expected_last_subject_sequence)
        if stored:
            self.messages[message.subject] = message
        return stored

    def next(self, subject: str, *, after: int) -> bool:
        """Give the next sequence to a message, if the last on its subject is that one."""
        if self.sequences.get(subject, 0) != after:
            return False
        self.last += 1
        self.sequences[subject] = self.last
        return True

    def published(self, cancellation: Cancellation, event_type: EventType) -> Snapshot | None:
        """The snapshot that `event_type` was published with, if it was."""
        return _snapshot(self.messages.get(event_subject(cancellation, event_type)))

    def at(self, sequence: int) -> Snapshot | None:
        return _snapshot(next(self.messages[subject] for subject, at in self.sequences.items() if at == sequence))


def _snapshot(message: Message | None) -> Snapshot | None:
    return None if message is None else read_event(message.headers, message.payload).snapshot


class Watcher:
    """One process of the watcher, from its start on. `told` hears every event before it is published."""

    def __init__(self, stream: Stream, reported: Callable[[EventType, Snapshot], None] = lambda *_: None) -> None:
        self.machine = Watching(
            (None,),
            default_timeout=timedelta(seconds=20),
            fence_wait=FENCE_WAIT,
            heartbeats_stale_after=None,
            sweep_interval=timedelta(0),  # whenever it ticks
            second_look=timedelta(seconds=3),
        )
        self._stream = stream
        self._rendered = reported

    @property
    def projection(self) -> Projection:
        return self.machine._projection

    def start(self, now: datetime, listed: dict[Resource[Any], Iterable[KubeObject]], signals: Iterable[Input]) -> None:
        """List every kind and hear every signal."""
        for resource in RESOURCES:
            self.hear(Seen(resource, None, Page(list(listed[resource]))), now)
        for signal in signals:
            self.hear(signal, now)
        self.hear(AllSignalsHeard(), now)
        self.sweep(now)  # from this on they are counted

    def sweep(self, now: datetime) -> None:
        self.hear(Tick(), now)

    def hear(self, heard: Input, now: datetime) -> None:
        commands = self.machine.receive(heard, now)
        while commands:
            answer = self.answer(commands.pop(0), now)
            commands += self.machine.receive(answer, now) if answer else []

    def answer(self, asked: Command, now: datetime) -> Answer | None:
        match asked:
            case Publish(event_type, snapshot):
                self._rendered(event_type, snapshot)
                message = event_message(event_type, snapshot, source="/watcher", now=now, context={})
                if self._stream.publish(message):
                    return Stored(asked, self._stream.last)
                return AlreadyStored(asked, self._stream.sequences[message.subject])
            case Recall(event_type, snapshot):
                return Recalled(asked, self._stream.published(cancellation_of(event_type, snapshot.run), event_type))
            case MessageAt(sequence):
                return MessageRead(asked, self._stream.at(sequence))
            case GetStream():
                return StreamRead(asked, StreamState("made", 1, self._stream.last, 0))
            case GetRun(left=()):
                raise AssertionError("it lists but once")
            case GetRun():
                return RunRead(asked, None)
            case Covered():
                return None
