"""What a deadline asks for, and what it is answered. Pure.

Each command but the last is answered by one input. `Failed` answers any of them: it was not done, or nobody knows.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct

from exeunt.events.codec import ReceivedEvent
from exeunt.events.subjects import RUNS
from exeunt.run.models import Story, StoryRun
from exeunt.run.snapshot import RunState, Snapshot, StoryState
from exeunt_timeout_scheduler.deadlines import Deadline


class Heard(Struct, frozen=True):
    """An event of the run has been delivered."""

    event: ReceivedEvent


class Fired(Struct, frozen=True):
    """A schedule has fired, a little ahead of its instant."""

    deadline: Deadline


class Found(Struct, frozen=True):
    """The sweep has found the run canceled and unfinished. What follows are the settings of the same names."""

    run: StoryRun
    shutdown_timeout: timedelta
    fence_wait: timedelta
    overdue_after: timedelta


class HeldUntil(Struct, frozen=True):
    """So much time has passed as was asked for, or less."""


class RunRead(Struct, frozen=True):
    """The StoryRun as it is now, and its Story; None if that was not asked for, or there is none that can be read."""

    run: RunState
    story: StoryState | None = None


class NotFound(Struct, frozen=True):
    """There is no such StoryRun."""


class StoryRead(Struct, frozen=True):
    """The Story as it is now; None for one that is missing, that may not be read, or that does not decode."""

    story: Story | None


class Message(Struct, frozen=True):
    """The last message on a subject, with lower-case headers, and since when the stream has it."""

    sequence: int
    stored_at: datetime
    headers: Mapping[str, str]
    data: bytes


class NoMessage(Struct, frozen=True):
    """There is none on that subject."""


class AckFloor(Struct, frozen=True):
    """Up to this sequence the terminators have acknowledged everything."""

    sequence: int


class Denied(Struct, frozen=True):
    """NATS does not let us read that: its permissions are of an older version."""

    why: str


class Stored(Struct, frozen=True):
    """The message is stored."""


class AlreadyStored(Struct, frozen=True):
    """Another one is stored there, or an earlier try of this one."""


class NotStored(Struct, frozen=True):
    """The stream will never take the message."""

    why: str


class Purged(Struct, frozen=True):
    """What was pending is deleted, which were so many schedules."""

    schedules: int


class Failed(Struct, frozen=True):
    """It has to be tried again."""

    why: str


Input = (
    Heard
    | Fired
    | Found
    | HeldUntil
    | RunRead
    | NotFound
    | StoryRead
    | Message
    | NoMessage
    | AckFloor
    | Denied
    | Stored
    | AlreadyStored
    | NotStored
    | Purged
    | Failed
)


class Arm(Struct, frozen=True):
    """Have the deadline fire at `at`, None for at once, unless the run has one pending: Stored, AlreadyStored or
    NotStored.
    """

    deadline: Deadline
    at: datetime | None


class Disarm(Struct, frozen=True):
    """Delete the run's pending schedule: Purged."""

    run: RunState


class Hold(Struct, frozen=True):
    """Wait until then, by the clock on the wall: HeldUntil."""

    until: datetime


class GetStory(Struct, frozen=True):
    """Read the Story: StoryRead."""

    namespace: str
    name: str


class GetRun(Struct, frozen=True):
    """Read the StoryRun, and the `story` that it is known to be of, if that is asked for: RunRead or NotFound.
    `first_seen` is since when the run is known to be canceled.
    """

    run: RunState
    first_seen: datetime
    story: GetStory | None = None


class LastMessage(Struct, frozen=True):
    """Read what was published last on the subject of the stream: Message, NoMessage or Denied."""

    subject: str
    stream: str = RUNS


class GetAckFloor(Struct, frozen=True):
    """Ask how far the terminators have come: AckFloor or Denied."""


class Publish(Struct, frozen=True):
    """Publish deadline-reached as of `at`, if the last one of this cancellation is at `after`, 0 for none: Stored,
    AlreadyStored or NotStored.
    """

    snapshot: Snapshot
    at: datetime
    after: int = 0


class Ack(Struct, frozen=True):
    """There is nothing left to do."""


class DeadLetter(Struct, frozen=True):
    """What has begun this is set aside."""

    why: str


class GiveBack(Struct, frozen=True):
    """Begin again later."""

    why: str


Question = Arm | Disarm | Hold | GetRun | GetStory | LastMessage | GetAckFloor | Publish
End = Ack | DeadLetter | GiveBack
Command = Question | End
