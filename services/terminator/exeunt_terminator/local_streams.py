"""What the streams do, in the memory of one process: its part while the bus is away (ADR 25). Pure.

It is between the watcher's machine, which wants events published, and the machines of the timeout-scheduler and of this
service, which act on them; deadlines are held by whoever carries it out. What only the bus could know is answered with
"nothing is known".
"""

from collections import deque
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from exeunt.errors import PoisonEvent
from exeunt.events.codec import ReceivedEvent, event_message, read_event
from exeunt.events.event_types import ANSWERED_EVENT_TYPES, EventType, Outcome, cancellation_of
from exeunt.events.messages import Message
from exeunt.events.subjects import event_subject
from exeunt.run.snapshot import RunState, Snapshot
from exeunt_terminator import commands
from exeunt_terminator.commands import SOURCE, Delivered, Record
from exeunt_terminator.remembered import Remembered
from exeunt_timeout_scheduler import commands as deadline
from exeunt_timeout_scheduler.way import HEARD
from exeunt_watcher import commands as watch
from exeunt_watcher.machine import Watching
from exeunt_watcher.offers import StreamState

MOST_EVENTS: Final = 10_000
"""Events that are remembered as published; one that is older is acted on again when a sweep offers it, and finds
nothing to do.
"""


class Done(Struct, frozen=True):
    """An event that was acted on, as the message that it would have been, and what came of it at `at`; without an
    outcome whoever takes it from the stream has to see to it.
    """

    message: Message
    event: ReceivedEvent
    outcome: Outcome | None
    at: datetime


class LocalEvent:
    """An event that is to be acted on, as often as it is given back; `sequence` and `since` are what the stream would
    have given it.
    """

    def __init__(self, message: Message, sequence: int, since: datetime) -> None:
        self.message = message
        self.event = read_event(message.headers, message.payload)
        self.sequence = sequence
        self.since = since
        self.deliveries = 0
        self._outcomes = 0

    @property
    def stops(self) -> bool:
        """Whether this service hears it."""
        return self.event.event_type in ANSWERED_EVENT_TYPES

    @property
    def schedules(self) -> bool:
        """Whether the timeout-scheduler hears it."""
        return self.event.event_type in HEARD

    def deliver(self, back_off: float, clock_trouble: str | None) -> Delivered:
        """Once more. `back_off` are the seconds to wait if it fails."""
        self.deliveries += 1
        wait = timedelta(seconds=back_off)
        return Delivered(self.sequence, self.deliveries, self.since, wait, clock_trouble)

    def turn_away(self) -> int:
        """There was no room for it, which counts as a delivery, as it does for the stream; returns how many by now."""
        self.deliveries += 1
        return self.deliveries

    @property
    def recorded(self) -> bool:
        """Whether there is an outcome of it."""
        return self._outcomes > 0

    def handed_over(self) -> Done:
        """To be published without an outcome: perhaps its run is ended, and its StepRuns are not deleted."""
        return Done(self.message, self.event, None, self.since)

    def record(self, asked: Record, now: datetime) -> Done | commands.AlreadyStored:
        """Done: it is stored as far as the stop is concerned, and kept to be published when the bus is back."""
        if self._outcomes > asked.after:
            return commands.AlreadyStored(self._outcomes)
        self._outcomes += 1
        return Done(self.message, self.event, replace(asked.outcome, without_bus=True), now)


