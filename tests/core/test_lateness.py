from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from core.objects import CANCEL_OBSERVED_AT, OBSERVED_LATER, snapshot, story_run
from exeunt.clock import format_status_time, parse_instant
from exeunt.run.snapshot import Evidence, Snapshot, Topology
from exeunt_watcher.lateness import Due, Late, Lateness

UP = Topology(established=True)
GONE = Topology(established=True, gone=Evidence("bindings-gone", 2, "none left"))
TIMEOUT = 20.0
"""Seconds, of `snapshot`."""


def after(seconds: float) -> datetime:
    """Counted from the cancel."""
    return parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=seconds)


def running(topology: Topology = UP) -> Snapshot:
    return snapshot(story_run(), topology=topology)


def canceled(topology: Topology = UP, **changes: Any) -> Snapshot:
    return snapshot(topology=topology, **changes)


def over(topology: Topology = GONE, *, by_exeunt: bool = True, at: float | None = None) -> Snapshot:
    """`at` is what its status says, in seconds after the cancel."""
    finished_at = None if at is None else format_status_time(after(at))
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished", finished_at=finished_at)
    return snapshot(run, topology=topology, ended_by_exeunt=by_exeunt)


def late(*history: tuple[float, Snapshot]) -> Late | None:
    """What is measured at the last of these snapshots, each seen so many seconds after the cancel."""
    lateness, previous, measured = Lateness(), None, None
    for seconds, current in history:
        measured = lateness.see(previous, current, after(seconds))
        previous = current
    return measured


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_after_the_cancel_it_is_due_when_the_topology_goes() -> None:
    assert late((0, canceled()), (5, canceled(GONE)), (5.3, over())) == Late("gone", "exeunt", seconds(0.3))


def test_the_first_sight_of_gone_counts() -> None:
    assert late((0, canceled()), (5, canceled(GONE)), (7, canceled(GONE)), (8, over())) == Late(
        "gone", "exeunt", seconds(3)
    )


def test_a_topology_that_comes_back_had_not_gone() -> None:
    history = (0, canceled()), (5, canceled(GONE)), (6, canceled()), (9, canceled(GONE)), (10, over())
    assert late(*history) == Late("gone", "exeunt", seconds(1))


def test_gone_before_the_cancel_it_is_due_at_the_cancel() -> None:
    assert late((-9, running(GONE)), (0.1, canceled(GONE)), (0.2, over())) == Late("cancel", "exeunt", seconds(0.2))


def test_nobody_leaves_and_it_is_due_at_the_deadline() -> None:
    assert late((0, canceled()), (TIMEOUT + 0.5, over(UP))) == Late("deadline", "exeunt", seconds(0.5))


def test_what_goes_after_the_deadline_was_due_before() -> None:
    history = (0, canceled()), (TIMEOUT + 2, canceled(GONE)), (TIMEOUT + 3, over())
    assert late(*history) == Late("deadline", "exeunt", seconds(3))


def test_a_run_that_somebody_else_had_to_end_was_late_all_the_same() -> None:
    history = (0, canceled()), (5, canceled(GONE)), (120, over(by_exeunt=False))
    assert late(*history) == Late("gone", "other", seconds(115))


def test_what_is_seen_late_was_not_late() -> None:
    """The watch was away, but the run was ended in time."""
    history = (0, canceled()), (TIMEOUT + 90, over(UP, at=TIMEOUT + 0.1))
    assert late(*history) == Late("deadline", "exeunt", seconds(0))


def test_what_was_late_and_is_seen_later_was_late() -> None:
    measured = late((0, canceled()), (TIMEOUT + 90, over(UP, at=TIMEOUT + 50)))
    assert measured is not None
    assert seconds(49) <= measured.by <= seconds(50)  # statuses tell whole seconds


def test_a_status_that_tells_of_an_earlier_end_is_not_believed() -> None:
    assert late((0, canceled()), (TIMEOUT + 9, over(UP, at=-30))) == Late("deadline", "exeunt", seconds(9))


def test_a_stop_is_due_when_its_topology_has_gone_and_at_its_deadline_at_the_latest() -> None:
    lateness = Lateness()
    assert lateness.due(canceled()) == Due("deadline", after(TIMEOUT))
    lateness.see(None, canceled(GONE), after(3))
    assert lateness.due(canceled(GONE)) == Due("gone", after(3))
    assert lateness.due(canceled(GONE, uid="its namesake")) == Due("deadline", after(TIMEOUT))
    assert lateness.due(running(GONE)) is None


def test_a_deadline_is_that_of_before_the_end() -> None:
    """The Story may be gone by then, and its shutdown timeout with it."""
    ended = replace(over(UP), shutdown=replace(over().shutdown, timeout="1h"))
    assert late((0, canceled()), (TIMEOUT + 1, ended)) == Late("deadline", "exeunt", seconds(1))


@pytest.mark.parametrize(
    "before",
    [
        running(GONE),
        snapshot(realtime=False, topology=GONE),
        canceled(GONE, enabled=False),
        canceled(GONE, redriving=True),
        None,
    ],
    ids=["not canceled", "batch", "opted out", "redriving", "not known"],
)
def test_what_was_no_stop_of_ours_is_not_measured(before: Snapshot | None) -> None:
    lateness = Lateness()
    if before is not None:
        lateness.see(None, before, after(1))
    assert lateness.see(before, over(), after(60)) is None


def test_what_ended_before_it_was_due_is_not_measured() -> None:
    assert late((0, canceled()), (3, over(UP, by_exeunt=False))) is None


@pytest.mark.parametrize(
    ("history", "cause"),
    [
        (((0, canceled()), (TIMEOUT - 0.03, over(UP))), "deadline"),
        (((-9, running(GONE)), (-0.05, canceled(GONE)), (-0.03, over())), "cancel"),
        (((0, canceled()), (5, over(UP))), "gone"),
    ],
    ids=["our clock is behind", "our clock is behind cancel_observed_at", "the end is seen before what caused it"],
)
def test_what_exeunt_ended_was_due_and_is_not_left_out_where_clocks_differ(
    history: tuple[tuple[float, Snapshot], ...], cause: Any
) -> None:
    assert late(*history) == Late(cause, "exeunt", seconds(0))


def test_the_next_attempt_of_a_run_remembers_nothing() -> None:
    lateness = Lateness()
    lateness.see(None, canceled(GONE), after(0))
    lateness.see(canceled(GONE), over(), after(1))
    again = snapshot(story_run(cancel_observed_at=OBSERVED_LATER), topology=UP)
    assert lateness.due(again) == Due("deadline", parse_instant(OBSERVED_LATER) + seconds(TIMEOUT))


def test_a_deleted_run_is_forgotten() -> None:
    lateness = Lateness()
    lateness.see(None, canceled(GONE), after(1))
    lateness.forget(("voice", "call"))
    assert lateness.due(canceled()) == Due("deadline", after(TIMEOUT))
