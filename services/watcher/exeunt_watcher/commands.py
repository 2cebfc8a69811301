"""What a watcher hears, and what it asks for. Pure.

Every command but Covered is answered by one input, which carries the command, in any order and however late. An answer
comes once it is known: what is away is waited for by whoever carries the commands out.
"""

from typing import Any

from msgspec import Struct, field

from exeunt.events.event_types import EventType
from exeunt.events.signals import Signal
from exeunt.kube.changes import Change
from exeunt.kube.resources import Resource
from exeunt.run.models import StoryRun
from exeunt.run.snapshot import Snapshot
from exeunt_watcher.known import Key, Left
from exeunt_watcher.lateness import Late
from exeunt_watcher.offers import StreamState


class Publish(Struct, frozen=True):
    """Store the event, unless one of its subject is stored later than at `after`: Stored, AlreadyStored or Refused.

    `late` is measured by the watcher that is the first to publish it. `sweep` is the last one before it.
    """

    event_type: EventType = field(name="fact")
    snapshot: Snapshot
    late: Late | None = None
    after: int = 0
    sweep: int | None = None


class Recall(Struct, frozen=True):
    """Read what is stored of the run's cancellation, or of its attempt: Recalled."""

    event_type: EventType = field(name="fact")
    snapshot: Snapshot


class MessageAt(Struct, frozen=True):
    """Read the event at that sequence, which was stored in place of the one that was asked for: MessageRead."""

    sequence: int
    asked: Publish


class GetRun(Struct, frozen=True):
    """Read the StoryRun, which was of this uid: RunRead, or RunUndecodable.

    Or of which this was left, though it is not known as unfinished; what comes later may be of its next attempt.
    """

    key: Key
    uid: str | None
    left: tuple[Left, ...] = ()


class GetStream(Struct, frozen=True):
    """Ask how the stream is: StreamRead."""


class Covered(Struct, frozen=True):
    """From now on this namespace is spoken for, or all of them (None). To be reported; there is no answer."""

    namespace: str | None
    unfinished_runs: int


Question = Publish | Recall | MessageAt | GetRun | GetStream
Command = Question | Covered


class Seen(Struct, frozen=True):
    """The list-and-watch of this resource in this namespace, or in all of them (None), shows a change."""

    resource: Resource[Any]
    namespace: str | None
    change: Change[Any]


class Restored(Struct, frozen=True):
    """The cluster is as it was before: what was seen of it may never have happened. All of it is listed anew."""


class SignalHeard(Struct, frozen=True):
    """Somebody publishes that a topology is gone, or up again."""

    signal: Signal


class AllSignalsHeard(Struct, frozen=True):
    """Every signal that was in the stream at the start has been heard. `stream` is RUNS as it is now, where there is
    one.
    """

    stream: StreamState | None = None


class Tick(Struct, frozen=True):
    """Time has passed."""


class Stored(Struct, frozen=True):
    """The event is stored at `sequence`."""

    asked: Publish
    sequence: int


class AlreadyStored(Struct, frozen=True):
    """Another event of the same subject, or an earlier try of this one, is stored at `sequence`; 0: it was, once."""

    asked: Publish
    sequence: int


class Refused(Struct, frozen=True):
    """The stream will never take the event."""

    asked: Publish


class Recalled(Struct, frozen=True):
    """The snapshot of the event that is stored, if there is one."""

    asked: Recall
    snapshot: Snapshot | None


class MessageRead(Struct, frozen=True):
    """The snapshot of the event that is stored there, if there is one."""

    asked: MessageAt
    snapshot: Snapshot | None


class RunRead(Struct, frozen=True):
    """The StoryRun of this name as it is now, whatever its uid; None when there is none."""

    asked: GetRun
    run: StoryRun | None


class RunUndecodable(Struct, frozen=True):
    """The StoryRun has not the shape of its kind."""

    asked: GetRun


class StreamRead(Struct, frozen=True):
    """The stream as it is now; None when there is none."""

    asked: GetStream
    stream: StreamState | None


Answer = Stored | AlreadyStored | Refused | Recalled | MessageRead | RunRead | RunUndecodable | StreamRead
Input = Seen | Restored | SignalHeard | AllSignalsHeard | Tick | Answer
