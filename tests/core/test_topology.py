from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from core.objects import CANCEL_OBSERVED_AT, NOW, STARTED, condition, run_state, story_run, topology_terminated
from exeunt.clock import format_instant
from exeunt.run.snapshot import Evidence, Topology
from exeunt_watcher.topology import EVIDENCE, LiveBinding, Situation, judge

SEEN = Topology(established=True, step_runs_seen=True)
UP = LiveBinding(None, None)
EARLIER = "2026-11-24T18:12:59Z"


def look(
    *,
    conditions: Sequence[dict[str, Any]] = (),
    before: Topology = SEEN,
    bindings: Sequence[LiveBinding] = (),
    step_runs: int = 0,
    canceled: bool = True,
    started_at: str | None = STARTED,
    stale_after: timedelta | None = None,
    signal: Evidence | None = None,
) -> Topology:
    run = story_run(
        cancel_observed_at=CANCEL_OBSERVED_AT if canceled else None, conditions=conditions, started_at=started_at
    )
    return judge(Situation(run_state(run), before, bindings, step_runs, NOW, stale_after, signal))


def beat(seconds_ago: float) -> LiveBinding:
    return LiveBinding(None, format_instant(NOW - timedelta(seconds=seconds_ago)))


def kind_of(topology: Topology) -> str | None:
    return None if topology.gone is None else topology.gone.kind


def test_the_strongest_evidence_wins() -> None:
    every = look(conditions=[topology_terminated()])
    assert every.gone is not None
    assert (every.gone.kind, every.gone.rank) == ("hub-condition", 1)
    bindings = look().gone
    assert bindings is not None
    assert (bindings.kind, bindings.rank) == ("bindings-gone", 2)
    step_runs = look(bindings=[beat(999)], stale_after=timedelta(seconds=90)).gone
    assert step_runs is not None
    assert (step_runs.kind, step_runs.rank) == ("step-runs-done", 3)
    stale = look(bindings=[beat(999)], step_runs=1, stale_after=timedelta(seconds=90)).gone
    assert stale is not None
    assert (stale.kind, stale.rank) == ("heartbeats-stale", 5)
    signal = Evidence("signal", 6, "the room is closed")
    published = look(bindings=[UP], step_runs=1, signal=signal)
    assert published.gone is signal
    assert len(EVIDENCE) == 5


def test_a_live_binding_and_a_live_step_run_are_a_topology() -> None:
    assert look(bindings=[UP], step_runs=1) == SEEN


def test_the_hub_is_quoted() -> None:
    published = topology_terminated() | {"message": "streaming topology terminated"}
    gone = look(conditions=[published], bindings=[UP], step_runs=1).gone
    assert gone is not None
    assert gone.detail == "streaming topology terminated"
    wordless = look(conditions=[topology_terminated()], bindings=[UP], step_runs=1).gone
    assert wordless is not None
    assert wordless.detail


@pytest.mark.parametrize(
    "other",
    [
        condition("Degraded", "True", "DependencyFailed"),
        condition("Degraded", "False", "TopologyTerminated"),
        condition("Degraded", "Unknown", "TopologyTerminated"),
        condition("Ready", "True", "TopologyTerminated"),
        condition("Degraded", "True", "ExecutionFailed") | {"message": "TopologyTerminated"},
    ],
)
def test_the_hub_condition_counts_by_type_status_and_reason(other: dict[str, Any]) -> None:
    assert kind_of(look(conditions=[other], bindings=[UP], step_runs=1)) is None


@pytest.mark.parametrize(("at", "counts"), [(EARLIER, False), (STARTED, True), ("2026-11-24T18:13:01Z", True)])
def test_the_hub_condition_of_an_earlier_start_is_no_evidence(at: str, *, counts: bool) -> None:
    found = kind_of(look(conditions=[topology_terminated(at)], bindings=[UP], step_runs=1))
    assert found == ("hub-condition" if counts else None)


def test_the_hub_condition_counts_when_nobody_wrote_the_start() -> None:
    gone = look(conditions=[topology_terminated(EARLIER)], bindings=[UP], step_runs=1, started_at=None)
    assert kind_of(gone) == "hub-condition"


def test_a_hub_condition_that_was_cleared_again_is_no_evidence() -> None:
    before = look(conditions=[topology_terminated()], bindings=[UP], step_runs=1)
    assert kind_of(before) == "hub-condition"
    cleared = condition("Degraded", "False", "TopologyTerminated")
    assert kind_of(look(conditions=[cleared], before=before, bindings=[UP], step_runs=1)) is None
    assert kind_of(look(before=before, bindings=[UP], step_runs=1)) is None


def test_the_hub_condition_needs_no_cancel() -> None:
    assert kind_of(look(conditions=[topology_terminated()], bindings=[UP], canceled=False)) == "hub-condition"


def test_an_empty_list_is_no_evidence_before_anything_was_seen() -> None:
    assert look(before=Topology()) == Topology()


def test_bindings_are_gone_only_after_one_was_seen() -> None:
    assert kind_of(look(before=Topology(established=True), step_runs=1)) == "bindings-gone"
    assert kind_of(look(before=Topology(step_runs_seen=True), step_runs=1)) is None


def test_bindings_gone_needs_no_cancel() -> None:
    assert kind_of(look(canceled=False, step_runs=1)) == "bindings-gone"


def test_step_runs_are_done_only_after_one_was_seen() -> None:
    assert kind_of(look(before=Topology(step_runs_seen=True))) == "step-runs-done"
    assert kind_of(look(before=Topology(established=True), bindings=[UP])) is None


def test_before_a_cancel_the_next_step_may_merely_not_exist_yet() -> None:
    assert kind_of(look(before=Topology(step_runs_seen=True), canceled=False)) is None


def test_stale_heartbeats_are_off_by_default() -> None:
    assert kind_of(look(bindings=[beat(99_999)], step_runs=1)) is None


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-24T18:13:00+24:00", "soon"])
def test_a_time_that_nobody_can_read_counts_as_absent(text: str) -> None:
    ended = topology_terminated(EARLIER)
    assert kind_of(look(conditions=[ended], bindings=[UP], step_runs=1, started_at=text)) == "hub-condition"
    ended = topology_terminated(text)
    assert kind_of(look(conditions=[ended], bindings=[UP], step_runs=1)) == "hub-condition"
    never = LiveBinding(None, text)
    assert kind_of(look(bindings=[never], step_runs=1, stale_after=timedelta(seconds=90))) is None


def test_every_heartbeat_must_be_stale() -> None:
    limit = timedelta(seconds=90)
    assert kind_of(look(bindings=[beat(91), beat(90)], step_runs=1, stale_after=limit)) == "heartbeats-stale"
    assert kind_of(look(bindings=[beat(91), beat(89)], step_runs=1, stale_after=limit)) is None


def test_a_binding_that_never_beat_is_not_stale() -> None:
    assert kind_of(look(bindings=[UP], step_runs=1, stale_after=timedelta(seconds=90))) is None


def test_what_was_seen_is_remembered_and_no_evidence_by_itself() -> None:
    first = look(before=Topology(), bindings=[UP], step_runs=1)
    assert first == SEEN
    gone = look(before=first)
    assert (gone.established, gone.step_runs_seen) == (True, True)
    assert look(before=gone, bindings=[UP], step_runs=1) == SEEN
