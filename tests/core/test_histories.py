"""The golden histories: each can be shown, and every decision in it comes out again as it was recorded."""

from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec.structs import replace

from exeunt.events.event_types import EventType, Outcome, Verdict
from exeunt.history.rendering import cause_in_words
from exeunt.history.stops import Ending
from exeunt.rules import closed
from exeunt_cli.check import check
from exeunt_cli.source import Loaded, read_file, understood
from exeunt_terminator import decision
from exeunt_terminator.stop import Result
from exeunt_timeout_scheduler import deadlines
from exeunt_watcher import event_types

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
    "opted-out": [(Ending.ENDED_ELSEWHERE, "opted-out")],
    "overdue-again": [
        (Ending.FINALIZED, None)
    ],  # the second time that it is said, its answer may be the unrecorded one
    "racing": [(Ending.FINALIZED, None)],  # by whichever came first
    "recreated-meanwhile": [(Ending.DELETED, None), (Ending.RUNNING, None)],
    "redriven": [(Ending.FINALIZED, "topology-gone (bindings-gone)")] * 2,
    "redriven-meanwhile": [(Ending.SUPERSEDED, None), (Ending.FINALIZED, "topology-gone (bindings-gone)")],
    "signaled": [(Ending.FINALIZED, "topology-gone (signal)")],
    "late-step-run": [(Ending.FINALIZED, "topology-gone (hub-condition)")],
    "unfenced": [(Ending.FINALIZED, "topology-gone (hub-condition)")],
}


def golden(name: str) -> Loaded:
    return read_file(str(FOLDER / f"{name}.jsonl"))


def rules_in(loaded: Loaded) -> set[str]:
    return {step.rule for stop in loaded.stops for recorded in stop.outcomes for step in recorded.outcome.trail}


@pytest.mark.parametrize("path", [*GOLDEN, *RELEASED], ids=lambda path: path.stem)
def test_every_decision_comes_out_as_it_was_recorded(path: Path) -> None:
    loaded = read_file(str(path))
    assert loaded.problems == []
    checked = check(loaded.stops)
    assert checked.passed, [*checked.differences, *checked.unchecked]
    assert checked.run_events + checked.outcomes == len(loaded.records)


def test_a_decision_that_was_taken_again_on_the_run_as_it_was_read_is_checked_as_such() -> None:
    """As when a cancel is passed on to sub-stories: nothing is done by the word of an event only."""
    loaded = golden("cancel-then-gone")
    (canceled,) = [
        recorded.snapshot
        for recorded in loaded.stops[0].run_events
        if recorded.event_type is EventType.CANCEL_REQUESTED
    ]
    (record,) = [
        record for record in loaded.records if record.subject.endswith(f".outcome.{EventType.CANCEL_REQUESTED}")
    ]
    outcome = msgspec.json.decode(record.data, type=Outcome)
    (waited,) = outcome.trail
    for result, passes in ((str(Result.UNREAD), True), ("", False)):
        trail = (replace(waited, result=result), replace(waited, reread=canceled))
        again = replace(record, data=msgspec.json.encode(replace(outcome, trail=trail)))
        stops = understood([again if each is record else each for each in loaded.records]).stops
        assert check(stops).passed is passes


def test_a_write_of_which_only_the_attempt_was_recorded_is_reported_as_such() -> None:
    """As when two terminators answer at once, and the record of the one whose write it was is lost."""
    loaded = golden("answer-lost")
    (terminal,) = [event.snapshot for event in loaded.stops[0].run_events if event.event_type is EventType.RUN_TERMINAL]
    (record,) = [
        record for record in loaded.records if record.subject.endswith(f".outcome.{EventType.TOPOLOGY_TERMINATED}")
    ]
    outcome = msgspec.json.decode(record.data, type=Outcome)
    (tried,) = outcome.trail
    found = {"verdict": Verdict.ALREADY_TERMINAL, "rule": "ended-by-exeunt"}
    trail = (replace(tried, result=str(Result.CONDITION_LOST)), replace(tried, result="", reread=terminal, **found))
    other = replace(record, data=msgspec.json.encode(replace(outcome, trail=trail)))
    stops = understood([other if each is record else each for each in loaded.records]).stops
    assert check(stops).passed
    assert cause_in_words(stops[0]) == "topology-gone, as far as was recorded"


def test_each_history_is_reported_as_what_it_is() -> None:
    assert {path.stem for path in GOLDEN} == set(STOPS)
    for name, expected in STOPS.items():
        reported = [(stop.ending, cause_in_words(stop)) for stop in golden(name).stops]
        assert [ending for ending, _ in reported] == [ending for ending, _ in expected], name
        for (_, cause), (_, expected_cause) in zip(reported, expected, strict=True):
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
    loaded = [golden(name) for name in STOPS]
    where = {
        recorded.record.sequence
        for each in loaded
        for stop in each.stops
        for recorded in stop.outcomes
        if any(step.rule == rule for step in recorded.outcome.trail)
    }
    assert where
    monkeypatch.setattr(decision, "RULES", tuple(each for each in decision.RULES if each.name != rule))
    differences = [difference for each in loaded for difference in check(each.stops).differences]
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


@pytest.mark.parametrize("event_type", list(event_types.HOLDS))
def test_an_event_that_would_not_be_published_today_is_a_difference(
    event_type: EventType, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = golden("cancel-then-gone")
    recorded = [each for stop in loaded.stops for each in stop.run_events if each.event_type is event_type]
    monkeypatch.setitem(event_types.HOLDS, event_type, lambda _: False)
    (difference,) = check(loaded.stops).differences
    assert [difference.sequence] == [each.record.sequence for each in recorded]
    assert (difference.expected, difference.actual) == ("it holds of its snapshot", "it does not")


def test_a_deadline_that_would_be_closed_today_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    never = closed.Rule("never", lambda _: True, Verdict.LEAVE, "today nothing has a deadline")
    monkeypatch.setattr(deadlines, "CLOSED", (never, *closed.CLOSED))
    (difference,) = check(golden("deadline-default").stops).differences
    assert difference.what == "deadline-reached"
    assert difference.actual == "closed: leave by never"
