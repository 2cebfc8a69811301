"""One stop, told step by step: what the machine asks for after each answer. `simulation` has all the other orders."""

from datetime import datetime, timedelta
from typing import Final

import pytest
from msgspec.structs import replace

from core.objects import (
    CANCEL_OBSERVED_AT,
    NOW,
    OBSERVED_LATER,
    a_signal,
    binding,
    run_state,
    snapshot,
    step_run,
    story_run,
    topology_terminated,
)
from exeunt.clock import format_instant, parse_instant
from exeunt.events import cloudevents
from exeunt.events.codec import ReceivedEvent
from exeunt.events.event_types import EventType, Verdict
from exeunt.run import bobrapet
from exeunt.run.managed_fields import FIELD_MANAGER
from exeunt.run.snapshot import Evidence, RunState, StepRunRef, Topology
from exeunt_terminator.commands import (
    Ack,
    AlreadyStored,
    CancelChildren,
    ChildrenCanceled,
    Command,
    ConditionLost,
    DeadLetter,
    Delete,
    Deleted,
    Delivered,
    Failed,
    Forbidden,
    GetRun,
    GiveBack,
    Input,
    LastSignals,
    List,
    Listed,
    NotFound,
    NotStored,
    Patch,
    Record,
    Refused,
    RunRead,
    SecondLook,
    Signals,
    Stored,
    Written,
)
from exeunt_terminator.machine import Stopping

FIRST, AGAIN = Delivered(7, 1, NOW), Delivered(7, 2, NOW)
LISTEN: Final = StepRunRef("call-listen", "uid-call-listen")
HUB: Final = Topology(established=True, gone=Evidence("hub-condition", 1, "all streams have ended"))
NO_BINDINGS: Final = Topology(established=True, gone=Evidence("bindings-gone", 2, "none is left"))
RUN: Final = run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[topology_terminated()]))
OURS: Final = {"manager": FIELD_MANAGER, "subresource": "status", "fieldsV1": {"f:status": {"f:phase": {}}}}


def ended(finished_at: str = "2026-11-24T18:13:33Z", cancel_observed_at: str = CANCEL_OBSERVED_AT) -> RunState:
    return run_state(
        story_run(
            cancel_observed_at=cancel_observed_at,
            phase=bobrapet.FINISHED,
            message=bobrapet.CANCELED_MESSAGE,
            finished_at=finished_at,
            managed_fields=[OURS],
        )
    )


def stopping(
    topology: Topology = HUB,
    *,
    event_type: EventType = EventType.TOPOLOGY_TERMINATED,
    step_runs: tuple[StepRunRef, ...] | None = (LISTEN,),
    dry_run: bool = False,
    propagate_cancel: bool = False,
) -> Stopping:
    known = snapshot(RUN, topology=topology, step_runs=step_runs)
    attributes = cloudevents.Attributes(id="1", source="/w", type="t", subject="s", time="")
    return Stopping(ReceivedEvent(attributes, event_type, known), dry_run=dry_run, propagate_cancel=propagate_cancel)


def asked(stop: Stopping, *heard: Input) -> list[Command]:
    """What it asks for, after each of these."""
    return [stop.receive(each, NOW) for each in heard]


def kinds(commands: list[Command]) -> list[type[Command]]:
    return [type(command) for command in commands]


def test_a_stop_writes_deletes_and_records() -> None:
    stop = stopping()
    patch, delete, record, end = asked(stop, FIRST, Written(), Deleted(("call-listen",)), Stored())
    assert isinstance(patch, Patch)
    assert delete == Delete(RUN, (LISTEN,))
    assert record == Record(stop.outcome())
    assert (stop.outcome().verdict, stop.outcome().finished_at) == (Verdict.FINALIZE, "2026-11-24T18:13:33Z")
    assert (stop.outcome().deleted_step_runs, stop.recorded) == (("call-listen",), True)
    assert end == Ack()


def test_where_cancels_are_passed_on_a_stop_is_looked_at_twice() -> None:
    stop = stopping(propagate_cancel=True)
    commands = asked(stop, FIRST, Written(), Deleted(("call-listen",)), ChildrenCanceled(()), Stored())
    assert kinds(commands) == [Patch, Delete, CancelChildren, Record, SecondLook]


