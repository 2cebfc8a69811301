"""The golden histories: each can be told, and every decision in it comes out again as it was recorded."""

from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec.structs import replace

from exeunt import rules
from exeunt.events import Fact, Outcome, Verdict
from exeunt.history.stops import Ending
from exeunt.history.telling import cause_in_words
from exeunt_cli.check import check
from exeunt_cli.source import Told, read_file, understood
from exeunt_terminator import decision
from exeunt_terminator.stop import Result
from exeunt_timeout_scheduler import deadlines
from exeunt_watcher import facts

FOLDER: Final = Path(__file__).parents[1] / "histories"
GOLDEN: Final = sorted(FOLDER.glob("*.jsonl"))
RELEASED: Final = sorted((FOLDER / "released").glob("*.jsonl"))

STOPS: Final[dict[str, list[tuple[Ending, str | None]]]] = {
    "answer-lost": [(Ending.FINALIZED, "topology-gone (hub-condition)")],
    "cancel-then-gone": [(Ending.FINALIZED, "topology-gone (hub-condition)")],
    "condition-lost": [(Ending.FINALIZED, "topology-gone (hub-condition)")],
    "crashed-terminator": [(Ending.FINALIZED, "its decision was not recorded")],
    "dead-letter": [(Ending.ENDED_ELSEWHERE, "refused by ValidatingAdmissionPolicy 'only-bobrapet-may'")],
    "deadline-default": [(Ending.FINALIZED, "deadline (900ms, default)")],
    "deadline-run-annotation": [(Ending.FINALIZED, "deadline (700ms, StoryRun annotation)")],
    "deadline-story-annotation": [(Ending.FINALIZED, "deadline (700ms, Story annotation)")],
    "deadline-story-policy": [(Ending.FINALIZED, "deadline (700ms, Story policy)")],
    "deleted-meanwhile": [(Ending.DELETED, None)],
    "deleted-mid-stop": [(Ending.DELETED, None)],
    "ended-by-bobrapet": [(Ending.ENDED_ELSEWHERE, "Finished: StoryRun gracefully canceled")],
    "gone-then-cancel": [(Ending.FINALIZED, "topology-gone (bindings-gone)")],
    "late-step-run": [(Ending.FINALIZED, "topology-gone (hub-condition)")],
    "opted-out": [(Ending.ENDED_ELSEWHERE, "opted-out")],
    "overdue-again": [
        (Ending.FINALIZED, None)
    ],  # the second time that it is said, its answer may be the unrecorded one
    "racing": [(Ending.FINALIZED, None)],  # by whichever came first
    "recreated-meanwhile": [(Ending.DELETED, None), (Ending.RUNNING, None)],
    "redriven": [(Ending.FINALIZED, "topology-gone (bindings-gone)")] * 2,
    "redriven-meanwhile": [(Ending.SUPERSEDED, None), (Ending.FINALIZED, "topology-gone (bindings-gone)")],
    "signaled": [(Ending.FINALIZED, "topology-gone (signal)")],
    "unfenced": [(Ending.FINALIZED, "topology-gone (hub-condition)")],
}


def golden(name: str) -> Told:
    return read_file(str(FOLDER / f"{name}.jsonl"))


def rules_in(told: Told) -> set[str]:
    return {step.rule for stop in told.stops for said in stop.outcomes for step in said.outcome.trail}


@pytest.mark.parametrize("path", [*GOLDEN, *RELEASED], ids=lambda path: path.stem)
def test_every_decision_comes_out_as_it_was_recorded(path: Path) -> None:
    told = read_file(str(path))
    assert told.problems == []
    checked = check(told.stops)
    assert checked.passed, [*checked.differences, *checked.unchecked]
    assert checked.facts + checked.outcomes == len(told.records)


def test_a_decision_that_was_taken_again_on_the_run_as_it_was_read_is_checked_as_such() -> None:
    """As when a cancel is passed on to sub-stories: nothing is done by the word of a fact only."""
    told = golden("cancel-then-gone")
    (canceled,) = [said.snapshot for said in told.stops[0].facts if said.fact is Fact.CANCEL_REQUESTED]
    (record,) = [record for record in told.records if record.subject.endswith(f".outcome.{Fact.CANCEL_REQUESTED}")]
    outcome = msgspec.json.decode(record.data, type=Outcome)
    (waited,) = outcome.trail
    for result, passes in ((str(Result.UNREAD), True), ("", False)):
        trail = (replace(waited, result=result), replace(waited, reread=canceled))
        again = replace(record, data=msgspec.json.encode(replace(outcome, trail=trail)))
        stops = understood([again if each is record else each for each in told.records]).stops
        assert check(stops).passed is passes


