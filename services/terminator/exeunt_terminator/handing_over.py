"""One thing that was done without the bus, on its way to the stream, as a machine: answers in, messages out. Pure.

What others have published of the same meanwhile stands; only an outcome that has ended a run, or that was refused, is
added to theirs, as `machine` does it.
"""

from enum import Enum, auto

from msgspec.structs import replace

from exeunt.events.codec import outcome_message
from exeunt.events.event_types import Outcome, Verdict
from exeunt.events.messages import Message
from exeunt_terminator.commands import SOURCE
from exeunt_terminator.local_streams import Done


class HandedOver(Enum):
    """What came of it in the end."""

    RECORDED = auto()
    """Its outcome is stored."""
    NO_NEWS = auto()
    """The stream has an outcome of somebody else, or there was none to be stored."""
    OVERTAKEN = auto()
    """Somebody else stores there: begin again."""


class HandingOver:
    """Each message is answered by the sequence at which it is stored, or at which another one is in its place."""

    def __init__(self, done: Done) -> None:
        self._done = done
        self._outcome: Message | None = None

    def begin(self) -> Message:
        """The event that was acted on, before its outcome."""
        return self._done.message

    def receive(self, sequence: int, *, own: bool) -> Message | HandedOver:
        """What to store next, if anything. `own`: it is the message that is stored there."""
        outcome, stored = self._done.outcome, self._outcome
        if outcome is None:
            return HandedOver.NO_NEWS
        if stored is None:
            self._outcome = self._outcome_of_event_at(sequence, outcome)
            return self._outcome
        if own:
            return HandedOver.RECORDED
        if outcome.finished_at is None and outcome.verdict is not Verdict.FAILED:
            return HandedOver.NO_NEWS
        if stored.expected_last_subject_sequence != 0:
            return HandedOver.OVERTAKEN
        self._outcome = replace(stored, expected_last_subject_sequence=sequence)
        return self._outcome

    def _outcome_of_event_at(self, sequence: int, outcome: Outcome) -> Message:
        """Where the event is another's, it need not have the snapshot that was decided from."""
        event = self._done.event
        own = replace(event.snapshot, step_runs=None)
        trail = tuple(replace(step, reread=step.reread or own) for step in outcome.trail)
        outcome = replace(outcome, cause_sequence=sequence, trail=trail)
        cancellation = event.snapshot.run.cancellation
        return outcome_message(outcome, cancellation, event.event_type, source=SOURCE, now=self._done.at, context={})
