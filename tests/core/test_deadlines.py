"""One deadline, told step by step: what the machine asks for after each answer, and what a schedule is."""

from datetime import datetime, timedelta
from typing import Final

import msgspec
import pytest
from msgspec.structs import replace

from core.objects import CANCEL_OBSERVED_AT, FENCE_WAIT, NOW, OBSERVED_LATER, run_state, snapshot, story, story_run
from exeunt.clock import format_instant, parse_instant
from exeunt.errors import PoisonEvent
from exeunt.events import cloudevents
from exeunt.events.codec import ReceivedEvent, event_message
from exeunt.events.event_types import EventType
from exeunt.events.subjects import DEADLINES, armed_subject, due_subject, event_subject
from exeunt.run import bobrapet
from exeunt.run.models import StoryRun
from exeunt.run.shutdown_timeout import ShutdownTimeout
from exeunt.run.snapshot import Snapshot
from exeunt_timeout_scheduler import deadlines
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
from exeunt_timeout_scheduler.deadlines import LEAD, UNSETTLED, Deadline, publish_again_at, read_deadline, schedule
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.sweeping import GiveUp, List, Listed, LookAfter, NotListed, Sweeping
from exeunt_timeout_scheduler.way import Result

DEADLINE: Final = parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=20)
LATE: Final = DEADLINE + timedelta(hours=2)
OVERDUE_AFTER: Final = timedelta(seconds=30)
CANCELED: Final = snapshot()
RUN: Final = CANCELED.run
GET_STORY: Final = GetStory(CANCELED.story.namespace, CANCELED.story.name)
ENDED: Final = run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase=bobrapet.FINISHED))


def event(event_type: EventType, known: Snapshot = CANCELED) -> Heard:
    return Heard(
        ReceivedEvent(cloudevents.Attributes(id="1", source="/w", type="t", subject="s", time=""), event_type, known)
    )


def fired(known: Snapshot = CANCELED) -> Fired:
    return Fired(Deadline(format_instant(DEADLINE), known))


def found(run: StoryRun | None = None) -> Found:
    return Found(
        run or story_run(cancel_observed_at=CANCEL_OBSERVED_AT), timedelta(seconds=20), FENCE_WAIT, OVERDUE_AFTER
    )


def message(event_type: EventType, known: Snapshot = CANCELED, *, at: datetime = NOW, sequence: int = 7) -> Message:
    """As the stream has it."""
    recorded = event_message(event_type, known, source="/w", now=at, context={})
    return Message(sequence, at, recorded.headers, recorded.payload)


def asked(scheduling: Scheduling, *heard: Input, now: datetime = NOW) -> list[Command]:
    """What it asks for, after each of these."""
    return [scheduling.receive(each, now) for each in heard]


def kinds(commands: list[Command]) -> list[type[Command]]:
    return [type(command) for command in commands]


def test_a_cancel_arms_once() -> None:
    for answer, result in ((Stored(), Result.ARMED), (AlreadyStored(), Result.ALREADY_ARMED)):
        scheduling = Scheduling()
        arm, end = asked(scheduling, event(EventType.CANCEL_REQUESTED), answer)
        assert arm == Arm(Deadline(format_instant(DEADLINE), CANCELED), DEADLINE - LEAD)
        assert end == Ack()
        assert scheduling.trail == [Result.CANCELED, result]


def test_a_cancel_of_a_run_that_is_closed_arms_nothing() -> None:
    scheduling = Scheduling()
    assert asked(scheduling, event(EventType.CANCEL_REQUESTED, snapshot(enabled=False))) == [Ack()]
    assert scheduling.decision is not None
    assert scheduling.decision.rule == "opted-out"


@pytest.mark.parametrize("event_type", [EventType.RUN_TERMINAL, EventType.RUN_DELETED])
def test_the_end_of_a_run_disarms(event_type: EventType) -> None:
    for schedules, result in ((1, Result.DISARMED), (0, Result.NOT_ARMED)):
        scheduling = Scheduling()
        assert asked(scheduling, event(event_type, snapshot(ENDED)), Purged(schedules)) == [Disarm(ENDED), Ack()]
        assert scheduling.trail == [Result.ENDED, result]


