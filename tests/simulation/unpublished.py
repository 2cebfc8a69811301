"""What a terminator did without the bus, and publishes when it is back, as `exeunt_terminator.unpublished` does."""

from collections import deque
from functools import partial

from msgspec.structs import replace

from exeunt.events.codec import outcome_message
from exeunt.events.event_types import Verdict
from exeunt.events.messages import Message
from exeunt.events.subjects import RUNS
from exeunt_terminator.commands import SOURCE
from exeunt_terminator.local_streams import Done
from simulation import jetstream
from simulation.jetstream import JetStream, StoredMessage, Unavailable
from simulation.processes import Process


class Unpublished:
    def __init__(self, process: Process, nats: JetStream) -> None:
        self._process = process
        self._nats = nats
        self._kept: deque[Done] = deque()
        self._at_work = False

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, done: Done) -> None:
        self._kept.append(done)

    def publish(self) -> None:
        """The oldest; what fails is tried at the next look."""
        if self._kept and not self._at_work:
            self._at_work = True
            self._nats.publish(self._process, self._kept[0].message, partial(self._have_published, self._kept[0]))

    def _have_published(self, done: Done, answer: jetstream.Answer) -> None:
        match answer:
            case jetstream.Stored(sequence) | jetstream.AlreadyStored(sequence):
                event, outcome = done.event, done.outcome
                if outcome is None:
                    self._next()
                    return
                own = replace(event.snapshot, step_runs=None)
                trail = tuple(replace(step, reread=step.reread or own) for step in outcome.trail)
                outcome = replace(outcome, cause_sequence=sequence, trail=trail)
                cancellation = event.snapshot.run.cancellation
                message = outcome_message(
                    outcome, cancellation, event.event_type, source=SOURCE, now=done.at, context={}
                )
                self._nats.publish(self._process, message, partial(self._have_recorded, done, message))
            case jetstream.NotStored():
                self._next()
            case Unavailable():
                self._at_work = False

    def _have_recorded(self, done: Done, message: Message, answer: jetstream.Answer) -> None:
        outcome = done.outcome
        anew = outcome is not None and (outcome.finished_at is not None or outcome.verdict is Verdict.FAILED)
        match answer:
            case jetstream.AlreadyStored(sequence) if anew:
                after = replace(message, expected_last_subject_sequence=sequence)
                then = partial(self._have_seen_another, after)
                self._nats.read(self._process, RUNS, message.subject, then)
            case Unavailable():
                self._at_work = False
            case _:
                self._next()

    def _have_seen_another(self, after: Message, found: StoredMessage | Unavailable | None) -> None:
        if isinstance(found, Unavailable):
            self._at_work = False
        elif found is not None and found.payload == after.payload:
            self._next()  # by an earlier try
        else:
            self._nats.publish(self._process, after, self._have_added)

    def _have_added(self, answer: jetstream.Answer) -> None:
        if isinstance(answer, Unavailable | jetstream.AlreadyStored):
            self._at_work = False
        else:
            self._next()

    def _next(self) -> None:
        self._kept.popleft()
        self._at_work = False
        self.publish()
