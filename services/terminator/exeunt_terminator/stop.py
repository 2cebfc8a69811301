"""The way of one stop through the terminator, as a table. Pure.

Each state names the one thing that is done in it; what came of it leads to the next state. What is not in the table
cannot happen, and is a bug when it does. `machine` goes by it, `docs/stop.md` is generated from it.

A first delivery is decided by the snapshot that its event carries. A redelivery, or an event that has grown old, is
decided by the run as it is read: a run that an earlier delivery has finalized is then found finished, and what is left
of it is deleted all the same. So is an event that StepRuns are left, by which the watcher has late ones deleted (ADR
15). That a run is finished is never believed of an event: nothing is deleted of a run that was neither written nor
read, and no cancel is passed on.

The StepRuns that an event names were there when it was published, so in the cancellation in which the run is written or
read they are of no later attempt, and their uids go with them. An event that names none, because they were too many or
not known, has them listed. Since a redrive keeps the run's uid, what a list shows may belong to the next attempt: the
run is read again before anything that was listed is deleted.

Where the evidence no longer holds, the event goes back to the stream and is looked at again: its topology may go once
more, and an event is published only once.

Whether a deadline has come is for the clock of whoever acts on it, too: where that says that it has not, the event is
given back until then, and a clock that differs from the kube-apiserver's ends no run by its deadline (ADR 13).

That a cancel is heard while the topology is up, and nothing is done, follows from its event alone: it is not recorded.

A write that is forbidden is recorded as failed, and its event comes again: the right may be granted meanwhile. One that
is refused for what it says is set aside.

A write whose answer is lost is sent again, and loses its condition to itself. What is read then tells so by the name in
which it was written, which is this stop's alone.

Whatever fails gives the event back to the stream, to be tried again. Once the run is written its outcome is recorded
first, and the next delivery does the rest. Where cancels are passed on, there is a second look after a stop: the event
is asked for once more, for children that were changing just then, or came late.
"""

from enum import StrEnum

from exeunt.events.event_types import DRY_RUN


class StopState(StrEnum):
    """What is being done."""

    DELIVERED = "delivered"
    """The event has come."""
    DECIDING = "deciding"
    """The rules are asked (`decision`)."""
    CHECKING = "checking"
    """The evidence that the topology is gone is looked at once more (`decision`)."""
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
    """The outcome is recorded, unless the event says it already."""
    DONE = "done"
    """The event is answered: acknowledged, set aside, or asked for once more for the second look."""
    GIVEN_BACK = "given_back"
    """The event is delivered again, with back-off."""


class Result(StrEnum):
    """What came of it."""

    FIRST = "for the first time"
    AGAIN = "again, or grown old"
    FINALIZE = "finalize"
    FINALIZE_AT_DEADLINE = "finalize, its deadline has come"
    NOT_DUE = "not come by our clock"
    STILL_GONE = "still gone"
    UP_AGAIN = "up again"
    CLEAN_UP = "clean up"
    CLEAN_UP_STEP_RUNS_UNKNOWN = "clean up, StepRuns unknown"
    UNREAD = "by the word of the event only"
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
    RECORDED_UNDONE = "recorded, with something left to do"
    SELF_EVIDENT = "its event says all"
    IN_VAIN = "an earlier one came to nothing"
    NOT_FOR_GOOD = "forbidden, and tried again"
    FAILED = "failed"
    FAILED_WRITTEN = "failed, but written"


_AFTER_A_WRITE: dict[Result, StopState] = {
    Result.FAILED: StopState.GIVEN_BACK,
    Result.FAILED_WRITTEN: StopState.RECORDING,
}

TRANSITIONS: dict[StopState, dict[Result, StopState]] = {
    StopState.DELIVERED: {Result.FIRST: StopState.DECIDING, Result.AGAIN: StopState.READING},
    StopState.DECIDING: {
        Result.FINALIZE: StopState.CHECKING,
        Result.FINALIZE_AT_DEADLINE: StopState.PATCHING,
        Result.NOT_DUE: StopState.GIVEN_BACK,
        Result.CLEAN_UP: StopState.DELETING,
        Result.CLEAN_UP_STEP_RUNS_UNKNOWN: StopState.LISTING,
        Result.UNREAD: StopState.READING,
        Result.LEAVE: StopState.PASSING_ON,
        Result.DRY_RUN: StopState.RECORDING,
    },
    StopState.CHECKING: {
        Result.STILL_GONE: StopState.PATCHING,
        Result.UP_AGAIN: StopState.GIVEN_BACK,
        Result.FAILED: StopState.GIVEN_BACK,
    },
    StopState.PATCHING: {
        Result.WRITTEN: StopState.DELETING,
        Result.WRITTEN_STEP_RUNS_UNKNOWN: StopState.LISTING,
        Result.CONDITION_LOST: StopState.READING,
        Result.NOT_FOUND: StopState.RECORDING,
        Result.REFUSED: StopState.RECORDING,
        Result.FORBIDDEN: StopState.RECORDING,
        Result.FAILED: StopState.GIVEN_BACK,
    },
    StopState.READING: {
        Result.READ: StopState.DECIDING,
        Result.ANSWER_LOST: StopState.LISTING,
        Result.NOT_FOUND: StopState.RECORDING,
        Result.FAILED: StopState.GIVEN_BACK,
    },
    StopState.LISTING: {
        Result.LISTED: StopState.CONFIRMING,
        Result.NOTHING_LEFT: StopState.PASSING_ON,
        **_AFTER_A_WRITE,
    },
    StopState.CONFIRMING: {
        Result.STILL_ENDED: StopState.DELETING,
        Result.ENDED_NO_MORE: StopState.RECORDING,
        **_AFTER_A_WRITE,
    },
    StopState.DELETING: {Result.DELETED: StopState.PASSING_ON, **_AFTER_A_WRITE},
    StopState.PASSING_ON: {
        Result.PASSED_ON: StopState.RECORDING,
        Result.NOT_PASSED_ON: StopState.RECORDING,
        Result.UNREAD: StopState.READING,
        **_AFTER_A_WRITE,
    },
    StopState.RECORDING: {
        Result.RECORDED: StopState.DONE,
        Result.RECORDED_UNDONE: StopState.GIVEN_BACK,
        Result.SELF_EVIDENT: StopState.DONE,
        Result.IN_VAIN: StopState.RECORDING,
        Result.NOT_FOR_GOOD: StopState.GIVEN_BACK,
        Result.FAILED: StopState.GIVEN_BACK,
    },
    StopState.DONE: {},
    StopState.GIVEN_BACK: {},
}