def test_what_the_stream_will_never_take_is_set_aside_and_what_fails_begins_again() -> None:
    assert asked(Scheduling(), event(EventType.CANCEL_REQUESTED), NotStored("too large"))[-1] == DeadLetter("too large")
    assert asked(Scheduling(), event(EventType.CANCEL_REQUESTED), Failed("NATS is away"))[-1] == GiveBack(
        "NATS is away"
    )
    assert asked(Scheduling(), event(EventType.RUN_TERMINAL), Failed("NATS is away"))[-1] == GiveBack("NATS is away")
    publishing = (fired(), RunRead(RUN))
    assert asked(Scheduling(), *publishing, NotStored("too large"), now=DEADLINE)[-1] == DeadLetter("too large")
    assert asked(Scheduling(), fired(), Failed("503"), now=DEADLINE)[-1] == GiveBack("503")


def test_a_deadline_is_held_until_its_very_instant_then_the_run_is_read_and_only_then_is_it_published() -> None:
    scheduling = Scheduling()
    early = DEADLINE - timedelta(microseconds=1)
    assert asked(scheduling, fired(), HeldUntil(), now=early) == [Hold(DEADLINE)] * 2
    (get,) = asked(scheduling, HeldUntil(), now=DEADLINE)
    assert get == GetRun(RUN, parse_instant(CANCEL_OBSERVED_AT), GET_STORY)
    late = DEADLINE + timedelta(milliseconds=3)
    read = replace(RUN, resource_version="2")
    assert asked(scheduling, RunRead(read), now=late) == [Publish(replace(CANCELED, run=read), late)]
    assert scheduling.lateness == timedelta(milliseconds=3)
    assert asked(scheduling, Stored(), now=late) == [Ack()]


@pytest.mark.parametrize(
    ("read", "rule"),
    [
        (RunRead(ENDED), "terminal"),
        (RunRead(run_state(story_run(cancel_observed_at=OBSERVED_LATER))), "new-episode"),
        (RunRead(run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT, uid="another"))), "recreated"),
        (NotFound(), "deleted"),
        (RunRead(RUN, replace(CANCELED.story, enabled=False)), "opted-out"),
    ],
)
def test_a_deadline_is_dropped_when_the_stop_it_was_set_for_is_closed(read: Input, rule: str) -> None:
    scheduling = Scheduling()
    assert kinds(asked(scheduling, fired(), read, now=DEADLINE)) == [GetRun, Ack]
    assert scheduling.decision is not None
    assert scheduling.decision.rule == rule


def test_a_run_without_cancel_observed_at_is_still_the_one_that_was_canceled_then() -> None:
    unobserved = snapshot(story_run(canceled=True))
    (get,) = asked(Scheduling(), fired(unobserved), now=DEADLINE)
    assert get == GetRun(unobserved.run, NOW, GET_STORY)


MISSING: Final = (found(), StoryRead(story()), NoMessage(), NoMessage(), NoMessage(), RunRead(RUN))
"""What a sweep is told of a run of which nothing is armed, until it arms it."""


def test_a_sweep_reads_the_run_arms_what_is_missing_and_reads_the_run_again() -> None:
    commands = asked(Scheduling(), *MISSING, Stored(), RunRead(RUN))
    assert kinds(commands) == [GetStory, LastMessage, LastMessage, LastMessage, GetRun, Arm, GetRun, Ack]
    assert commands[1] == LastMessage(event_subject(RUN.cancellation, EventType.CANCEL_REQUESTED))
    assert commands[2] == LastMessage(event_subject(RUN.cancellation, EventType.DEADLINE_REACHED))
    assert commands[3] == LastMessage(armed_subject(RUN.cancellation), DEADLINES)
    assert asked(Scheduling(), *MISSING, AlreadyStored())[-1] == Ack()  # somebody else has armed it meanwhile


def test_a_sweep_reads_no_run_whose_deadline_is_armed() -> None:
    scheduling = Scheduling()
    armed = message(EventType.CANCEL_REQUESTED)
    assert asked(scheduling, *MISSING[:4], armed)[-1] == Ack()
    assert scheduling.trail[-1] is Result.ALREADY_ARMED


@pytest.mark.parametrize("read", [RunRead(ENDED), NotFound()])
def test_a_sweep_arms_nothing_of_a_run_that_has_ended_since_it_was_listed(read: Input) -> None:
    for answer in (NoMessage(), Denied("an older version's permissions")):
        assert kinds(asked(Scheduling(), *MISSING[:4], answer, read))[-2:] == [GetRun, Ack]


@pytest.mark.parametrize("read", [RunRead(ENDED), NotFound()])
def test_what_a_sweep_has_armed_of_a_run_that_has_ended_meanwhile_is_disarmed(read: Input) -> None:
    *_, disarm, end = asked(Scheduling(), *MISSING, Stored(), read, Purged(1))
    assert isinstance(disarm, Disarm)
    assert armed_subject(disarm.run.cancellation) == armed_subject(RUN.cancellation)
    assert end == Ack()


