"""The timeout-scheduler without I/O: its real machine, with the world's answers, and the stream DEADLINES."""

from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from core.cluster import TIMEOUT, Cluster, Fault
from core.objects import FENCE_WAIT, story
from core.watching import Stream
from exeunt.bus.messages import Message
from exeunt.clock import parse_instant
from exeunt.codec import fact_message, read_fact
from exeunt.events import Fact
from exeunt.kube.models import Story
from exeunt.snapshot import Snapshot
from exeunt.subjects import armed_subject
from exeunt_timeout_scheduler import commands
from exeunt_timeout_scheduler.commands import (
    Ack,
    AckFloor,
    AlreadyStored,
    Arm,
    DeadLetter,
    Disarm,
    End,
    Failed,
    Fired,
    Found,
    GetAckFloor,
    GetRun,
    GetStory,
    Heard,
    HeldUntil,
    Hold,
    Input,
    LastMessage,
    NoMessage,
    NotFound,
    NotStored,
    Publish,
    Purged,
    Question,
    RunRead,
    Stored,
    StoryRead,
)
from exeunt_timeout_scheduler.deadlines import LEAD, LONGEST_SILENCE, Deadline, read_deadline, schedule
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.way import HEARD

OVERDUE_AFTER: Final = timedelta(seconds=30)
_EDITED: Final = "1s"


class Scheduler:
    """Any number of instances: each `yield` is a moment for something else, a crash too. `floor` is up to which
    sequence of RUNS the terminators have settled everything, `faulty` takes the fault of the next request.
    """

    def __init__(
        self, cluster: Cluster, stream: Stream, floor: Callable[[], int], faulty: Callable[[], Fault | None]
    ) -> None:
        self.pending: dict[str, Message] = {}
        """The stream DEADLINES, by subject."""
        self.story_edited = False
        self._cluster = cluster
        self._stream = stream
        self._floor = floor
        self._faulty = faulty
        self._settled: dict[str, int] = {}

    @property
    def unheard(self) -> list[str]:
        """Events of RUNS that it has to settle."""
        return [subject for subject in self._stream.messages if subject.endswith(tuple(HEARD))
                and self._settled.get(subject) != self._stream.sequences[subject]]  # fmt: skip

    def hear(self, subject: str) -> Iterator[None]:
        message, sequence = self._stream.messages[subject], self._stream.sequences[subject]
        end = yield from self._carry_out(Heard(read_fact(message.headers, message.payload)))
        if isinstance(end, Ack | DeadLetter):
            self._settled[subject] = sequence

    def fire(self, subject: str) -> Iterator[None]:
        """The schedule fires, its time having come; or what has fired is delivered again."""
        if subject not in self.pending:
            return
        deadline = read_deadline(self.pending.pop(subject).payload)
        self._cluster.now = max(self._cluster.now, deadline.instant - LEAD)
        due = schedule(deadline, None, {})
        self.pending[due.subject] = due
        end = yield from self._carry_out(Fired(deadline))
        if isinstance(end, Ack | DeadLetter):
            self.pending.pop(due.subject, None)

    def is_published(self) -> bool:
        """Whether the deadline was published of the run as it is."""
        cluster = self._cluster
        return cluster.running and self._stream.said(cluster.state().episode, Fact.DEADLINE_REACHED) is not None

    def look_after(self) -> Iterator[None]:
        """What a sweep does, once the run is listed."""
        if self._cluster.running and self._cluster.canceled:
            yield from self._carry_out(Found(self._cluster.run, TIMEOUT, FENCE_WAIT, OVERDUE_AFTER))

    def _carry_out(self, heard: Input) -> Generator[None, None, End]:
        scheduling = Scheduling()
        while not isinstance(command := scheduling.receive(heard, self._cluster.now), End):
            yield
            if isinstance(command, GetStory):
                heard = StoryRead(self._story(scheduling.snapshot))
            else:
                heard = self._answer(command, self._faulty())
        return command

    def _story(self, seen: Snapshot) -> Story:
        """It is edited only after the cancel: what stands before that is what counts."""
        edited = self.story_edited and self._stream.said(seen.run.episode, Fact.CANCEL_REQUESTED) is not None
        return story(timeout=_EDITED if edited else None)

    def _answer(self, asked: Question, fault: Fault | None) -> Input:
        match asked:
            case Hold(until):
                self._cluster.now = max(self._cluster.now, until)
                return HeldUntil()
            case Arm(deadline, at):
                return self._stored(lambda: self._arm(deadline, schedule(deadline, at, {})), fault)
            case Publish():
                return self._stored(lambda: self._publish(asked), fault)
            case _ if fault is not None:
                return Failed(fault)
            case Disarm(run):
                return Purged(int(self.pending.pop(armed_subject(run.episode), None) is not None))
            case GetRun(_, first_seen):
                return RunRead(self._cluster.state(first_seen)) if self._cluster.document else NotFound()
            case LastMessage(subject):
                return self._last(subject)
            case GetAckFloor():
                return AckFloor(self._floor())
        raise AssertionError(asked)

    def _stored(self, store: Callable[[], bool], fault: Fault | None) -> Input:
        match fault:
            case Fault.UNAVAILABLE | Fault.CONFLICT | Fault.FORBIDDEN:
                return Failed(fault)
            case Fault.REFUSED:
                return NotStored(fault)
            case Fault.GIVEN_UP:
                store()
                return Failed(fault)
            case Fault.ANSWER_LOST:
                store()
                return AlreadyStored()
        return Stored() if store() else AlreadyStored()

    def _arm(self, deadline: Deadline, message: Message) -> bool:
        """Whether nothing was there. An edit of the Story after the cancel must not move it."""
        run = deadline.snapshot.run
        assert run.canceled_at is not None
        assert deadline.instant == parse_instant(run.canceled_at) + TIMEOUT, "the deadline is the one of the cancel"
        return self.pending.setdefault(message.subject, message) is message

    def _publish(self, asked: Publish) -> bool:
        message = fact_message(Fact.DEADLINE_REACHED, asked.snapshot, source="/s", now=asked.at, context={})
        if asked.after:
            last = self._stream.messages[message.subject]
            waited = self._cluster.now - parse_instant(last.headers["ce-time"])
            assert self._floor() >= asked.after or waited > LONGEST_SILENCE, "what is not settled is not said again"
        return self._stream.publish(replace(message, expected_last_subject_sequence=asked.after))

    def _last(self, subject: str) -> Input:
        message = self._stream.messages.get(subject)
        if message is None:
            return NoMessage()
        stored_at = parse_instant(message.headers["ce-time"])
        return commands.Message(self._stream.sequences[subject], stored_at, message.headers, message.payload)