@pytest.mark.parametrize("known", [True, False])
def test_a_redelivery_reads_first_and_deletes_what_is_left_of_a_run_that_is_still_ended(*, known: bool) -> None:
    """By the event, whose StepRuns were there before the run was read; what has to be listed may be newer than that."""
    stop = stopping(step_runs=(LISTEN,) if known else None)
    listed: list[Input] = [] if known else [Listed((step_run(),)), RunRead(ended())]
    commands = asked(stop, AGAIN, RunRead(ended()), *listed, Deleted(("call-listen",)), AlreadyStored(8))
    assert kinds(commands) == [GetRun, *([] if known else [List, GetRun]), Delete, Record, Ack]
    assert Delete(ended(), (LISTEN,)) in commands
    assert not stop.recorded


def test_step_runs_that_are_left_are_deleted_of_a_run_that_is_read_and_still_ended() -> None:
    stop = stopping(Topology(), event_type=EventType.STEP_RUNS_LEFT)
    commands = asked(stop, FIRST, RunRead(ended()), Deleted(("call-listen",)), Stored())
    assert kinds(commands) == [GetRun, Delete, Record, Ack]
    assert (stop.outcome().rule, stop.outcome().deleted_step_runs) == ("ended-by-exeunt", ("call-listen",))


@pytest.mark.parametrize("run", [ended(cancel_observed_at=OBSERVED_LATER), RUN], ids=["ended anew", "unfinished"])
def test_of_a_run_in_another_attempt_nothing_is_deleted_nor_is_one_ended_because_step_runs_are_left(
    run: RunState,
) -> None:
    stop = stopping(event_type=EventType.STEP_RUNS_LEFT)
    assert kinds(asked(stop, FIRST, RunRead(run), Stored())) == [GetRun, Record, Ack]


def test_an_event_that_has_grown_old_is_read_first() -> None:
    assert kinds(asked(stopping(), Delivered(7, 1, NOW - timedelta(hours=1)))) == [GetRun]


def test_what_was_listed_is_not_deleted_of_a_run_that_was_redriven_meanwhile_nor_are_its_children_canceled() -> None:
    commands = asked(
        stopping(step_runs=None, propagate_cancel=True),
        FIRST,
        Written(),
        Listed((step_run(),)),
        RunRead(run_state(story_run(cancel_observed_at=OBSERVED_LATER))),
        Stored(),
    )
    assert kinds(commands) == [Patch, List, GetRun, Record, SecondLook]  # the second look is for children


def test_bindings_are_listed_again_and_the_event_is_given_back_when_nothing_shows_that_they_are_gone() -> None:
    up = Listed((), (binding(),))
    run = replace(RUN, conditions=run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).conditions)
    stop = stopping(NO_BINDINGS)
    commands = asked(stop, AGAIN, RunRead(run), up, Signals(()))
    assert commands[1:3] == [List(run, bindings=True), LastSignals(run)]
    assert isinstance(commands[-1], GiveBack)
    assert commands[-1].not_yet


def test_a_signal_that_came_later_will_do_because_the_event_is_not_published_again() -> None:
    run = replace(RUN, conditions=run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).conditions)
    bindings = Listed((), (binding(),))
    commands = asked(stopping(NO_BINDINGS), AGAIN, RunRead(run), bindings, Signals((a_signal(gone=True),)))
    assert kinds(commands) == [GetRun, List, LastSignals, Patch]


@pytest.mark.parametrize("lost", [ConditionLost("a test failed"), ConditionLost("a test failed", perhaps_done=True)])
def test_a_write_whose_answer_was_lost_is_known_by_its_name(lost: ConditionLost) -> None:
    stop = stopping()
    read = RunRead(ended(), own=lost.perhaps_done)
    commands = asked(stop, FIRST, lost, read, Listed() if lost.perhaps_done else Deleted(()), Stored())
    assert kinds(commands) == [Patch, GetRun, List if lost.perhaps_done else Delete, Record, Ack]
    assert (stop.outcome().verdict is Verdict.FINALIZE) == lost.perhaps_done


def test_another_ones_write_is_not_taken_for_an_own_one() -> None:
    stop = stopping()
    same_second = RunRead(ended())
    asked(stop, FIRST, ConditionLost("a test failed", perhaps_done=True), same_second, Deleted(()), Stored())
    assert stop.written_at is None
    assert (stop.outcome().verdict, stop.outcome().rule) == (Verdict.ALREADY_TERMINAL, "ended-by-exeunt")


