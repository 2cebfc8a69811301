"""The way of one deadline through the timeout-scheduler, as a table. Pure.

A deadline is a JetStream message schedule (ADR 5): durable, never early, up to 250 ms late. So it is armed a little
ahead, its delivery is held until the very instant, the run is read again (a schedule that was purged late may still
fire), and its Story (which may be opted out by now), and only then is the deadline published as reached (ADR 13).

The sweep begins with a run that it has found canceled and unfinished. Where no schedule is pending it reads the run,
which may have ended since it was listed, arms what is missing, and reads the run once more: what has ended meanwhile is
disarmed again. A run that is unfinished well after its deadline was published is published once more (ADR 16), but not
while the terminators still have the last event to settle.

Each state names the one thing that is done in it; what came of it leads to the next state. What is not in the table
cannot happen, and is a bug when it does. `machine` goes by it, `docs/stop.md` is generated from it.
"""

from enum import StrEnum
from typing import Final

from exeunt.events.event_types import EventType


class DeadlineState(StrEnum):
    """What is being done."""

    BEGUN = "begun"
    """An event of the run is delivered, its schedule has fired, or a sweep has found it."""
    READING_STORY = "reading_story"
    """Its Story is read."""
    RECALLING = "recalling"
    """What was published at the cancel is read: whatever became of the Story since, its shutdown timeout stands."""
    LOOKING_BACK = "looking_back"
    """Whether the deadline was published already is read."""
    ASKING = "asking"
    """How far the terminators have come is asked."""
    FINDING = "finding"
    """Whether its schedule is pending is read."""
    VERIFYING = "verifying"
    """The run is read: it may have ended since it was listed."""
    ARMING = "arming"
    """A schedule is stored in the stream DEADLINES, once."""
    CONFIRMING = "confirming"
    """The run is read again: it may have ended while it was armed."""
    DISARMING = "disarming"
    """The schedule is purged."""
    HOLDING = "holding"
    """The schedule has fired, a little ahead: its delivery is held in process until the instant."""
    CHECKING = "checking"
    """The run is read again, and its Story."""
    PUBLISHING = "publishing"
    """deadline-reached is published, for the terminator to finalize the run."""
    DONE = "done"
    """There is nothing left to do."""
    GIVEN_BACK = "given_back"
    """It begins again: with back-off, or with the next sweep."""


class Result(StrEnum):
    """What came of it."""

    CANCELED = "run canceled"
    ENDED = "run ended"
    FIRED = "schedule fires"
    FOUND = "found by a sweep"
    READ = "read"
    OPEN = "still stopping"
    CLOSED = "closed by a rule"
    NEVER_PUBLISHED = "never published"
    PUBLISHED_LATELY = "published, and not overdue"
    OVERDUE = "published, and overdue"
    SETTLED = "settled"
    UNSETTLED = "not acknowledged yet"
    ARMED = "armed"
    ARMED_BY_SWEEP = "armed by a sweep"
    ALREADY_ARMED = "armed already"
    DISARMED = "disarmed"
    NOT_ARMED = "not armed"
    INSTANT = "cancel_observed_at + shutdown timeout"
    PUBLISHED = "published"
    ALREADY_PUBLISHED = "published already"
    REFUSED = "refused by the stream"
    FAILED = "failed"


TRANSITIONS: dict[DeadlineState, dict[Result, DeadlineState]] = {
    DeadlineState.BEGUN: {
        Result.CANCELED: DeadlineState.ARMING,
        Result.CLOSED: DeadlineState.DONE,
        Result.ENDED: DeadlineState.DISARMING,
        Result.FIRED: DeadlineState.HOLDING,
        Result.FOUND: DeadlineState.READING_STORY,
    },
    DeadlineState.READING_STORY: {Result.READ: DeadlineState.RECALLING, Result.FAILED: DeadlineState.GIVEN_BACK},
    DeadlineState.RECALLING: {
        Result.OPEN: DeadlineState.LOOKING_BACK,
        Result.CLOSED: DeadlineState.DONE,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.LOOKING_BACK: {
        Result.NEVER_PUBLISHED: DeadlineState.FINDING,
        Result.PUBLISHED_LATELY: DeadlineState.DONE,
        Result.OVERDUE: DeadlineState.ASKING,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.ASKING: {
        Result.SETTLED: DeadlineState.PUBLISHING,
        Result.UNSETTLED: DeadlineState.DONE,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.FINDING: {
        Result.ALREADY_ARMED: DeadlineState.DONE,
        Result.NOT_ARMED: DeadlineState.VERIFYING,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.VERIFYING: {
        Result.OPEN: DeadlineState.ARMING,
        Result.CLOSED: DeadlineState.DONE,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.ARMING: {
        Result.ARMED: DeadlineState.DONE,
        Result.ARMED_BY_SWEEP: DeadlineState.CONFIRMING,
        Result.ALREADY_ARMED: DeadlineState.DONE,
        Result.REFUSED: DeadlineState.DONE,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.CONFIRMING: {
        Result.OPEN: DeadlineState.DONE,
        Result.CLOSED: DeadlineState.DISARMING,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.DISARMING: {
        Result.DISARMED: DeadlineState.DONE,
        Result.NOT_ARMED: DeadlineState.DONE,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.HOLDING: {Result.INSTANT: DeadlineState.CHECKING},
    DeadlineState.CHECKING: {
        Result.OPEN: DeadlineState.PUBLISHING,
        Result.CLOSED: DeadlineState.DONE,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.PUBLISHING: {
        Result.PUBLISHED: DeadlineState.DONE,
        Result.ALREADY_PUBLISHED: DeadlineState.DONE,
        Result.REFUSED: DeadlineState.DONE,
        Result.FAILED: DeadlineState.GIVEN_BACK,
    },
    DeadlineState.DONE: {},
    DeadlineState.GIVEN_BACK: {},
}

HEARD: Final = {
    EventType.CANCEL_REQUESTED: Result.CANCELED,
    EventType.RUN_TERMINAL: Result.ENDED,
    EventType.RUN_DELETED: Result.ENDED,
}
"""What each event means for a deadline; the timeout-scheduler hears these and no others."""
