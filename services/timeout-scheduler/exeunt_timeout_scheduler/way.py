"""The way of one deadline through the timeout-scheduler, as a table. Pure.

A deadline is a JetStream message schedule (ADR 5): durable, never early, up to 250 ms late. So it is armed a little
ahead, its delivery is held until the very instant, the run is read again (a schedule that was purged late may still
fire), and only then is the deadline published as reached (ADR 13).

The sweep begins with a run that it has found canceled and unfinished. It arms what is missing, and then reads the run
once more: what has ended since it was listed is disarmed again. A run that is unfinished well after its deadline was
published is published once more (ADR 16), but not while the terminators still have the last event to settle.

Each state names the one thing that is done in it; what came of it leads to the next state. What is not in the table
cannot happen, and is a bug when it does. `machine` goes by it, `docs/stop.md` is generated from it.
"""

from enum import StrEnum
from typing import Final

from exeunt.events import Fact


class State(StrEnum):
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
    ARMING = "arming"
    """A schedule is stored in the stream DEADLINES, once."""
    CONFIRMING = "confirming"
    """The run is read again: it may have ended since it was listed."""
    DISARMING = "disarming"
    """The schedule is purged."""
    HOLDING = "holding"
    """The schedule has fired, a little ahead: its delivery is held in process until the instant."""
    CHECKING = "checking"
    """The run is read again."""
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
    UNSETTLED = "not settled yet"
    ARMED = "armed"
    ARMED_BY_SWEEP = "armed by a sweep"
    ALREADY_ARMED = "armed already"
    DISARMED = "disarmed"
    NOT_ARMED = "not armed"
    INSTANT = "fence + shutdown timeout"
    PUBLISHED = "published"
    ALREADY_PUBLISHED = "published already"
    REFUSED = "refused by the stream"
    FAILED = "failed"


TRANSITIONS: dict[State, dict[Result, State]] = {
    State.BEGUN: {
        Result.CANCELED: State.ARMING,
        Result.CLOSED: State.DONE,
        Result.ENDED: State.DISARMING,
        Result.FIRED: State.HOLDING,
        Result.FOUND: State.READING_STORY,
    },
    State.READING_STORY: {Result.READ: State.RECALLING, Result.FAILED: State.GIVEN_BACK},
    State.RECALLING: {
        Result.OPEN: State.LOOKING_BACK,
        Result.CLOSED: State.DONE,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.LOOKING_BACK: {
        Result.NEVER_PUBLISHED: State.ARMING,
        Result.PUBLISHED_LATELY: State.DONE,
        Result.OVERDUE: State.ASKING,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.ASKING: {
        Result.SETTLED: State.PUBLISHING,
        Result.UNSETTLED: State.DONE,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.ARMING: {
        Result.ARMED: State.DONE,
        Result.ARMED_BY_SWEEP: State.CONFIRMING,
        Result.ALREADY_ARMED: State.DONE,
        Result.REFUSED: State.DONE,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.CONFIRMING: {
        Result.OPEN: State.DONE,
        Result.CLOSED: State.DISARMING,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.DISARMING: {
        Result.DISARMED: State.DONE,
        Result.NOT_ARMED: State.DONE,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.HOLDING: {Result.INSTANT: State.CHECKING},
    State.CHECKING: {
        Result.OPEN: State.PUBLISHING,
        Result.CLOSED: State.DONE,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.PUBLISHING: {
        Result.PUBLISHED: State.DONE,
        Result.ALREADY_PUBLISHED: State.DONE,
        Result.REFUSED: State.DONE,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.DONE: {},
    State.GIVEN_BACK: {},
}

HEARD: Final = {
    Fact.CANCEL_REQUESTED: Result.CANCELED,
    Fact.RUN_TERMINAL: Result.ENDED,
    Fact.RUN_DELETED: Result.ENDED,
}
"""What each event means for a deadline; the timeout-scheduler hears these and no others."""