def test_a_sweep_leaves_what_is_closed() -> None:
    ended = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations={bobrapet.ENABLED: "false"})
    assert kinds(asked(Scheduling(), found(ended), StoryRead(story()), NoMessage())) == [GetStory, LastMessage, Ack]


def test_the_deadline_is_the_one_of_the_cancel_whatever_became_of_the_story() -> None:
    sooner = story(timeout="1s")
    then = message(EventType.CANCEL_REQUESTED, replace(CANCELED, shutdown=ShutdownTimeout("1h", "Story policy")))
    for read, known in ((StoryRead(sooner), then), (StoryRead(None), then)):
        *_, arm = asked(Scheduling(), found(), read, known, NoMessage(), NoMessage(), RunRead(RUN))
        assert isinstance(arm, Arm)
        assert arm.deadline.instant == parse_instant(CANCEL_OBSERVED_AT) + timedelta(hours=1)
        assert arm.deadline.snapshot.realtime
    # Without what was published the Story tells, and nobody does of one that is missing.
    denied = Denied("an older version's permissions")
    *_, arm = asked(Scheduling(), found(), StoryRead(sooner), denied, NoMessage(), NoMessage(), RunRead(RUN))
    assert isinstance(arm, Arm)
    assert arm.deadline.instant == parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=1)
    scheduling = Scheduling()
    assert asked(scheduling, found(), StoryRead(None), NoMessage())[-1] == Ack()
    assert scheduling.decision is not None
    assert scheduling.decision.rule == "not-realtime"


def looking_back(*heard: Input, now: datetime, published_at: datetime = DEADLINE) -> list[Command]:
    """What a sweep asks for at `now` of a run whose deadline was published at `published_at`, from there on."""
    last = message(EventType.DEADLINE_REACHED, at=published_at)
    return asked(Scheduling(), found(), StoryRead(story()), NoMessage(), last, *heard, now=now)[3:]


def test_a_run_that_is_overdue_is_published_again_after_the_last_time_and_only_once_that_is_settled() -> None:
    overdue = DEADLINE + OVERDUE_AFTER + timedelta(seconds=1)
    assert looking_back(now=DEADLINE + OVERDUE_AFTER) == [Ack()]
    for answer in (AckFloor(7), AckFloor(8), Denied("an older version's permissions")):
        ask, publish, end = looking_back(answer, Stored(), now=overdue)
        assert ask == GetAckFloor()
        assert isinstance(publish, Publish)
        assert (publish.at, publish.after) == (overdue, 7)
        assert end == Ack()
    assert looking_back(AckFloor(6), now=overdue) == [GetAckFloor(), Ack()]


def test_what_is_never_settled_is_published_again_after_some_minutes() -> None:
    assert kinds(looking_back(AckFloor(0), now=DEADLINE + UNSETTLED)) == [GetAckFloor, Ack]
    assert kinds(looking_back(AckFloor(0), now=DEADLINE + UNSETTLED + timedelta(seconds=1))) == [GetAckFloor, Publish]


def test_a_sweep_begins_again_with_the_next_one_whatever_fails() -> None:
    heard = (found(), StoryRead(story()), NoMessage(), message(EventType.DEADLINE_REACHED, at=DEADLINE), AckFloor(7))
    for count in range(1, len(heard) + 1):
        assert asked(Scheduling(), *heard[:count], Failed("503"), now=LATE)[-1] == GiveBack("503")
    arming = (*MISSING, Stored(), NotFound())
    for count in range(4, len(arming) + 1):
        assert asked(Scheduling(), *arming[:count], Failed("503"))[-1] == GiveBack("503")


def test_an_answer_to_something_else_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no answer to what was asked while arming"):
        asked(Scheduling(), event(EventType.CANCEL_REQUESTED), RunRead(RUN))


def test_a_sweep_lists_each_namespace_and_looks_after_canceled_runs() -> None:
    canceled, running = story_run(cancel_observed_at=CANCEL_OBSERVED_AT), story_run()
    sweeping = Sweeping(())
    assert sweeping.begin() == (List(None, patiently=True),)
    assert sweeping.receive(Listed((canceled, running))) == (LookAfter(canceled),)
    assert sweeping.receive(Listed(())) == ()


