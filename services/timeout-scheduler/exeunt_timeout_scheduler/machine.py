"""One deadline, as a machine: what was heard in, what to ask or do next out. Pure.

It goes by the table in `way`; `deadlines` does the thinking. All that is known of it is here, its whole trail, too. It
begins with an event of the run, with the schedule that has fired, or with the run as a sweep has found it.
"""

from datetime import datetime, timedelta

from msgspec.structs import replace

from exeunt.clock import format_instant, parse_instant
from exeunt.errors import PoisonEvent
from exeunt.events.codec import read_event
from exeunt.events.event_types import EventType, Verdict
from exeunt.events.subjects import DEADLINES, armed_subject, event_subject
from exeunt.rules.closed import Decision
from exeunt.run.models import Story
from exeunt.run.snapshot import Snapshot, read_run, read_story, resolve_shutdown
from exeunt_timeout_scheduler.commands import (
    Ack,
    AckFloor,
    AlreadyStored,
    Arm,
    Command,
    DeadLetter,
    Denied,
    Disarm,
    Failed,
    Fired,
    Found,
    GetAckFloor,
    GetRun,
    GetStory,
    GiveBack,
    Heard,
    HeldUntil,
    Hold,
    Input,
    LastMessage,
    Message,
    NoMessage,
    NotFound,
    NotStored,
    Publish,
    Purged,
    RunRead,
    Stored,
    StoryRead,
)
from exeunt_timeout_scheduler.deadlines import LEAD, UNSETTLED, Deadline, closed, publish_again_at
from exeunt_timeout_scheduler.way import HEARD, TRANSITIONS, DeadlineState, Result