def test_of_several_own_writes_the_one_counts_whose_time_is_there() -> None:
    stop = stopping()
    earlier = RunRead(ended(finished_at="2026-11-24T18:13:30Z"), own=True)
    asked(stop, FIRST, ConditionLost("a test failed", perhaps_done=True), earlier)
    assert stop.written_at is None


def test_a_condition_that_is_lost_again_and_again_gives_the_event_back() -> None:
    stop = stopping()
    commands = asked(stop, FIRST, *(ConditionLost("lost"), RunRead(RUN)) * 4, ConditionLost("lost"))
    assert kinds(commands[:-1]) == [Patch, GetRun] * 4 + [Patch]
    assert commands[-1] == GiveBack("lost")


def test_a_refused_write_is_a_dead_letter_and_a_run_that_is_not_there_is_none() -> None:
    *_, dead = asked(stopping(), FIRST, Refused("by a policy"), Stored())
    assert dead == DeadLetter("the write was refused: by a policy")
    assert kinds(asked(stopping(), FIRST, NotFound(), Stored())) == [Patch, Record, Ack]
    assert kinds(asked(stopping(), AGAIN, NotFound(), Stored())) == [GetRun, Record, Ack]


def test_what_fails_is_tried_again_but_what_is_written_is_recorded() -> None:
    assert asked(stopping(), FIRST, Failed("503"))[-1] == GiveBack("503")
    stop = stopping()
    commands = asked(stop, FIRST, Written(), Failed("503", deleted=("call-listen",)), Stored())
    assert kinds(commands) == [Patch, Delete, Record, GiveBack]
    assert (stop.failure, stop.outcome().deleted_step_runs) == ("503", ("call-listen",))
    *_, end = asked(stopping(), FIRST, Written(), Deleted(()), Failed("NATS is away"))
    assert end == GiveBack("NATS is away")
    *_, end = asked(stopping(), FIRST, Written(), Deleted(()), NotStored())
    assert end == Ack()


def test_a_write_that_is_forbidden_is_recorded_and_tried_again() -> None:
    stop = stopping()
    after = timedelta(seconds=2)
    patch, record, end = asked(stop, replace(FIRST, back_off=after), Forbidden("may not patch"), Stored())
    assert isinstance(patch, Patch)
    assert record == Record(stop.outcome())
    outcome = stop.outcome()
    assert (outcome.verdict, outcome.rule, outcome.why) == (
        Verdict.FAILED,
        "refused",
        "the write was refused: may not patch",
    )
    assert (outcome.attempt, outcome.next_at) == (1, format_instant(NOW + after))
    assert (end, stop.recorded) == (GiveBack("may not patch", after), True)


@pytest.mark.parametrize("attempt", [2, 4, 8])
def test_what_stays_forbidden_is_recorded_after_what_was_recorded_before_and_is_no_news(attempt: int) -> None:
    stop = stopping()
    heard = (Delivered(7, attempt, NOW), RunRead(RUN), Forbidden("may not patch"), AlreadyStored(8), Stored())
    *_, first, second, end = asked(stop, *heard)
    assert (first, second) == (Record(stop.outcome()), Record(stop.outcome(), after=8))
    assert stop.outcome().attempt == attempt
    assert (end, stop.recorded) == (GiveBack("may not patch"), False)


@pytest.mark.parametrize("attempt", [3, 5, 6, 7, 9])
def test_not_every_try_of_what_stays_forbidden_is_recorded(attempt: int) -> None:
    commands = asked(stopping(), Delivered(7, attempt, NOW), RunRead(RUN), Forbidden("may not patch"))
    assert kinds(commands) == [GetRun, Patch, GiveBack]


def test_what_was_forbidden_and_is_allowed_now_is_followed_by_the_end() -> None:
    stop = stopping()
    commands = asked(stop, AGAIN, RunRead(RUN), Written(), Deleted(()), AlreadyStored(8), Stored())
    assert (stop.outcome().attempt, stop.outcome().next_at) == (2, None)
    assert (commands[-1], stop.recorded) == (Ack(), True)


