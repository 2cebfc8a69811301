"""The two tables that tell the way of a stop and of a deadline, and what is decided about a deadline on its way."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

import msgspec
import pytest
from msgspec.structs import replace

from core.objects import FENCE, snapshot, story_run
from exeunt.clock import format_instant, parse_instant
from exeunt.errors import PoisonEvent
from exeunt.shutdown_timeout import ShutdownTimeout
from exeunt.snapshot import Snapshot
from exeunt.subjects import armed_subject, due_subject
from exeunt_terminator import stop
from exeunt_timeout_scheduler import deadlines
from exeunt_timeout_scheduler.deadlines import LEAD, Deadline, read_deadline, say_again_at, schedule

State = TypeVar("State", bound=StrEnum)
Cause = TypeVar("Cause", bound=StrEnum)
Table = Mapping[State, Mapping[Cause, State]]
DEADLINE = parse_instant(FENCE) + timedelta(seconds=20)


def reachable(table: Table[State, Cause], start: State) -> set[State]:
    found, ahead = {start}, [start]
    while ahead:
        new = set(table[ahead.pop()].values()) - found
        found |= new
        ahead += new
    return found


def used(table: Table[State, Cause]) -> set[Cause]:
    return {cause for row in table.values() for cause in row}


@pytest.mark.parametrize(
    ("table", "states", "causes"),
    [
        (stop.TRANSITIONS, stop.State, stop.Result),
        (deadlines.TRANSITIONS, deadlines.State, deadlines.Happening),
    ],
)
def test_a_table_has_a_row_for_every_state_and_a_use_for_every_cause(
    table: Table[State, Cause], states: type[State], causes: type[Cause]
) -> None:
    assert set(table) == set(states)
    assert used(table) == set(causes)


def test_a_stop_reaches_every_state_and_always_its_end() -> None:
    table, state = stop.TRANSITIONS, stop.State
    for start in (state.DECIDING, state.READING):
        assert reachable(table, start) == set(state) - {state.DELIVERED}
    ends = [state.DONE, state.GIVEN_BACK]
    assert all(state.DONE in reachable(table, one) for one in state if one is not state.GIVEN_BACK)
    assert [one for one, row in table.items() if not row] == ends


def test_whatever_is_asked_may_fail_and_what_is_written_is_recorded_all_the_same() -> None:
    table, state = stop.TRANSITIONS, stop.State
    failing = {one for one, row in table.items() if row.get(stop.Result.FAILED) is state.GIVEN_BACK}
    assert failing == set(state) - {state.DELIVERED, state.DECIDING, state.DONE, state.GIVEN_BACK}
    written = reachable(table, state.DELETING) | reachable(table, state.LISTING)
    recorded = {one for one, row in table.items() if row.get(stop.Result.FAILED_WRITTEN) is state.RECORDING}
    assert recorded == {state.LISTING, state.CONFIRMING, state.DELETING, state.PASSING_ON} <= written


def test_a_stop_writes_before_it_deletes_and_reads_before_it_writes_again() -> None:
    into = {
        target: {state for state, row in stop.TRANSITIONS.items() if target in row.values()} for target in stop.State
    }
    assert into[stop.State.DELETING] == {stop.State.PATCHING, stop.State.CONFIRMING}
    assert into[stop.State.CONFIRMING] == {stop.State.LISTING}
    assert into[stop.State.LISTING] == {stop.State.PATCHING, stop.State.DECIDING, stop.State.READING}
    assert into[stop.State.PATCHING] == {stop.State.CHECKING, stop.State.DECIDING}
    assert stop.TRANSITIONS[stop.State.DECIDING][stop.Result.FINALIZE_AT_DEADLINE] is stop.State.PATCHING
    assert stop.TRANSITIONS[stop.State.PATCHING][stop.Result.CONDITION_LOST] is stop.State.READING


def test_a_deadline_reaches_every_state_and_is_checked_before_it_is_first_said() -> None:
    table = deadlines.TRANSITIONS
    state = deadlines.State
    assert reachable(table, state.NONE) == set(state)
    assert all({state.NONE, state.REACHED} & reachable(table, one) for one in state)
    unchecked = {one: {k: to for k, to in row.items() if one is not state.CHECKING} for one, row in table.items()}
    assert state.SAYING not in reachable(unchecked, state.NONE)


def test_the_facts_that_move_a_deadline_are_in_its_table() -> None:
    assert set(deadlines.HAPPENINGS.values()) <= used(deadlines.TRANSITIONS)


def armed(now: datetime) -> tuple[Snapshot, dict[str, str], str, Deadline]:
    said = snapshot()
    assert said.deadline == DEADLINE
    message = schedule(said, DEADLINE, now, {"traceparent": "00-1"})
    assert message.expected_last_subject_sequence == 0
    assert message.headers["traceparent"] == "00-1"
    return said, message.headers, message.subject, read_deadline(message.payload)


def test_a_deadline_is_scheduled_a_little_ahead_and_carries_the_very_instant() -> None:
    said, headers, subject, deadline = armed(DEADLINE - timedelta(seconds=20))
    assert subject == armed_subject(said.run.episode)
    assert headers["Nats-Schedule-Target"] == due_subject(said.run.episode)
    assert headers["Nats-Schedule"] == f"@at {format_instant(DEADLINE - LEAD)}"
    assert (deadline.instant, deadline.snapshot) == (DEADLINE, said)


@pytest.mark.parametrize("ahead", [LEAD, timedelta(0), -timedelta(hours=1)])
def test_a_deadline_nearer_than_the_lead_is_due_without_a_schedule(ahead: timedelta) -> None:
    said, headers, subject, deadline = armed(DEADLINE - ahead)
    assert subject == due_subject(said.run.episode)
    assert not any(name.startswith("Nats-Schedule") for name in headers)
    assert deadline.instant == DEADLINE


def test_a_deadline_just_beyond_the_lead_is_scheduled() -> None:
    assert "Nats-Schedule" in armed(DEADLINE - LEAD - timedelta(microseconds=1))[1]


def test_the_lead_is_longer_than_the_tick_of_the_servers_scheduler() -> None:
    assert timedelta(milliseconds=250) < LEAD


def test_a_deadline_is_the_fence_and_the_shutdown_timeout_never_rounded_down() -> None:
    said = snapshot(story_run(fence="2026-11-24T18:13:32.0000001Z"))
    said = replace(said, shutdown=ShutdownTimeout("1.0000001s", "default"))
    assert said.deadline == parse_instant("2026-11-24T18:13:33.000002Z")
    assert snapshot(story_run()).deadline is None


def test_a_deadline_of_another_episode_of_the_run_is_closed() -> None:
    decision = deadlines.closed(snapshot(), armed=snapshot(story_run(fence="2026-11-24T18:00:00Z")))
    assert decision is not None
    assert decision.rule == "new-episode"
    assert deadlines.closed(snapshot()) is None


BODY = msgspec.json.encode(Deadline(format_instant(DEADLINE), snapshot()))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"x":' + b"[" * 200_000,
        BODY.replace(b'"at":"2026', b'"at":"soon'),
        BODY.replace(b'"timeout":"20s"', b'"timeout":"soon"'),
        BODY.replace(FENCE.encode(), b"2026-11-24*18:13:32Z"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_poison(payload: bytes) -> None:
    with pytest.raises(PoisonEvent, match=r"a fired schedule does not decode: ."):
        read_deadline(payload)


def test_an_overdue_run_is_said_to_be_so_less_and_less_often() -> None:
    said_at, waits = DEADLINE, list[float]()
    while len(waits) < 12:
        again = say_again_at(DEADLINE, said_at, timedelta(seconds=30))
        waits.append((again - said_at) / timedelta(seconds=30))
        said_at = again
    assert waits == [1, 1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 120]


def test_a_deadline_that_was_said_early_by_another_clock_is_waited_for_all_the_same() -> None:
    early = DEADLINE - timedelta(minutes=1)
    assert say_again_at(DEADLINE, early, timedelta(seconds=30)) == early + timedelta(seconds=30)
