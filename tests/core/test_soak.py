"""The soak's judge finds what is planted, and accuses nobody who has kept the promises. `make soak` shows the rest."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from soak.plan import FAULTS, UNTOUCHABLE, plan
from soak.promises import EXEUNT, GRACE, NEEDED, broken
from soak.report import latenesses
from soak.witnessed import Decided, End, Played, Window

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


CALM = after(100)
NOW = CALM + GRACE + timedelta(minutes=2)
TIMEOUT = timedelta(seconds=30)
OBSERVED = after(10)
ENDED = End(at=after(20.2), by=EXEUNT, cancel_observed_at=OBSERVED, written_at=after(20))
COMPLETE = Decided(NEEDED, ("topology-gone",))


def stopped() -> Played:
    """Canceled, gone after 20 s, and ended as promised."""
    return Played(
        "run",
        "uid",
        "bindings go",
        TIMEOUT,
        BEGAN,
        asked_at=after(9.9),
        evident_from=after(20),
        gone_at=after(20.1),
        touched_by=frozenset({"user", "bobrapet", EXEUNT}),
        ends=[ENDED],
        histories={OBSERVED: COMPLETE},
    )


def judged(run: Played, *faults: Window) -> list[str]:
    return list(broken([run], faults, CALM, NOW))


def again(run: Played) -> None:
    run.ends.append(ENDED._replace(at=after(50), written_at=after(50)))


def early(run: Played) -> None:
    run.ends = [ENDED._replace(at=after(19.9), written_at=None)]


def early_by_its_own_time(run: Played) -> None:
    """The write was seen only later, because the kube-apiserver was away."""
    run.ends = [ENDED._replace(at=after(25), written_at=after(18))]


def before_the_deadline(run: Played) -> None:
    run.way, run.evident_from, run.gone_at = "deadline", None, None
    run.ends = [ENDED._replace(at=after(39.9), written_at=None)]


def not_ended(run: Played) -> None:
    run.ends = []


def not_ended_again(run: Played) -> None:
    run.redriven_at, run.asked_at = after(40), after(50)


def left_to_bobrapet(run: Played) -> None:
    run.ends = [ENDED._replace(by="bobrapet")]


def not_deleted(run: Played) -> None:
    run.deleted_at = after(30)


def opted_out(run: Played) -> None:
    run.way = "opted out"


def not_canceled(run: Played) -> None:
    run.way, run.asked_at, run.ends = "not canceled", None, []


def leaves_a_schedule(run: Played) -> None:
    run.armed = 1


def leaves_a_step_run(run: Played) -> None:
    run.step_runs_left = ("run-listen",)


def without_history(run: Played) -> None:
    run.histories = {}


def without_its_end(run: Played) -> None:
    run.histories = {OBSERVED: replace_events(COMPLETE, "cancel-requested")}


def without_decision(run: Played) -> None:
    run.histories = {OBSERVED: Decided(NEEDED, ())}


def replace_events(decided: Decided, *events: str) -> Decided:
    return decided._replace(events=frozenset(events))


PLANTED: dict[Callable[[Played], None], str] = {
    again: "ended 2 times in one cancellation",
    early: "ended at",
    early_by_its_own_time: "ended at",
    before_the_deadline: "ended at",
    not_ended: "not ended",
    not_ended_again: "not ended",
    left_to_bobrapet: "ended by bobrapet",
    not_deleted: "deleted, and still there",
    opted_out: "touched by exeunt-terminator",
    not_canceled: "touched by exeunt-terminator",
    leaves_a_schedule: "1 schedules are left",
    leaves_a_step_run: "StepRuns are left: run-listen",
    without_history: "the history lacks cancel-requested, run-terminal",
    without_its_end: "the history lacks run-terminal",
    without_decision: "the history does not say who has ended it",
}


def test_a_stop_as_promised_breaks_nothing() -> None:
    assert judged(stopped()) == []
    assert [late.seconds for late in latenesses([stopped()])] == [pytest.approx(0.1)]


@pytest.mark.parametrize(("plant", "found"), PLANTED.items(), ids=[plant.__name__ for plant in PLANTED])
def test_what_is_planted_is_found(plant: Callable[[Played], None], found: str) -> None:
    run = stopped()
    plant(run)
    assert any(promise.startswith(f"{run.way}, run: {found}") for promise in judged(run))


def test_who_is_redriven_has_new_step_runs() -> None:
    run = stopped()
    leaves_a_step_run(run)
    run.redriven_at, run.given_up = after(40), "not redriven"
    assert judged(run) == []


@pytest.mark.parametrize("plant", [not_ended, not_ended_again, not_deleted])
def test_a_stop_has_its_time(plant: Callable[[Played], None]) -> None:
    run = stopped()
    plant(run)
    assert list(broken([run], [], CALM, CALM + GRACE)) == []


@pytest.mark.parametrize(
    ("plant", "fault", "excused"),
    [
        (without_history, Window("streams lost", after(30), after(30)), True),
        (without_history, Window("streams lost", after(-60), after(-60)), False),
        (leaves_a_step_run, Window("streams lost", after(25), after(25)), True),
        (leaves_a_step_run, Window("nats-server killed", after(18), after(25)), False),
        (again, Window("etcd restored", after(15), after(45)), True),
        (again, Window("kube-apiserver killed", after(15), after(45)), False),
        (without_decision, Window("all nats-servers killed", after(5), after(60)), False),
    ],
)
def test_a_fault_excuses_what_it_is_known_to_cost(
    plant: Callable[[Played], None], fault: Window, *, excused: bool
) -> None:
    run = stopped()
    plant(run)
    assert (judged(run, fault) == []) is excused


@pytest.mark.parametrize(
    ("plant", "service", "another"),
    [(without_decision, "terminator", "watcher"), (without_its_end, "watcher", "terminator")],
)
def test_who_ends_before_nats_is_back_takes_along_what_is_not_published(
    plant: Callable[[Played], None], service: str, another: str
) -> None:
    run, outage = stopped(), Window("all nats-servers killed", after(5), after(60))
    plant(run)
    assert judged(run, outage, Window("service killed", after(30), after(31), another))
    assert judged(run, outage, Window("service killed", after(80), after(81), service)) == []
    assert judged(run, Window("service killed", after(30), after(31), service))


API_AWAY = Window("kube-apiserver killed", after(2), after(9))
NATS_AWAY = Window("all nats-servers killed", after(1), after(60))


@pytest.mark.parametrize(
    ("made_at", "redriven_at", "faults", "excused"),
    [
        (after(8), None, [API_AWAY, NATS_AWAY], True),
        (after(8), None, [API_AWAY], False),  # there was a watcher to tell of its cancel
        (BEGAN, None, [API_AWAY, NATS_AWAY], False),
        (BEGAN, after(22), [API_AWAY], True),
        (BEGAN, after(40), [API_AWAY], False),
        (BEGAN, after(22), [API_AWAY._replace(began=after(21), ceased=after(22))], False),
        (BEGAN, after(22), [NATS_AWAY], False),
    ],
)
def test_an_end_that_no_watcher_was_shown_is_in_no_history(
    made_at: datetime, redriven_at: datetime | None, faults: list[Window], *, excused: bool
) -> None:
    run = stopped()
    without_its_end(run)
    run.made_at, run.redriven_at = made_at, redriven_at
    if redriven_at is not None:
        run.ends.append(ENDED._replace(at=after(90), cancel_observed_at=after(85), written_at=None))
        run.histories[after(85)] = COMPLETE
    assert (judged(run, *faults) == []) is excused


def test_a_seed_decides_a_round() -> None:
    assert plan(1, 0, 120) == plan(1, 0, 120)
    assert len({plan(seed, number, 120) for seed in range(5) for number in range(5)}) == 25
    planned = plan(1, 2, 600)
    kinds = {fault.kind for fault in planned.faults}
    assert kinds == {kind for domain in FAULTS.values() for kind in domain}
    assert {stop.way for stop in planned.stops} >= UNTOUCHABLE
    for domain in FAULTS.values():  # one at a time of each
        own = [fault for fault in planned.faults if fault.kind in domain]
        assert all(one.at + one.lasts < other.at for one, other in itertools.pairwise(own))
        assert all(fault.at + fault.lasts <= 600 for fault in own)