def test_an_outcome_of_an_earlier_saying_that_came_to_nothing_is_followed_by_this_one() -> None:
    stop = stopping()
    commands = asked(stop, AGAIN, RunRead(RUN), Written(), Deleted(()), AlreadyStored(5), Stored())
    assert [command.after for command in commands if isinstance(command, Record)] == [0, 5]
    assert (commands[-1], stop.recorded) == (Ack(), True)


def test_an_outcome_of_somebody_who_knew_less_is_followed_by_this_one() -> None:
    """Without the bus it was not known yet that the topology is gone; the event was stored when it was back."""
    stop = stopping()
    commands = asked(stop, FIRST, Written(), Deleted(()), AlreadyStored(8), Stored())
    assert [command.after for command in commands if isinstance(command, Record)] == [0, 8]
    assert (commands[-1], stop.recorded) == (Ack(), True)


def test_a_dry_run_writes_nothing_and_passes_nothing_on() -> None:
    stop = stopping(dry_run=True, propagate_cancel=True)
    assert kinds(asked(stop, FIRST, Stored())) == [Record, Ack]
    assert stop.outcome().dry_run


def test_a_cancel_is_passed_on_while_the_topology_is_up_but_only_of_a_run_that_was_read() -> None:
    stop = stopping(Topology(established=True), event_type=EventType.CANCEL_REQUESTED, propagate_cancel=True)
    commands = asked(stop, FIRST, RunRead(RUN), ChildrenCanceled(("child",)), Stored())
    assert kinds(commands) == [GetRun, CancelChildren, Record, Ack]
    assert stop.outcome().canceled_children == ("child",)
    assert [step.rule for step in stop.trail] == ["topology-up", "topology-up"]


DEADLINE: Final = parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=20)


def reached(*, dry_run: bool = False) -> Stopping:
    return stopping(Topology(established=True), event_type=EventType.DEADLINE_REACHED, dry_run=dry_run)


def delivered(at: datetime, *, deliveries: int = 1, clock_trouble: str | None = None) -> Delivered:
    return Delivered(7, deliveries, at, timedelta(seconds=4), clock_trouble)


@pytest.mark.parametrize("early", [timedelta(0), timedelta(seconds=1)])
def test_a_deadline_is_acted_on_by_a_clock_that_agrees_within_a_second(early: timedelta) -> None:
    now = DEADLINE - early
    assert isinstance(reached().receive(delivered(now), now), Patch)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("early", "after"), [(1.001, 1.001), (15, 15), (3600, 30)])
def test_a_deadline_that_has_not_come_by_our_clock_is_given_back_until_then(
    early: float, after: float, *, dry_run: bool
) -> None:
    now = DEADLINE - timedelta(seconds=early)
    end = reached(dry_run=dry_run).receive(delivered(now), now)
    assert isinstance(end, GiveBack)
    assert (end.after, end.not_yet) == (timedelta(seconds=after), True)


def test_a_deadline_that_comes_later_by_the_run_as_it_is_read_is_given_back_until_then() -> None:
    stop = reached()
    assert isinstance(stop.receive(delivered(DEADLINE, deliveries=2), DEADLINE), GetRun)
    later = replace(RUN, canceled_at=format_instant(parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=5)))
    end = stop.receive(RunRead(later), DEADLINE)
    assert isinstance(end, GiveBack)
    assert (end.after, end.not_yet) == (timedelta(seconds=5), True)


def test_a_clock_that_is_not_to_be_gone_by_ends_no_run_by_its_deadline_but_all_others() -> None:
    unavailable_reason = "the clock of this machine is 60.0 s ahead of that of the kube-apiserver"
    stop = reached()
    end = stop.receive(delivered(DEADLINE, clock_trouble=unavailable_reason), DEADLINE)
    assert end == GiveBack(f"no run is ended by its deadline here: {unavailable_reason}", timedelta(seconds=4))
    assert stop.failure is not None
    assert isinstance(stopping().receive(delivered(NOW, clock_trouble=unavailable_reason), NOW), Patch)


def test_a_call_that_asks_to_be_left_alone_is_tried_again_then() -> None:
    stop = stopping()
    asked = timedelta(seconds=7)
    assert isinstance(stop.receive(delivered(NOW), NOW), Patch)
    assert stop.receive(Failed("429", asked=asked), NOW) == GiveBack("429", asked)


def test_an_answer_to_something_else_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no answer to what was asked while patching"):
        asked(stopping(), FIRST, Deleted(()))
