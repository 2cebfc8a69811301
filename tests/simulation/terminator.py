"""A process of the terminator: its real machines, with the simulated servers around it."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final

from msgspec.structs import replace

from exeunt.errors import PoisonEvent
from exeunt.events.codec import outcome_message, read_event
from exeunt.events.event_types import ANSWERED_EVENT_TYPES
from exeunt.events.subjects import RUNS, TERMINATOR
from exeunt_terminator import commands
from exeunt_terminator.commands import Command, DeadLetter, Delivered, Failed, GiveBack, Record, SecondLook
from exeunt_terminator.machine import Stopping
from exeunt_terminator.patience import Patience
from exeunt_terminator.remembered import Remembered
from simulation import jetstream, settings
from simulation.apiserver import ApiServer, Change
from simulation.clockwork import Clockwork
from simulation.faults import Troubles
from simulation.jetstream import Delivery, JetStream, Unavailable
from simulation.processes import Process
from simulation.stand_in import StandIn
from simulation.stops import Stop, Stops
from simulation.unpublished import Unpublished

_LOOK: Final = 0.5
"""Seconds between two looks at whether NATS works."""


def is_stopping(subject: str) -> bool:
    return subject.endswith(ANSWERED_EVENT_TYPES) and ".outcome." not in subject


class Terminator(Process):
    def __init__(
        self, clock: Clockwork, troubles: Troubles, name: str, api: ApiServer, nats: JetStream, *, propagates: bool
    ) -> None:
        super().__init__(clock, troubles, name)
        self._api = api
        self._nats = nats
        self._consumer = nats.consumer(RUNS, TERMINATOR, is_stopping)
        self._stops = Stops(self, api, nats, propagates=propagates)
        self._without_bus = Stops(self, api, None, propagates=propagates)
        self._patience = Patience(settings.BUS_PATIENCE)
        self._remembered = Remembered()
        self.stand_in: StandIn | None = None
        self.unpublished = Unpublished(self, nats)
        self.set_aside: set[str] = set()
        """By the uid of its run."""
        api.on_change.append(self._wake)

    def on_command(self, told: Callable[[Command, str], float]) -> None:
        self._stops.on_command = self._without_bus.on_command = told

    def begin(self) -> None:
        self._patience = Patience(settings.BUS_PATIENCE)
        self._remembered = Remembered()
        self.stand_in = None
        self.unpublished = Unpublished(self, self._nats)
        self._consumer.join(self, self._deliver)
        self._look()

    # Whether there is a bus.

    def _look(self) -> None:
        works = self._nats.works_for(self)
        away = self._patience.look(works=works, now=self.clock.now)
        if away and self.stand_in is None:
            self.stand_in = StandIn(self, self._api, self._without_bus, self._remembered, self.unpublished.add)
        elif not away and self.stand_in is not None:
            self.stand_in.stop()
            self.stand_in = None
        if works and not away:
            self.unpublished.publish()
        self.later(_LOOK, self._look)

    def _wake(self, change: Change) -> None:
        if self.alive and self.stand_in is not None:
            self.stand_in.watches.wake(change)

    # What the stream delivers.

    def _deliver(self, delivery: Delivery) -> None:
        self.at_work.add(delivery)
        end = partial(self._end, delivery)
        try:
            event = read_event(delivery.message.headers, delivery.message.payload)
        except PoisonEvent as poison:
            end(DeadLetter(str(poison)))
            return
        if delivery.deliveries > jetstream.MOST_DELIVERIES:
            end(DeadLetter("too many deliveries"))
            return
        self._remembered.keep(event)
        stopping = Stopping(event, dry_run=False, propagate_cancel=self._stops.propagates)
        back_off = timedelta(seconds=delivery.back_off)
        sequence, stored_at = delivery.message.sequence, delivery.message.at
        self._stops.begin(
            Stop(event, stopping, self._record, end), Delivered(sequence, delivery.deliveries, stored_at, back_off)
        )

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
        self._nats.publish_own(self, RUNS, message, partial(self._recorded, stop))

    def _recorded(self, stop: Stop, answer: jetstream.Answer) -> None:
        match answer:
            case jetstream.Stored():
                self._stops.hear(stop, commands.Stored())
            case jetstream.AlreadyStored(sequence):
                self._stops.hear(stop, commands.AlreadyStored(sequence))
            case jetstream.NotStored():
                self._stops.hear(stop, commands.NotStored())
            case Unavailable(why):
                self._stops.hear(stop, Failed(why))

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
