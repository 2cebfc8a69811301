from typing import Any

import pytest

from core.objects import FENCE, LATER_FENCE, snapshot, story_run
from exeunt import bobrapet
from exeunt.events import Fact
from exeunt.snapshot import Evidence, Snapshot, Topology
from exeunt_watcher.facts import HOLDS, facts_between, standing

UP = Topology(established=True, step_runs_seen=True)
GONE = Topology(established=True, step_runs_seen=True, gone=Evidence("bindings-gone", 2, "none left"))

ESTABLISHED, CANCEL, TERMINATED, TERMINAL = (
    Fact.TOPOLOGY_ESTABLISHED,
    Fact.CANCEL_REQUESTED,
    Fact.TOPOLOGY_TERMINATED,
    Fact.RUN_TERMINAL,
)


def at(topology: Topology = UP, *, realtime: bool = True, **run: Any) -> Snapshot:
    return snapshot(story_run(**run), topology=topology, realtime=realtime)


STARTING = at(Topology())
RUNNING = at()
LEFT = at(GONE)
UNFENCED = at(canceled=True)
CANCELED = at(fence=FENCE)
CANCELED_AND_GONE = at(GONE, fence=FENCE)
FINISHED = at(GONE, fence=FENCE, phase="Finished")


def said(*history: Snapshot) -> list[Fact]:
    """All facts said by a watcher that sees `history` from its start."""
    return [
        fact for before, after in zip((None, *history), history, strict=False) for fact in facts_between(before, after)
    ]


def test_cancel_then_gone() -> None:
    assert said(STARTING, RUNNING, UNFENCED, CANCELED, CANCELED_AND_GONE, FINISHED) == [
        ESTABLISHED,
        CANCEL,
        TERMINATED,
        TERMINAL,
    ]


def test_gone_then_cancel() -> None:
    """The cancel carries the evidence, so "terminated" is not said again for the new episode."""
    assert said(STARTING, RUNNING, LEFT, at(GONE, canceled=True), CANCELED_AND_GONE, FINISHED) == [
        ESTABLISHED,
        TERMINATED,
        CANCEL,
        TERMINAL,
    ]


def test_cancel_and_gone_at_once() -> None:
    assert said(RUNNING, CANCELED_AND_GONE) == [ESTABLISHED, CANCEL]


def test_the_cancel_is_said_before_what_follows_from_it() -> None:
    assert said(CANCELED_AND_GONE) == [ESTABLISHED, CANCEL, TERMINATED]


def test_each_fact_is_said_once_however_often_it_is_seen() -> None:
    again = [state for state in (STARTING, RUNNING, CANCELED, CANCELED_AND_GONE, FINISHED) for _ in range(3)]
    assert said(*again) == [ESTABLISHED, CANCEL, TERMINATED, TERMINAL]


def test_a_watcher_that_restarts_offers_what_holds() -> None:
    assert said(CANCELED) == [ESTABLISHED, CANCEL]
    assert said(LEFT) == [ESTABLISHED, TERMINATED]
    assert said(STARTING) == []


def test_a_run_that_was_terminal_when_it_was_first_seen_is_no_news() -> None:
    assert said(FINISHED) == []
    assert said(CANCELED, FINISHED)[-1] is TERMINAL


def test_a_new_episode_says_its_facts_anew() -> None:
    second = at(UP, fence=LATER_FENCE)
    assert said(CANCELED_AND_GONE, second, at(GONE, fence=LATER_FENCE))[3:] == [CANCEL, TERMINATED]


def test_a_topology_that_came_back_and_goes_again_is_said_again() -> None:
    """The stream refuses it in the same episode; here it is a change like any other."""
    assert said(RUNNING, LEFT, RUNNING, LEFT) == [ESTABLISHED, TERMINATED, TERMINATED]


def test_an_unfenced_cancel_is_said_only_when_its_fence_is_overdue() -> None:
    overdue = snapshot(story_run(canceled=True), topology=UP, fence_overdue=True)
    assert said(RUNNING, UNFENCED) == [ESTABLISHED]
    assert said(RUNNING, UNFENCED, overdue) == [ESTABLISHED, CANCEL]
    assert said(RUNNING, UNFENCED, overdue, CANCELED) == [ESTABLISHED, CANCEL, CANCEL]  # two episodes


def test_nothing_is_said_about_a_batch_run() -> None:
    history = [Topology(), UP, GONE]
    batch = [at(topology, realtime=False, fence=fence) for topology in history for fence in (None, FENCE, LATER_FENCE)]
    assert said(*batch, at(GONE, realtime=False, fence=FENCE, phase="Finished")) == []
    assert [fact for one in batch for fact in standing(one)] == []


def test_a_run_that_turns_out_to_be_realtime_is_told_then() -> None:
    assert said(at(UP, realtime=False, fence=FENCE), CANCELED_AND_GONE) == [ESTABLISHED, CANCEL]


def test_nothing_but_its_end_is_said_about_a_run_that_is_being_deleted() -> None:
    assert said(at(GONE, fence=FENCE, deleting=True)) == []
    assert said(RUNNING, at(GONE, fence=FENCE, deleting=True)) == [ESTABLISHED]
    assert said(CANCELED, at(GONE, fence=FENCE, deleting=True, phase="Finished"))[-1] is TERMINAL


def test_no_stop_is_said_of_a_run_that_is_being_redriven() -> None:
    """Its old fence may still be there; the cancel comes anew with the next one."""
    redriving = at(GONE, fence=FENCE, annotations={bobrapet.REDRIVE[0][0]: "again"})
    assert CANCEL not in said(redriving)
    assert standing(redriving) == []
    assert CANCEL in said(redriving, at(UP, fence=LATER_FENCE, annotations={bobrapet.REDRIVE[0][1]: "again"}))


def test_an_open_stop_is_offered_again_with_all_that_holds() -> None:
    assert standing(CANCELED) == [ESTABLISHED, CANCEL]
    assert standing(CANCELED_AND_GONE) == [ESTABLISHED, CANCEL, TERMINATED]


@pytest.mark.parametrize("state", [STARTING, RUNNING, LEFT, UNFENCED, FINISHED, at(GONE, fence=FENCE, deleting=True)])
def test_nothing_is_offered_again_where_there_is_no_open_stop(state: Snapshot) -> None:
    assert standing(state) == []


def test_every_fact_of_the_watcher_is_in_the_table() -> None:
    assert set(Fact) - set(HOLDS) == {Fact.RUN_DELETED, Fact.DEADLINE_REACHED}
