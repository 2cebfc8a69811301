"""What a stop asks for, and what it is answered. Pure.

Each command but the last is answered by one input. `Failed` answers any of them: it was not done, or nobody knows.
"""

from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from exeunt.events.event_types import Outcome
from exeunt.events.signals import Signal
from exeunt.run.models import StepRun, TransportBinding
from exeunt.run.snapshot import RunState, StepRunRef, StoryState

SOURCE: Final = "/exeunt/terminator"
"""Of its messages, as CloudEvents have it."""


class Delivered(Struct, frozen=True):
    """The event has been delivered, `deliveries` times by now. It has been in the stream since `stored_at`, by the
    stream's own clock. When it is given back it comes again after `back_off`. `clock_trouble` says why the clock that
    `now` is read from is not to be gone by, if it is not.
    """

    sequence: int
    deliveries: int
    stored_at: datetime
    back_off: timedelta = timedelta()
    clock_trouble: str | None = None


class Written(Struct, frozen=True):
    """The write is stored."""


class ConditionLost(Struct, frozen=True):
    """Something that the write tests is not so. `perhaps_done`: an earlier try of it got no answer."""

    why: str
    perhaps_done: bool = False


class Refused(Struct, frozen=True):
    """The write will never be taken as it is."""

    why: str


class Forbidden(Struct, frozen=True):
    """We may not write this now; the right may be granted."""

    why: str


class NotFound(Struct, frozen=True):
    """There is no such StoryRun."""


class RunRead(Struct, frozen=True):
    """The StoryRun as it is now. `own`: by this very stop it was ended, and by no other one in the same second.

    `story`: its Story as it is now; None if that was not asked for, or there is none that can be read.
    """

    run: RunState
    own: bool = False
    story: StoryState | None = None


class Listed(Struct, frozen=True):
    """The objects that name the run, of the kinds that were asked for."""

    step_runs: tuple[StepRun, ...] = ()
    bindings: tuple[TransportBinding, ...] = ()


class Signals(Struct, frozen=True):
    """The last signals that name the run."""

    signals: tuple[Signal, ...]


class Deleted(Struct, frozen=True):
    """What was there is deleted; `names` are those that were."""

    names: tuple[str, ...]


class ChildrenCanceled(Struct, frozen=True):
    """The names of the children that were asked to cancel now."""

    names: tuple[str, ...]


class Stored(Struct, frozen=True):
    """The outcome is stored."""


class AlreadyStored(Struct, frozen=True):
    """Another outcome of the same event is stored at `sequence`."""

    sequence: int


class NotStored(Struct, frozen=True):
    """The stream will never take the outcome."""


class Failed(Struct, frozen=True):
    """It has to be tried again, after as long as was asked for, or its back-off. `deleted` are the names of what was
    deleted all the same.
    """

    why: str
    deleted: tuple[str, ...] = ()
    asked: timedelta | None = None


Input = (
    Delivered
    | Written
    | ConditionLost
    | Refused
    | Forbidden
    | NotFound
    | RunRead
    | Listed
    | Signals
    | Deleted
    | ChildrenCanceled
    | Stored
    | AlreadyStored
    | NotStored
    | Failed
)


class Patch(Struct, frozen=True):
    """Send the finalizing write: Written, ConditionLost, Refused, Forbidden or NotFound."""

    run: RunState
    body: bytes


class GetRun(Struct, frozen=True):
    """Read the StoryRun, and its Story if that is asked for: RunRead or NotFound. `first_seen` is since when the run is
    known to be canceled, if it is.
    """

    run: RunState
    first_seen: datetime | None
    story: bool = False


class List(Struct, frozen=True):
    """List what names the run: Listed. It may be as old as the run that is known where it is only looked at; it is
    `as_of_now` where something of it is to be deleted.
    """

    run: RunState
    step_runs: bool = False
    bindings: bool = False
    as_of_now: bool = False


class LastSignals(Struct, frozen=True):
    """Read what was published last of the run: Signals."""

    run: RunState


class Delete(Struct, frozen=True):
    """Delete these StepRuns, each by its uid and only if it is the run's: Deleted."""

    run: RunState
    step_runs: tuple[StepRunRef, ...]


class CancelChildren(Struct, frozen=True):
    """Ask for the cancel of the run's sub-stories: ChildrenCanceled."""

    run: RunState


class Record(Struct, frozen=True):
    """Store the outcome, if the last one of the same event is at `after`, 0 for none: Stored, AlreadyStored or
    NotStored.
    """

    outcome: Outcome
    after: int = 0


class Ack(Struct, frozen=True):
    """The event is answered."""


class SecondLook(Struct, frozen=True):
    """The run has ended; deliver the event once more, in some seconds, to pass the cancel on again."""


class DeadLetter(Struct, frozen=True):
    """The event is set aside."""

    why: str


class GiveBack(Struct, frozen=True):
    """Deliver the event again, after its back-off. `not_yet`: nothing failed, it is only not, or no longer, so."""

    why: str
    after: timedelta = timedelta()
    not_yet: bool = False


Question = Patch | GetRun | List | LastSignals | Delete | CancelChildren
End = Ack | SecondLook | DeadLetter | GiveBack
Command = Question | Record | End