class LocalStreams:
    """`machine` is the watcher's, `remembered` what this process has heard of cancels while the bus was there."""

    def __init__(self, machine: Watching, remembered: Remembered) -> None:
        self._machine = machine
        self._remembered = remembered
        self._sequence = 0
        self._last: dict[str, LocalEvent] = {}  # by subject
        self._unsettled: set[int] = set()

    def receive(
        self, heard: watch.Input, now: datetime
    ) -> list[LocalEvent | watch.GetRun | watch.Recall | watch.Covered]:
        """What is to be done after the watcher's machine was told, in order."""
        asked: list[LocalEvent | watch.GetRun | watch.Recall | watch.Covered] = []
        inputs = deque([heard])
        while inputs:
            for command in self._machine.receive(inputs.popleft(), now):
                match command:
                    case watch.Publish(event_type, snapshot):
                        stored = self.store(event_type, snapshot, now, after=command.after)
                        if isinstance(stored, LocalEvent):
                            asked.append(stored)
                            inputs.append(watch.Stored(command, stored.sequence))
                        else:
                            inputs.append(watch.AlreadyStored(command, stored))
                    case watch.MessageAt(sequence):
                        there = (each.event.snapshot for each in self._last.values() if each.sequence == sequence)
                        inputs.append(watch.MessageRead(command, next(there, None)))
                    case watch.GetStream():
                        first = min((each.sequence for each in self._last.values()), default=self._sequence + 1)
                        inputs.append(watch.StreamRead(command, StreamState("", first, self._sequence, deleted=0)))
                    case watch.GetRun() | watch.Recall() | watch.Covered():
                        asked.append(command)
        return asked

    def store(self, event_type: EventType, snapshot: Snapshot, now: datetime, *, after: int = 0) -> LocalEvent | int:
        """The event, to be acted on, if the last on its subject has the sequence `after`; else the last one's."""
        subject = event_subject(cancellation_of(event_type, snapshot.run), event_type)
        last = self._last.get(subject)
        if last is not None and last.sequence != after:
            return last.sequence
        self._sequence += 1
        message = event_message(event_type, snapshot, source=SOURCE, now=now, context={})
        self._last[subject] = stored = LocalEvent(message, self._sequence, now)
        if len(self._last) > MOST_EVENTS:
            del self._last[next(iter(self._last))]
        if stored.stops:
            self._unsettled.add(stored.sequence)
            self._remembered.keep(stored.event)
        return stored

    def recall(self, asked: watch.Recall) -> Snapshot | None:
        """What this process has heard of it."""
        event_type = asked.event_type
        return self._remembered.at(event_subject(cancellation_of(event_type, asked.snapshot.run), event_type))

    def knows(self, run: RunState, now: datetime) -> bool:
        """Whether there is such a run, as far as the watches have shown."""
        seen = self._machine.peek((run.namespace, run.name), now)
        return seen is not None and seen.run.uid == run.uid

    def take(self, message: Message, now: datetime) -> LocalEvent | None:
        """The event that somebody else cannot store, to be acted on, if it is one and is new here. Of a cancel that is
        known here it may be news that it found the topology gone.

        Not one that stands on a signal: whether that was taken back only the bus knows.
        """
        try:
            event = read_event(message.headers, message.payload)
        except PoisonEvent:
            return None
        gone = event.snapshot.topology.gone
        if gone is not None and gone.kind == "signal":
            return None
        event_type = event.event_type
        if event_type is EventType.CANCEL_REQUESTED and gone is not None:
            there = self._last.get(event_subject(cancellation_of(event_type, event.snapshot.run), event_type))
            if there is not None and there.event.snapshot.topology.gone is None:
                event_type = EventType.TOPOLOGY_TERMINATED
        stored = self.store(event_type, event.snapshot, now)
        return stored if isinstance(stored, LocalEvent) else None

    def settle(self, event: LocalEvent) -> None:
        """It was acted on, and will not be again."""
        self._unsettled.discard(event.sequence)

    def look_up(self, asked: deadline.LastMessage | deadline.GetAckFloor) -> deadline.Input:
        """What a sweep wants to know of the stream RUNS."""
        if isinstance(asked, deadline.GetAckFloor):
            return deadline.AckFloor(min(self._unsettled) - 1 if self._unsettled else self._sequence)
        last = self._last.get(asked.subject)
        if last is None:
            return deadline.NoMessage()
        headers = {key.lower(): value for key, value in last.message.headers.items()}
        return deadline.Message(last.sequence, last.since, headers, last.message.payload)
