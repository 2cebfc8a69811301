from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from core.objects import CANCEL_OBSERVED_AT, OBSERVED_LATER, run_state, snapshot, story_run
from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Verdict
from exeunt.rules.closed import CLOSED
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import Evidence, Snapshot, Topology
from exeunt_terminator.decision import RULES, decide, leaves_leftovers
from exeunt_timeout_scheduler.deadlines import closed

CANCELLATION = run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).cancellation
GONE = Topology(established=True, step_runs_seen=True, gone=Evidence("bindings-gone", 2, "none left"))
UP = Topology(established=True, step_runs_seen=True)
REDRIVEN = {bobrapet.REDRIVE[0][1]: "again"}


def case(*, enabled: bool = True, realtime: bool = True, topology: Topology = GONE, **run: Any) -> Snapshot:
    """A canceled run that would be finalized, but for what is given."""
    current = snapshot(topology=topology, realtime=realtime, **run)
    return replace(current, story=replace(current.story, enabled=enabled))


UNOBSERVED: dict[str, Any] = {"cancel_observed_at": None, "canceled_at": CANCEL_OBSERVED_AT}
# One for each rule, in the rules' order; each breaks all rules below its own as well, as far as that is possible.
TABLE: list[tuple[str, Snapshot, Verdict]] = [
    ("deleted", case(deleting=True, uid="uid-again", redriving=True, phase="Finished"), Verdict.GONE),
    ("recreated", case(uid="uid-again", redriving=True, phase="Finished", ended_by_exeunt=True), Verdict.SUPERSEDED),
    ("redriving", case(redriving=True, phase="Finished", ended_by_exeunt=True), Verdict.SUPERSEDED),
    ("ended-by-exeunt", case(phase="Finished", ended_by_exeunt=True, cancel_requested=False), Verdict.ALREADY_TERMINAL),
    (
        "terminal",
        case(phase="Failed", cancel_requested=False, cancel_observed_at=OBSERVED_LATER),
        Verdict.ALREADY_TERMINAL,
    ),
    ("not-canceled", case(cancel_requested=False, **UNOBSERVED, enabled=False, realtime=False), Verdict.LEAVE),
    ("new-episode", case(cancel_observed_at=OBSERVED_LATER, enabled=False, realtime=False), Verdict.SUPERSEDED),
    ("opted-out", case(enabled=False, realtime=False), Verdict.LEAVE),
    ("not-realtime", case(realtime=False), Verdict.LEAVE),
    ("unfenced", case(**UNOBSERVED), Verdict.WAIT),
    ("topology-gone", case(), Verdict.FINALIZE),
    ("deadline", case(topology=UP), Verdict.FINALIZE),
]


@pytest.mark.parametrize(("rule", "run", "verdict"), TABLE)
def test_each_rule_decides_in_its_turn(rule: str, run: Snapshot, verdict: Verdict) -> None:
    cancellation = CANCELLATION if rule != "unfenced" else run.run.cancellation
    decision = decide(EventType.DEADLINE_REACHED, cancellation, run)
    assert (decision.rule, decision.verdict) == (rule, verdict)
    assert decision.why


def test_the_table_has_every_rule_in_its_order() -> None:
    assert [rule.name for rule in RULES] == [rule for rule, _, _ in TABLE]
    assert RULES[: len(CLOSED)] == CLOSED


def test_a_topology_that_is_up_is_waited_for_unless_the_deadline_has_come() -> None:
    for event_type in EventType:
        decision = decide(event_type, CANCELLATION, case(topology=UP))
        expected = (
            (Verdict.FINALIZE, "deadline")
            if event_type is EventType.DEADLINE_REACHED
            else (Verdict.WAIT, "topology-up")
        )
        assert (decision.verdict, decision.rule) == expected


@pytest.mark.parametrize("event_type", STOPPING_EVENT_TYPES)
def test_a_topology_that_is_gone_ends_the_run_on_any_event(event_type: EventType) -> None:
    assert decide(event_type, CANCELLATION, case()).rule == "topology-gone"


@pytest.mark.parametrize("phase", [None, "Pending", "Running", "Paused", "Blocked", "Scheduling"])
def test_a_run_in_any_unfinished_phase_can_be_ended(phase: str | None) -> None:
    assert decide(EventType.CANCEL_REQUESTED, CANCELLATION, case(phase=phase)).verdict is Verdict.FINALIZE


