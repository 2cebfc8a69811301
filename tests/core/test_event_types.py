from typing import Any

import pytest

from core.objects import CANCEL_OBSERVED_AT, OBSERVED_LATER, snapshot, story_run
from exeunt.events.event_types import EventType
from exeunt.run import bobrapet
from exeunt.run.snapshot import Evidence, Snapshot, Topology
from exeunt_watcher.event_types import HOLDS, event_types_between, standing

UP = Topology(established=True, step_runs_seen=True)
GONE = Topology(established=True, step_runs_seen=True, gone=Evidence("bindings-gone", 2, "none left"))

ESTABLISHED, CANCEL, TERMINATED, TERMINAL = (
    EventType.TOPOLOGY_ESTABLISHED,
    EventType.CANCEL_REQUESTED,
    EventType.TOPOLOGY_TERMINATED,
    EventType.RUN_TERMINAL,
)


def at(topology: Topology = UP, *, realtime: bool = True, **run: Any) -> Snapshot:
    return snapshot(story_run(**run), topology=topology, realtime=realtime)


STARTING = at(Topology())
RUNNING = at()
LEFT = at(GONE)
UNOBSERVED = at(canceled=True)
CANCELED = at(cancel_observed_at=CANCEL_OBSERVED_AT)
CANCELED_AND_GONE = at(GONE, cancel_observed_at=CANCEL_OBSERVED_AT)
FINISHED = at(GONE, cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished")


def published(*history: Snapshot) -> list[EventType]:
    """All events published by a watcher that sees `history` from its start."""
    return [
        event_type
        for before, after in zip((None, *history), history, strict=False)
        for event_type in event_types_between(before, after)
    ]


def test_cancel_then_gone() -> None:
    assert published(STARTING, RUNNING, UNOBSERVED, CANCELED, CANCELED_AND_GONE, FINISHED) == [
        ESTABLISHED,
        CANCEL,
        TERMINATED,
        TERMINAL,
    ]


def test_gone_then_cancel() -> None:
    """The cancel carries the evidence, so "terminated" is not republished for the new cancellation."""
    assert published(STARTING, RUNNING, LEFT, at(GONE, canceled=True), CANCELED_AND_GONE, FINISHED) == [
        ESTABLISHED,
        TERMINATED,
        CANCEL,
        TERMINAL,
    ]


def test_cancel_and_gone_at_once() -> None:
    assert published(RUNNING, CANCELED_AND_GONE) == [ESTABLISHED, CANCEL]


def test_the_cancel_is_published_before_what_follows_from_it() -> None:
    assert published(CANCELED_AND_GONE) == [ESTABLISHED, CANCEL, TERMINATED]


def test_each_event_is_published_once_however_often_it_is_seen() -> None:
    again = [state for state in (STARTING, RUNNING, CANCELED, CANCELED_AND_GONE, FINISHED) for _ in range(3)]
    assert published(*again) == [ESTABLISHED, CANCEL, TERMINATED, TERMINAL]


def test_a_watcher_that_restarts_offers_what_holds() -> None:
    assert published(CANCELED) == [ESTABLISHED, CANCEL]
    assert published(LEFT) == [ESTABLISHED, TERMINATED]
    assert published(STARTING) == []


def test_a_run_that_was_terminal_when_it_was_first_seen_is_no_news() -> None:
    assert published(FINISHED) == []
    assert published(CANCELED, FINISHED)[-1] is TERMINAL


def test_a_new_cancellation_says_its_events_anew() -> None:
    second = at(UP, cancel_observed_at=OBSERVED_LATER)
    assert published(CANCELED_AND_GONE, second, at(GONE, cancel_observed_at=OBSERVED_LATER))[3:] == [CANCEL, TERMINATED]


def test_a_topology_that_came_back_and_goes_again_is_published_again() -> None:
    """The stream refuses it in the same cancellation; here it is a change like any other."""
    assert published(RUNNING, LEFT, RUNNING, LEFT) == [ESTABLISHED, TERMINATED, TERMINATED]


def test_an_unobserved_cancel_is_published_only_when_cancel_observed_at_is_overdue() -> None:
    overdue = snapshot(story_run(canceled=True), topology=UP, observation_overdue=True)
    assert published(RUNNING, UNOBSERVED) == [ESTABLISHED]
    assert published(RUNNING, UNOBSERVED, overdue) == [ESTABLISHED, CANCEL]
    assert published(RUNNING, UNOBSERVED, overdue, CANCELED) == [ESTABLISHED, CANCEL, CANCEL]  # two cancellations


def test_nothing_is_published_about_a_batch_run() -> None:
    history = [Topology(), UP, GONE]
    batch = [
        at(topology, realtime=False, cancel_observed_at=cancel_observed_at)
        for topology in history
        for cancel_observed_at in (None, CANCEL_OBSERVED_AT, OBSERVED_LATER)
    ]
    assert published(*batch, at(GONE, realtime=False, cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished")) == []
    assert [event_type for one in batch for event_type in standing(one)] == []


def test_a_run_that_turns_out_to_be_realtime_is_reported_then() -> None:
    assert published(at(UP, realtime=False, cancel_observed_at=CANCEL_OBSERVED_AT), CANCELED_AND_GONE) == [
        ESTABLISHED,
        CANCEL,
    ]


def test_nothing_but_its_end_is_published_about_a_run_that_is_being_deleted() -> None:
    assert published(at(GONE, cancel_observed_at=CANCEL_OBSERVED_AT, deleting=True)) == []
    assert published(RUNNING, at(GONE, cancel_observed_at=CANCEL_OBSERVED_AT, deleting=True)) == [ESTABLISHED]
    assert (
        published(CANCELED, at(GONE, cancel_observed_at=CANCEL_OBSERVED_AT, deleting=True, phase="Finished"))[-1]
        is TERMINAL
    )


def test_no_stop_is_published_of_a_run_that_is_being_redriven() -> None:
    """Its old cancel_observed_at may still be there; the cancel comes anew with the next one."""
    redriving = at(GONE, cancel_observed_at=CANCEL_OBSERVED_AT, annotations={bobrapet.REDRIVE[0][0]: "again"})
    assert CANCEL not in published(redriving)
    assert standing(redriving) == []
    assert CANCEL in published(
        redriving, at(UP, cancel_observed_at=OBSERVED_LATER, annotations={bobrapet.REDRIVE[0][1]: "again"})
    )


def test_an_open_stop_is_offered_again_with_all_that_holds() -> None:
    assert standing(CANCELED) == [ESTABLISHED, CANCEL]
    assert standing(CANCELED_AND_GONE) == [ESTABLISHED, CANCEL, TERMINATED]


@pytest.mark.parametrize(
    "state",
    [STARTING, RUNNING, LEFT, UNOBSERVED, FINISHED, at(GONE, cancel_observed_at=CANCEL_OBSERVED_AT, deleting=True)],
)
def test_nothing_is_offered_again_where_there_is_no_open_stop(state: Snapshot) -> None:
    assert standing(state) == []


def test_every_event_of_the_watcher_is_in_the_table() -> None:
    others = {EventType.RUN_DELETED, EventType.DEADLINE_REACHED, EventType.STEP_RUNS_LEFT}
    assert set(EventType) - set(HOLDS) == others
