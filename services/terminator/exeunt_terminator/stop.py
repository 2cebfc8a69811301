"""The way of one stop through the terminator, as a table. Pure.

Each state names the one thing that is done in it; what came of it leads to the next state. What is not in the table
cannot happen, and is a bug when it does. `machine` goes by it, `docs/stop.md` is generated from it.

A first delivery is decided by the snapshot that its fact carries. A redelivery, or a fact that has grown old, is
decided by the run as it is read: a run that an earlier delivery has finalized is then found finished, and what is left
of it is deleted all the same. The second look after a stop is such a redelivery, asked for. That a run is finished is
never believed of a fact: nothing is deleted of a run that was neither written nor read, and no cancel is passed on. And
since a redrive keeps the run's uid, what a list shows may belong to its next life: the run is read again before
anything that was listed is deleted.

Where the evidence no longer holds, the fact goes back to the stream and is looked at again: its topology may go once
more, and a fact is said only once.

A write that is forbidden is recorded as failed, and its fact comes again: the right may be granted meanwhile. One that
is refused for what it says is set aside.

A write whose answer is lost is sent again, and loses its condition to itself. What is read then tells so by its time.

Whatever fails gives the fact back to the stream, to be tried again. Once the run is written its outcome is recorded
instead, and the second look does the rest.
"""

from enum import StrEnum

from exeunt.events import DRY_RUN


class State(StrEnum):
    """What is being done."""

    DELIVERED = "delivered"
    """The fact has come."""
    DECIDING = "deciding"
    """The rules are asked (`decision`)."""
    CHECKING = "checking"
    """The evidence that the topology is gone is looked at once more (`evidence`)."""
    PATCHING = "patching"
    """The finalizing write is sent (`finalize`)."""
    READING = "reading"
    """The StoryRun is read again."""
    LISTING = "listing"
    """The StepRuns that have to go are looked up."""
    CONFIRMING = "confirming"
    """The StoryRun is read once more: what was listed is the ended run's only if no redrive has begun meanwhile."""
    DELETING = "deleting"
    """They are deleted, each by its uid and only if it is the run's."""
    PASSING_ON = "passing_on"
    """The cancel is passed on to sub-stories, where that is asked for (`sub_stories`)."""
    RECORDING = "recording"
    """The outcome is recorded."""
    DONE = "done"
    """The fact is answered: acknowledged, set aside, or asked for once more for the second look."""
    GIVEN_BACK = "given_back"
    """The fact is delivered again, with back-off."""


class Result(StrEnum):
    """What came of it."""

    FIRST = "for the first time"
    AGAIN = "again, or grown old"
    FINALIZE = "finalize"
    FINALIZE_AT_DEADLINE = "finalize, its deadline has come"
    STILL_GONE = "still gone"
    UP_AGAIN = "up again"
    CLEAN_UP = "clean up"
    UNREAD = "by the word of the fact only"
    LEAVE = "leave"
    DRY_RUN = DRY_RUN
    WRITTEN = "written"
    WRITTEN_STEP_RUNS_UNKNOWN = "written, StepRuns unknown"
    CONDITION_LOST = "condition lost (422)"
    ANSWER_LOST = "written, the answer lost"
    REFUSED = "refused (422 with causes)"
    FORBIDDEN = "forbidden (403)"
    NOT_FOUND = "not found (404)"
    READ = "read"
    LISTED = "listed"
    NOTHING_LEFT = "nothing left"
    STILL_ENDED = "still ended"
    ENDED_NO_MORE = "redriven, or deleted"
    DELETED = "deleted"
    PASSED_ON = "passed on"
    NOT_PASSED_ON = "not asked for, or not this run's"
    RECORDED = "recorded, or refused by the stream"
    IN_VAIN = "an earlier one came to nothing"
    NOT_FOR_GOOD = "forbidden, and tried again"
    FAILED = "failed"
    FAILED_WRITTEN = "failed, but written"


_AFTER_A_WRITE: dict[Result, State] = {
    Result.FAILED: State.GIVEN_BACK,
    Result.FAILED_WRITTEN: State.RECORDING,
}

TRANSITIONS: dict[State, dict[Result, State]] = {
    State.DELIVERED: {Result.FIRST: State.DECIDING, Result.AGAIN: State.READING},
    State.DECIDING: {
        Result.FINALIZE: State.CHECKING,
        Result.FINALIZE_AT_DEADLINE: State.PATCHING,
        Result.CLEAN_UP: State.LISTING,
        Result.UNREAD: State.READING,
        Result.LEAVE: State.PASSING_ON,
        Result.DRY_RUN: State.RECORDING,
    },
    State.CHECKING: {
        Result.STILL_GONE: State.PATCHING,
        Result.UP_AGAIN: State.GIVEN_BACK,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.PATCHING: {
        Result.WRITTEN: State.DELETING,
        Result.WRITTEN_STEP_RUNS_UNKNOWN: State.LISTING,
        Result.CONDITION_LOST: State.READING,
        Result.NOT_FOUND: State.RECORDING,
        Result.REFUSED: State.RECORDING,
        Result.FORBIDDEN: State.RECORDING,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.READING: {
        Result.READ: State.DECIDING,
        Result.ANSWER_LOST: State.LISTING,
        Result.NOT_FOUND: State.RECORDING,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.LISTING: {Result.LISTED: State.CONFIRMING, Result.NOTHING_LEFT: State.PASSING_ON, **_AFTER_A_WRITE},
    State.CONFIRMING: {Result.STILL_ENDED: State.DELETING, Result.ENDED_NO_MORE: State.RECORDING, **_AFTER_A_WRITE},
    State.DELETING: {Result.DELETED: State.PASSING_ON, **_AFTER_A_WRITE},
    State.PASSING_ON: {
        Result.PASSED_ON: State.RECORDING,
        Result.NOT_PASSED_ON: State.RECORDING,
        Result.UNREAD: State.READING,
        **_AFTER_A_WRITE,
    },
    State.RECORDING: {
        Result.RECORDED: State.DONE,
        Result.IN_VAIN: State.RECORDING,
        Result.NOT_FOR_GOOD: State.GIVEN_BACK,
        Result.FAILED: State.GIVEN_BACK,
    },
    State.DONE: {},
    State.GIVEN_BACK: {},
}