@pytest.mark.parametrize("phase", sorted(bobrapet.TERMINAL_PHASES))
def test_a_run_in_any_terminal_phase_is_left(phase: str) -> None:
    assert decide(EventType.DEADLINE_REACHED, CANCELLATION, case(phase=phase)).verdict is Verdict.ALREADY_TERMINAL


def test_an_overdue_cancel_observed_at_is_waited_for_no_more() -> None:
    run = case(**UNOBSERVED, observation_overdue=True)
    assert decide(EventType.CANCEL_REQUESTED, run.run.cancellation, run).verdict is Verdict.FINALIZE


def test_a_run_opts_out_by_itself_or_by_its_story() -> None:
    by_itself = snapshot(
        story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations={bobrapet.ENABLED: "false"}), topology=GONE
    )
    assert decide(EventType.CANCEL_REQUESTED, CANCELLATION, by_itself).rule == "opted-out"
    assert decide(EventType.CANCEL_REQUESTED, CANCELLATION, case(enabled=False)).rule == "opted-out"


SNAPSHOT = st.builds(
    case,
    enabled=st.booleans(),
    realtime=st.booleans(),
    topology=st.sampled_from([UP, GONE, Topology()]),
    uid=st.sampled_from(["uid-call", "uid-again"]),
    attempt=st.sampled_from(["first", "redrive-1"]),
    phase=st.sampled_from([None, "Pending", "Running", *sorted(bobrapet.TERMINAL_PHASES)]),
    message=st.sampled_from([None, bobrapet.CANCELED_MESSAGE]),
    ended_by_exeunt=st.booleans(),
    deleting=st.booleans(),
    redriving=st.booleans(),
    cancel_requested=st.booleans(),
    cancel_observed_at=st.sampled_from([None, CANCEL_OBSERVED_AT, OBSERVED_LATER]),
    observation_overdue=st.booleans(),
)


@given(st.sampled_from(list(EventType)), SNAPSHOT)
def test_only_an_open_stop_of_this_cancellation_is_ever_finalized(event_type: EventType, current: Snapshot) -> None:
    run = current.run
    must_not = (
        not current.realtime
        or not run.cancel_requested
        or run.terminal
        or run.deleting
        or run.redriving
        or not (run.enabled and current.story.enabled)
        or run.uid != CANCELLATION.uid
        or run.cancellation != CANCELLATION
        or (run.cancel_observed_at is None and not run.observation_overdue)
        or (current.topology.gone is None and event_type is not EventType.DEADLINE_REACHED)
    )
    assert (decide(event_type, CANCELLATION, current).verdict is Verdict.FINALIZE) == (not must_not)


@given(SNAPSHOT, SNAPSHOT)
def test_a_deadline_is_closed_exactly_where_the_terminator_would_do_nothing(current: Snapshot, armed: Snapshot) -> None:
    decision = closed(current, armed)
    assert (decision is None) == (
        decide(EventType.DEADLINE_REACHED, armed.run.cancellation, current).verdict is Verdict.FINALIZE
    )
    if decision is not None:
        assert decision == decide(EventType.DEADLINE_REACHED, armed.run.cancellation, current)


FINISHED: dict[str, Any] = {"phase": "Finished", "message": bobrapet.CANCELED_MESSAGE}


def test_a_finalized_run_may_have_left_something() -> None:
    assert leaves_leftovers(CANCELLATION, case(**FINISHED))


@pytest.mark.parametrize(
    "not_ours",
    [
        case(),
        case(**FINISHED | {"phase": "Failed"}),
        case(**FINISHED | {"phase": "Canceled"}),
        case(**FINISHED | {"message": "done"}),
        case(**FINISHED, cancel_requested=False),
        case(**FINISHED, cancel_observed_at=OBSERVED_LATER),
        case(**FINISHED, uid="uid-again"),
        case(**FINISHED, realtime=False),
        case(**FINISHED, enabled=False),
        replace(case(**FINISHED), run=replace(case(**FINISHED).run, enabled=False)),
    ],
)
def test_nothing_is_deleted_of_a_run_that_was_not_finalized_in_this_cancellation(not_ours: Snapshot) -> None:
    assert not leaves_leftovers(CANCELLATION, not_ours)


@given(SNAPSHOT)
def test_nothing_is_ever_deleted_of_an_unfinished_or_a_batch_run(current: Snapshot) -> None:
    if leaves_leftovers(CANCELLATION, current):
        assert current.run.phase == "Finished"
        assert current.realtime
        assert current.run.cancellation == CANCELLATION


def test_cancellations_are_reported_apart_by_their_names() -> None:
    assert str(Cancellation("voice", "call", "u", "t")) == "voice/call (u, t)"