def test_a_namespace_that_is_not_listed_keeps_the_sweep_from_the_others_only_if_it_is_the_first() -> None:
    away, refused = NotListed("503", away=True), NotListed("403", away=False)
    assert Sweeping(("a",)).begin() == (List("a", patiently=True),)
    assert Sweeping(("a", "b")).begin() == (List("a", patiently=False), List("b", patiently=False))
    assert Sweeping(("a", "b")).receive(away) == (GiveUp("503"),)
    assert Sweeping(("a", "b")).receive(refused) == ()
    sweeping = Sweeping(("a", "b"))
    sweeping.receive(Listed(()))
    assert sweeping.receive(away) == ()


def armed(now: datetime) -> tuple[Snapshot, dict[str, str], str, Deadline]:
    current = snapshot()
    assert current.deadline == DEADLINE
    (command,) = asked(Scheduling(), event(EventType.CANCEL_REQUESTED, current), now=now)
    assert isinstance(command, Arm)
    stored = schedule(command.deadline, command.at, {"traceparent": "00-1"})
    assert stored.expected_last_subject_sequence == 0
    assert stored.headers["traceparent"] == "00-1"
    return current, stored.headers, stored.subject, read_deadline(stored.payload)


def test_a_deadline_is_scheduled_a_little_ahead_and_carries_the_very_instant() -> None:
    published, headers, subject, deadline = armed(DEADLINE - timedelta(seconds=20))
    assert subject == armed_subject(published.run.cancellation)
    assert headers["Nats-Schedule-Target"] == due_subject(published.run.cancellation)
    assert headers["Nats-Schedule"] == f"@at {format_instant(DEADLINE - LEAD)}"
    assert (deadline.instant, deadline.snapshot) == (DEADLINE, published)


@pytest.mark.parametrize("ahead", [LEAD, timedelta(0), -timedelta(hours=1)])
def test_a_deadline_nearer_than_the_lead_is_due_without_a_schedule(ahead: timedelta) -> None:
    published, headers, subject, deadline = armed(DEADLINE - ahead)
    assert subject == due_subject(published.run.cancellation)
    assert not any(name.startswith("Nats-Schedule") for name in headers)
    assert deadline.instant == DEADLINE


def test_a_deadline_just_beyond_the_lead_is_scheduled() -> None:
    assert "Nats-Schedule" in armed(DEADLINE - LEAD - timedelta(microseconds=1))[1]


def test_the_lead_is_longer_than_the_tick_of_the_servers_scheduler() -> None:
    assert timedelta(milliseconds=250) < LEAD


def test_a_deadline_is_cancel_observed_at_and_the_shutdown_timeout_never_rounded_down() -> None:
    current = snapshot(story_run(cancel_observed_at="2026-11-24T18:13:32.0000001Z"))
    current = replace(current, shutdown=ShutdownTimeout("1.0000001s", "default"))
    assert current.deadline == parse_instant("2026-11-24T18:13:33.000002Z")
    assert snapshot(story_run()).deadline is None


def test_a_deadline_of_another_cancellation_of_the_run_is_closed() -> None:
    decision = deadlines.closed(snapshot(), armed=snapshot(story_run(cancel_observed_at="2026-11-24T18:00:00Z")))
    assert decision is not None
    assert decision.rule == "new-episode"
    assert deadlines.closed(snapshot()) is None


BODY = msgspec.json.encode(Deadline(format_instant(DEADLINE), snapshot()))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"x":' + b"[" * 200_000,
        BODY.replace(b'"at":"2026', b'"at":"soon'),
        BODY.replace(b'"timeout":"20s"', b'"timeout":"soon"'),
        BODY.replace(CANCEL_OBSERVED_AT.encode(), b"2026-11-24*18:13:32Z"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_poison(payload: bytes) -> None:
    with pytest.raises(PoisonEvent, match=r"a fired schedule does not decode: ."):
        read_deadline(payload)


def test_an_overdue_run_is_published_to_be_so_less_and_less_often() -> None:
    published_at, waits = DEADLINE, list[float]()
    while len(waits) < 12:
        again = publish_again_at(DEADLINE, published_at, timedelta(seconds=30))
        waits.append((again - published_at) / timedelta(seconds=30))
        published_at = again
    assert waits == [1, 1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 120]


def test_a_deadline_that_was_published_early_by_another_clock_is_waited_for_all_the_same() -> None:
    early = DEADLINE - timedelta(minutes=1)
    assert publish_again_at(DEADLINE, early, timedelta(seconds=30)) == DEADLINE
    assert looking_back(now=DEADLINE - timedelta(seconds=10), published_at=early) == [Ack()]
