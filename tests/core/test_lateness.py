from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from core.objects import FENCE, LATER_FENCE, snapshot, story_run
from exeunt.clock import parse_instant
from exeunt.snapshot import Evidence, Snapshot, Topology
from exeunt_watcher.lateness import Late, Lateness

UP = Topology(established=True)
GONE = Topology(established=True, gone=Evidence("bindings-gone", 2, "none left"))
TIMEOUT = 20.0
"""Seconds, of `snapshot`."""


def after(seconds: float) -> datetime:
    """Counted from the cancel."""
    return parse_instant(FENCE) + timedelta(seconds=seconds)


def running(topology: Topology = UP) -> Snapshot:
    return snapshot(story_run(), topology=topology)


def canceled(topology: Topology = UP, **changes: Any) -> Snapshot:
    return snapshot(topology=topology, **changes)


def over(topology: Topology = GONE, *, by_exeunt: bool = True) -> Snapshot:
    return snapshot(story_run(fence=FENCE, phase="Finished"), topology=topology, ended_by_exeunt=by_exeunt)


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


def test_the_next_life_of_a_run_remembers_nothing() -> None:
    lateness = Lateness()
    lateness.see(None, canceled(GONE), after(0))
    lateness.see(canceled(GONE), over(), after(1))
    again = snapshot(story_run(fence=LATER_FENCE))
    assert lateness.see(again, snapshot(story_run(fence=LATER_FENCE, phase="Finished")), after(400)) is None


def test_a_deleted_run_is_forgotten() -> None:
    lateness = Lateness()
    lateness.see(None, canceled(GONE), after(1))
    lateness.forget(canceled().run.uid)
    assert lateness.see(canceled(), over(UP), after(2)) is None