def test_a_write_of_which_only_the_attempt_was_recorded_is_told_as_such() -> None:
    """As when two terminators answer at once, and the record of the one whose write it was is lost."""
    told = golden("answer-lost")
    (terminal,) = [said.snapshot for said in told.stops[0].facts if said.fact is Fact.RUN_TERMINAL]
    (record,) = [record for record in told.records if record.subject.endswith(f".outcome.{Fact.TOPOLOGY_TERMINATED}")]
    outcome = msgspec.json.decode(record.data, type=Outcome)
    (tried,) = outcome.trail
    found = {"verdict": Verdict.ALREADY_TERMINAL, "rule": "ended-by-exeunt"}
    trail = (replace(tried, result=str(Result.CONDITION_LOST)), replace(tried, result="", reread=terminal, **found))
    other = replace(record, data=msgspec.json.encode(replace(outcome, trail=trail, **found)))
    stops = understood([other if each is record else each for each in told.records]).stops
    assert check(stops).passed
    assert cause_in_words(stops[0]) == "topology-gone, as far as was recorded"


def test_each_history_is_told_as_what_it_is() -> None:
    assert {path.stem for path in GOLDEN} == set(STOPS)
    for name, expected in STOPS.items():
        told = [(stop.ending, cause_in_words(stop)) for stop in golden(name).stops]
        assert [ending for ending, _ in told] == [ending for ending, _ in expected], name
        for (_, cause), (_, expected_cause) in zip(told, expected, strict=True):
            assert expected_cause in (None, cause), name


def test_no_stop_ended_before_its_deadline_for_want_of_patience() -> None:
    for name in ("deadline-default", "deadline-run-annotation", "deadline-story-annotation", "deadline-story-policy"):
        (stop,) = golden(name).stops
        assert stop.deadline is not None
        assert stop.ended_at is not None
        assert stop.ended_at >= stop.deadline


def test_the_golden_histories_pin_every_rule_that_can_decide_alone() -> None:
    pinned = set().union(*(rules_in(golden(name)) for name in STOPS))
    # A run whose Story stops being realtime is no longer heard of at all: the watcher says nothing about it.
    assert {rule.name for rule in decision.RULES} - pinned == {"not-realtime"}
    assert {"topology-up", "refused"} <= pinned


# Where "deleted" stands in them, it is the kube-apiserver's answer that the run is gone, and not the rule.
CHANGED: Final = [rule.name for rule in decision.RULES if rule.name not in ("not-realtime", "deleted")]


@pytest.mark.parametrize("rule", CHANGED)
def test_a_changed_rule_makes_the_check_fail_and_say_where(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [golden(name) for name in STOPS]
    where = {
        said.record.sequence
        for each in told
        for stop in each.stops
        for said in stop.outcomes
        if any(step.rule == rule for step in said.outcome.trail)
    }
    assert where
    monkeypatch.setattr(decision, "RULES", tuple(each for each in decision.RULES if each.name != rule))
    differences = [difference for each in told for difference in check(each.stops).differences]
    assert {difference.sequence for difference in differences} == where
    assert all(difference.expected.endswith(f"by {rule}") for difference in differences)
    assert not any(difference.actual.endswith(f"by {rule}") for difference in differences)


def test_another_verdict_of_a_rule_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = tuple(
        rule._replace(verdict=Verdict.FINALIZE) if rule.name == "unfenced" else rule for rule in decision.RULES
    )
    monkeypatch.setattr(decision, "RULES", eager)
    first, *_ = check(golden("unfenced").stops).differences
    assert (first.expected, first.actual) == ("wait by unfenced", "finalize by unfenced")
    assert first.what == "the decision on topology-terminated"
    assert first.run == "livekit-voice/unfenced"


@pytest.mark.parametrize("fact", list(facts.HOLDS))
def test_a_fact_that_would_not_be_said_today_is_a_difference(fact: Fact, monkeypatch: pytest.MonkeyPatch) -> None:
    told = golden("cancel-then-gone")
    said = [each for stop in told.stops for each in stop.facts if each.fact is fact]
    monkeypatch.setitem(facts.HOLDS, fact, lambda _: False)
    (difference,) = check(told.stops).differences
    assert [difference.sequence] == [each.record.sequence for each in said]
    assert (difference.expected, difference.actual) == ("it holds of its snapshot", "it does not")


def test_a_deadline_that_would_be_closed_today_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    never = rules.Rule("never", lambda _: True, Verdict.LEAVE, "today nothing has a deadline")
    monkeypatch.setattr(deadlines, "CLOSED", (never, *rules.CLOSED))
    (difference,) = check(golden("deadline-default").stops).differences
    assert difference.what == "deadline-reached"
    assert difference.actual == "closed: leave by never"