class Scheduling:
    """One deadline, from what begins it to the answer. One question at a time, each command answered by an input.

    `snapshot` is what is known of the run, from the first command on; `trail` what came of each step, `decision` why
    there is nothing (more) to wait for, `failure` why it has to begin again, `lateness` how long after the deadline it
    was published.
    """

    snapshot: Snapshot

    def __init__(self) -> None:
        self.trail: list[Result] = []
        self.decision: Decision | None = None
        self.failure: str | None = None
        self.lateness = timedelta()
        self._state = DeadlineState.BEGUN
        self._armed: Snapshot | None = None  # what the deadline was set for
        self._instant: datetime | None = None  # until when it is held
        self._found: Found | None = None
        self._published: Message | None = None  # what was published of the deadline last
        self._refused: str | None = None

    def receive(self, heard: Input, now: datetime) -> Command:
        """What to do next, after what was heard at `now`. After an End nothing more may come."""
        ahead = self._hear(heard, now)
        while isinstance(ahead, Result):
            self.trail.append(ahead)
            self._state = TRANSITIONS[self._state][ahead]
            ahead = self._go_on(now)
        return ahead

    def _hear(self, heard: Input, now: datetime) -> Command | Result:  # noqa: PLR0912 - a line for each answer
        """What came of what was being done."""
        match self._state, heard:
            case DeadlineState.BEGUN, Heard(event):
                self.snapshot = event.snapshot
                result = HEARD[event.event_type]
                return self._still_open(result) if result is Result.CANCELED else result
            case DeadlineState.BEGUN, Fired(deadline):
                self.snapshot = self._armed = deadline.snapshot
                self._instant = deadline.instant
                return Result.FIRED
            case DeadlineState.BEGUN, Found():
                self._found = heard
                self._as_found(heard, None, now)
                return Result.FOUND
            case _, Failed(why):
                self.failure = why
                return Result.FAILED
            case DeadlineState.READING_STORY, StoryRead(story) if self._found is not None:
                self._as_found(self._found, story, now)
                return Result.READ
            case DeadlineState.RECALLING, Message() | NoMessage() | Denied():
                if isinstance(heard, Message):
                    self._as_published(heard)
                return self._still_open(Result.OPEN)
            case DeadlineState.LOOKING_BACK, NoMessage():
                return Result.NEVER_PUBLISHED
            case DeadlineState.LOOKING_BACK, Message() if self._found is not None:
                self._published = heard
                return self._look_back(heard.stored_at, self._found.overdue_after, now)
            case DeadlineState.ASKING, AckFloor(sequence):
                return Result.SETTLED if self._is_settled(sequence, now) else Result.UNSETTLED
            case DeadlineState.ASKING, Denied():
                return Result.SETTLED
            case DeadlineState.FINDING, Message():
                return Result.ALREADY_ARMED
            case DeadlineState.FINDING, NoMessage() | Denied():
                return Result.NOT_ARMED
            case DeadlineState.ARMING, Stored():
                return Result.ARMED_BY_SWEEP if self._found else Result.ARMED
            case DeadlineState.ARMING, AlreadyStored():
                return Result.ALREADY_ARMED
            case DeadlineState.VERIFYING | DeadlineState.CONFIRMING | DeadlineState.CHECKING, RunRead(run, story):
                self._armed = self._armed or self.snapshot
                self.snapshot = replace(self.snapshot, run=run, story=story or self.snapshot.story)
                return self._still_open(Result.OPEN)
            case DeadlineState.VERIFYING | DeadlineState.CONFIRMING | DeadlineState.CHECKING, NotFound():
                self.decision = Decision(Verdict.GONE, "deleted", "the StoryRun is gone")
                return Result.CLOSED
            case DeadlineState.DISARMING, Purged(schedules):
                return Result.DISARMED if schedules else Result.NOT_ARMED
            case DeadlineState.HOLDING, HeldUntil():
                return self._hold(now)
            case DeadlineState.PUBLISHING, Stored():
                return Result.PUBLISHED
            case DeadlineState.PUBLISHING, AlreadyStored():
                return Result.ALREADY_PUBLISHED
            case DeadlineState.ARMING | DeadlineState.PUBLISHING, NotStored(why):
                self._refused = why
                return Result.REFUSED
        raise AssertionError(f"{heard} is no answer to what was asked while {self._state}")

    def _go_on(self, now: datetime) -> Command | Result:
        """What the new state is for: a question, or at once what came of it."""
        run, story, deadline = self.snapshot.run, self.snapshot.story, self.snapshot.deadline
        match self._state:
            case DeadlineState.READING_STORY:
                return GetStory(story.namespace, story.name)
            case DeadlineState.RECALLING:
                return LastMessage(event_subject(run.cancellation, EventType.CANCEL_REQUESTED))
            case DeadlineState.LOOKING_BACK:
                return LastMessage(event_subject(run.cancellation, EventType.DEADLINE_REACHED))
            case DeadlineState.ASKING:
                return GetAckFloor()
            case DeadlineState.FINDING:
                return LastMessage(armed_subject(run.cancellation), DEADLINES)
            case DeadlineState.ARMING if deadline is not None:
                fires_at = deadline - LEAD
                return Arm(Deadline(format_instant(deadline), self.snapshot), fires_at if fires_at > now else None)
            case DeadlineState.VERIFYING | DeadlineState.CONFIRMING | DeadlineState.CHECKING:
                # Without cancel_observed_at a cancel counts from when it was seen; seen anew it would not be overdue,
                # and closed.
                first_seen = parse_instant(run.canceled_at) if run.canceled_at else now
                checking = self._state is DeadlineState.CHECKING
                return GetRun(run, first_seen, GetStory(story.namespace, story.name) if checking else None)
            case DeadlineState.DISARMING:
                return Disarm(self.snapshot.run)
            case DeadlineState.HOLDING:
                return self._hold(now)
            case DeadlineState.PUBLISHING:
                self.lateness = now - deadline if deadline is not None else self.lateness
                return Publish(self.snapshot, now, self._published.sequence if self._published else 0)
            case DeadlineState.DONE:
                return DeadLetter(self._refused) if self._refused else Ack()
            case DeadlineState.GIVEN_BACK:
                return GiveBack(self.failure or "")
        raise AssertionError(f"nothing leads back to {self._state}")

    def _still_open(self, result: Result) -> Result:
        """That result, while no rule closes the stop."""
        self.decision = closed(self.snapshot, self._armed)
        return result if self.decision is None and self.snapshot.deadline is not None else Result.CLOSED

    def _hold(self, now: datetime) -> Command | Result:
        """Never less than to the very instant, whatever the executor's own clock says."""
        return Hold(self._instant) if self._instant is not None and now < self._instant else Result.INSTANT

    def _as_found(self, found: Found, story: Story | None, now: datetime) -> None:
        """The run as the sweep has found it, with its Story."""
        self.snapshot = Snapshot(
            run=read_run(found.run, first_seen=now, now=now, fence_wait=found.fence_wait),
            story=read_story(found.run, story),
            shutdown=resolve_shutdown(found.run, story, found.shutdown_timeout),
        )

    def _as_published(self, message: Message) -> None:
        """The same with what a watcher published at the cancel: its shutdown timeout, and, where the Story is missing,
        that there was one, or that the run streams.
        """
        try:
            then = read_event(message.headers, message.data).snapshot
        except PoisonEvent:
            return  # every consumer that comes upon it sets it aside, with the reason
        if self.snapshot.story.resource_version is None:
            self.snapshot = replace(self.snapshot, story=then.story, streams=then.streams)
        self.snapshot = replace(self.snapshot, shutdown=then.shutdown)

    def _look_back(self, published_at: datetime, overdue_after: timedelta, now: datetime) -> Result:
        deadline = self.snapshot.deadline
        overdue = deadline is not None and now > publish_again_at(deadline, published_at, overdue_after)
        return Result.OVERDUE if overdue else Result.PUBLISHED_LATELY

    def _is_settled(self, floor: int, now: datetime) -> bool:
        """Whether the terminators are done with the last event, whatever became of it. Where another one that is older
        keeps us from knowing that, some minutes are enough.
        """
        last = self._published
        return last is None or last.sequence <= floor or now > last.stored_at + UNSETTLED
