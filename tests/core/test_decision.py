from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from core.objects import FENCE, LATER_FENCE, run_state, snapshot, story_run
from exeunt import bobrapet
from exeunt.episodes import Episode
from exeunt.events import STOPPING_FACTS, Fact, Verdict
from exeunt.rules import CLOSED
from exeunt.snapshot import Evidence, Snapshot, Topology
from exeunt_terminator.decision import RULES, decide, leaves_leftovers
from exeunt_timeout_scheduler.deadlines import closed

EPISODE = run_state(story_run(fence=FENCE)).episode
GONE = Topology(established=True, step_runs_seen=True, gone=Evidence("bindings-gone", 2, "none left"))
UP = Topology(established=True, step_runs_seen=True)
REDRIVEN = {bobrapet.REDRIVE[0][1]: "again"}


def case(*, enabled: bool = True, realtime: bool = True, topology: Topology = GONE, **run: Any) -> Snapshot:
    """A canceled run that would be finalized, but for what is given."""
    said = snapshot(topology=topology, realtime=realtime, **run)
    return replace(said, story=replace(said.story, enabled=enabled))


UNFENCED: dict[str, Any] = {"fence": None, "canceled_at": FENCE}
# One for each rule, in the rules' order; each breaks all rules below its own as well, as far as that is possible.
TABLE: list[tuple[str, Snapshot, Verdict]] = [
    ("deleted", case(deleting=True, uid="uid-again", redriving=True, phase="Finished"), Verdict.GONE),
    ("recreated", case(uid="uid-again", redriving=True, phase="Finished", ended_by_exeunt=True), Verdict.SUPERSEDED),
    ("redriving", case(redriving=True, phase="Finished", ended_by_exeunt=True), Verdict.SUPERSEDED),
    ("ended-by-exeunt", case(phase="Finished", ended_by_exeunt=True, cancel_requested=False), Verdict.ALREADY_TERMINAL),
    ("terminal", case(phase="Failed", cancel_requested=False, fence=LATER_FENCE), Verdict.ALREADY_TERMINAL),
    ("not-canceled", case(cancel_requested=False, **UNFENCED, enabled=False, realtime=False), Verdict.LEAVE),
    ("new-episode", case(fence=LATER_FENCE, enabled=False, realtime=False), Verdict.SUPERSEDED),
    ("opted-out", case(enabled=False, realtime=False), Verdict.LEAVE),
    ("not-realtime", case(realtime=False), Verdict.LEAVE),
    ("unfenced", case(**UNFENCED), Verdict.WAIT),
    ("topology-gone", case(), Verdict.FINALIZE),
    ("deadline", case(topology=UP), Verdict.FINALIZE),
]


@pytest.mark.parametrize(("rule", "run", "verdict"), TABLE)
def test_each_rule_decides_in_its_turn(rule: str, run: Snapshot, verdict: Verdict) -> None:
    episode = EPISODE if rule != "unfenced" else run.run.episode
    decision = decide(Fact.DEADLINE_REACHED, episode, run)
    assert (decision.rule, decision.verdict) == (rule, verdict)
    assert decision.why


def test_the_table_has_every_rule_in_its_order() -> None:
    assert [rule.name for rule in RULES] == [rule for rule, _, _ in TABLE]
    assert RULES[: len(CLOSED)] == CLOSED


def test_a_topology_that_is_up_is_waited_for_unless_the_deadline_has_come() -> None:
    for fact in Fact:
        decision = decide(fact, EPISODE, case(topology=UP))
        expected = (Verdict.FINALIZE, "deadline") if fact is Fact.DEADLINE_REACHED else (Verdict.WAIT, "topology-up")
        assert (decision.verdict, decision.rule) == expected


@pytest.mark.parametrize("fact", STOPPING_FACTS)
def test_a_topology_that_is_gone_ends_the_run_on_any_fact(fact: Fact) -> None:
    assert decide(fact, EPISODE, case()).rule == "topology-gone"


@pytest.mark.parametrize("phase", [None, "Pending", "Running", "Paused", "Blocked", "Scheduling"])
def test_a_run_in_any_unfinished_phase_can_be_ended(phase: str | None) -> None:
    assert decide(Fact.CANCEL_REQUESTED, EPISODE, case(phase=phase)).verdict is Verdict.FINALIZE


