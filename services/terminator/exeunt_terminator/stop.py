"""The way of one stop through the terminator, as a table. Pure.

Each state names the one thing that is done in it; what came of it leads to the next state. What is not in the table
cannot happen, and is a bug when it does. `docs/stop.md` is generated from it.

A delivery starts in DECIDING with the snapshot that its fact carries. A redelivery, or a fact that has grown old,
starts in READING instead: a run that an earlier delivery has finalized is then found finished, and what is left of it
is deleted all the same. The second look after a stop is such a redelivery, asked for. That a run is finished is never
believed of a fact: nothing is deleted of a run that was neither written nor read. And since a redrive keeps the run's
uid, what a list shows may belong to its next life: the run is read again before anything that was listed is deleted.

Where the evidence no longer holds, the fact goes back to the stream and is looked at again: its topology may go once
more, and a fact is said only once.

A write that is forbidden is recorded as failed, and its fact comes again: the right may be granted meanwhile. One that
is refused for what it says is set aside.

A write whose answer is lost is sent again, and loses its condition to itself. What is read then tells so by its time.
"""

from enum import StrEnum

from exeunt.events import DRY_RUN


class State(StrEnum):
    """What is being done."""

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
    DONE = "done"
    """The outcome is recorded."""


class Result(StrEnum):
    """What came of it."""

    FINALIZE = "finalize"
    FINALIZE_AT_DEADLINE = "finalize, its deadline has come"
    STILL_GONE = "still gone"
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


TRANSITIONS: dict[State, dict[Result, State]] = {
    State.DECIDING: {
        Result.FINALIZE: State.CHECKING,
        Result.FINALIZE_AT_DEADLINE: State.PATCHING,
        Result.CLEAN_UP: State.LISTING,
        Result.UNREAD: State.READING,
        Result.LEAVE: State.DONE,
        Result.DRY_RUN: State.DONE,
    },
    State.CHECKING: {Result.STILL_GONE: State.PATCHING},
    State.PATCHING: {
        Result.WRITTEN: State.DELETING,
        Result.WRITTEN_STEP_RUNS_UNKNOWN: State.LISTING,
        Result.CONDITION_LOST: State.READING,
        Result.NOT_FOUND: State.DONE,
        Result.REFUSED: State.DONE,
        Result.FORBIDDEN: State.DONE,
    },
    State.READING: {
        Result.READ: State.DECIDING,
        Result.ANSWER_LOST: State.LISTING,
        Result.NOT_FOUND: State.DONE,
    },
    State.LISTING: {Result.LISTED: State.CONFIRMING, Result.NOTHING_LEFT: State.DONE},
    State.CONFIRMING: {Result.STILL_ENDED: State.DELETING, Result.ENDED_NO_MORE: State.DONE},
    State.DELETING: {Result.DELETED: State.DONE},
    State.DONE: {},
}