@pytest.mark.parametrize("phase", sorted(bobrapet.TERMINAL_PHASES))
def test_a_run_in_any_terminal_phase_is_left(phase: str) -> None:
    assert decide(Fact.DEADLINE_REACHED, EPISODE, case(phase=phase)).verdict is Verdict.ALREADY_TERMINAL


def test_an_overdue_fence_is_waited_for_no_more() -> None:
    run = case(**UNFENCED, fence_overdue=True)
    assert decide(Fact.CANCEL_REQUESTED, run.run.episode, run).verdict is Verdict.FINALIZE


def test_a_run_opts_out_by_itself_or_by_its_story() -> None:
    by_itself = snapshot(story_run(fence=FENCE, annotations={bobrapet.ENABLED: "false"}), topology=GONE)
    assert decide(Fact.CANCEL_REQUESTED, EPISODE, by_itself).rule == "opted-out"
    assert decide(Fact.CANCEL_REQUESTED, EPISODE, case(enabled=False)).rule == "opted-out"


SNAPSHOT = st.builds(
    case,
    enabled=st.booleans(),
    realtime=st.booleans(),
    topology=st.sampled_from([UP, GONE, Topology()]),
    uid=st.sampled_from(["uid-call", "uid-again"]),
    life=st.sampled_from(["first", "redrive-1"]),
    phase=st.sampled_from([None, "Pending", "Running", *sorted(bobrapet.TERMINAL_PHASES)]),
    message=st.sampled_from([None, bobrapet.CANCELED_MESSAGE]),
    ended_by_exeunt=st.booleans(),
    deleting=st.booleans(),
    redriving=st.booleans(),
    cancel_requested=st.booleans(),
    fence=st.sampled_from([None, FENCE, LATER_FENCE]),
    fence_overdue=st.booleans(),
)


@given(st.sampled_from(list(Fact)), SNAPSHOT)
def test_only_an_open_stop_of_this_episode_is_ever_finalized(fact: Fact, said: Snapshot) -> None:
    run = said.run
    must_not = (
        not said.realtime
        or not run.cancel_requested
        or run.terminal
        or run.deleting
        or run.redriving
        or not (run.enabled and said.story.enabled)
        or run.uid != EPISODE.uid
        or run.episode != EPISODE
        or (run.fence is None and not run.fence_overdue)
        or (said.topology.gone is None and fact is not Fact.DEADLINE_REACHED)
    )
    assert (decide(fact, EPISODE, said).verdict is Verdict.FINALIZE) == (not must_not)


@given(SNAPSHOT, SNAPSHOT)
def test_a_deadline_is_closed_exactly_where_the_terminator_would_do_nothing(said: Snapshot, armed: Snapshot) -> None:
    decision = closed(said, armed)
    assert (decision is None) == (decide(Fact.DEADLINE_REACHED, armed.run.episode, said).verdict is Verdict.FINALIZE)
    if decision is not None:
        assert decision == decide(Fact.DEADLINE_REACHED, armed.run.episode, said)


FINISHED: dict[str, Any] = {"phase": "Finished", "message": bobrapet.CANCELED_MESSAGE}


def test_a_finalized_run_may_have_left_something() -> None:
    assert leaves_leftovers(EPISODE, case(**FINISHED))


@pytest.mark.parametrize(
    "not_ours",
    [
        case(),
        case(**FINISHED | {"phase": "Failed"}),
        case(**FINISHED | {"phase": "Canceled"}),
        case(**FINISHED | {"message": "done"}),
        case(**FINISHED, cancel_requested=False),
        case(**FINISHED, fence=LATER_FENCE),
        case(**FINISHED, uid="uid-again"),
        case(**FINISHED, realtime=False),
        case(**FINISHED, enabled=False),
        replace(case(**FINISHED), run=replace(case(**FINISHED).run, enabled=False)),
    ],
)
def test_nothing_is_deleted_of_a_run_that_was_not_finalized_in_this_episode(not_ours: Snapshot) -> None:
    assert not leaves_leftovers(EPISODE, not_ours)


@given(SNAPSHOT)
def test_nothing_is_ever_deleted_of_an_unfinished_or_a_batch_run(said: Snapshot) -> None:
    if leaves_leftovers(EPISODE, said):
        assert said.run.phase == "Finished"
        assert said.realtime
        assert said.run.episode == EPISODE


def test_episodes_are_told_apart_by_their_names() -> None:
    assert str(Episode("voice", "call", "u", "t")) == "voice/call (u, t)"
