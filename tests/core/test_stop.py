"""The two tables that tell the way of a stop and of a deadline."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import pytest

from exeunt_terminator import stop
from exeunt_timeout_scheduler import way

State = TypeVar("State", bound=StrEnum)
Cause = TypeVar("Cause", bound=StrEnum)
Table = Mapping[State, Mapping[Cause, State]]


def unavailable_reason(table: Table[State, Cause], start: State) -> set[State]:
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
        (stop.TRANSITIONS, stop.StopState, stop.Result),
        (way.TRANSITIONS, way.DeadlineState, way.Result),
    ],
)
def test_a_table_has_a_row_for_every_state_and_a_use_for_every_cause(
    table: Table[State, Cause], states: type[State], causes: type[Cause]
) -> None:
    assert set(table) == set(states)
    assert used(table) == set(causes)


def test_a_stop_reaches_every_state_and_always_its_end() -> None:
    table, state = stop.TRANSITIONS, stop.StopState
    for start in (state.DECIDING, state.READING):
        assert unavailable_reason(table, start) == set(state) - {state.DELIVERED}
    ends = [state.DONE, state.GIVEN_BACK]
    assert all(state.DONE in unavailable_reason(table, one) for one in state if one is not state.GIVEN_BACK)
    assert [one for one, row in table.items() if not row] == ends


def test_whatever_is_asked_may_fail_and_what_is_written_is_recorded_all_the_same() -> None:
    table, state = stop.TRANSITIONS, stop.StopState
    failing = {one for one, row in table.items() if row.get(stop.Result.FAILED) is state.GIVEN_BACK}
    assert failing == set(state) - {state.DELIVERED, state.DECIDING, state.DONE, state.GIVEN_BACK}
    written = unavailable_reason(table, state.DELETING) | unavailable_reason(table, state.LISTING)
    recorded = {one for one, row in table.items() if row.get(stop.Result.FAILED_WRITTEN) is state.RECORDING}
    assert recorded == {state.LISTING, state.CONFIRMING, state.DELETING, state.PASSING_ON} <= written


def test_a_stop_writes_before_it_deletes_and_reads_before_it_writes_again() -> None:
    into = {
        target: {state for state, row in stop.TRANSITIONS.items() if target in row.values()}
        for target in stop.StopState
    }
    read_or_written = {stop.StopState.PATCHING, stop.StopState.CONFIRMING, stop.StopState.DECIDING}
    assert into[stop.StopState.DELETING] == read_or_written
    assert stop.TRANSITIONS[stop.StopState.DECIDING][stop.Result.CLEAN_UP] is stop.StopState.DELETING
    assert into[stop.StopState.CONFIRMING] == {stop.StopState.LISTING}
    assert into[stop.StopState.LISTING] == {stop.StopState.PATCHING, stop.StopState.DECIDING, stop.StopState.READING}
    assert into[stop.StopState.PATCHING] == {stop.StopState.CHECKING, stop.StopState.DECIDING}
    assert stop.TRANSITIONS[stop.StopState.DECIDING][stop.Result.FINALIZE_AT_DEADLINE] is stop.StopState.PATCHING
    assert stop.TRANSITIONS[stop.StopState.PATCHING][stop.Result.CONDITION_LOST] is stop.StopState.READING


def test_a_deadline_reaches_every_state_and_always_its_end() -> None:
    table, state = way.TRANSITIONS, way.DeadlineState
    assert unavailable_reason(table, state.BEGUN) == set(state)
    assert all(state.DONE in unavailable_reason(table, one) for one in state if one is not state.GIVEN_BACK)
    assert [one for one, row in table.items() if not row] == [state.DONE, state.GIVEN_BACK]
    failing = {one for one, row in table.items() if row.get(way.Result.FAILED) is state.GIVEN_BACK}
    assert failing == set(state) - {state.BEGUN, state.HOLDING, state.DONE, state.GIVEN_BACK}


def test_a_deadline_is_published_of_a_run_that_was_read_after_its_instant_and_again_once_that_is_settled() -> None:
    into = {
        target: {state for state, row in way.TRANSITIONS.items() if target in row.values()}
        for target in way.DeadlineState
    }
    assert into[way.DeadlineState.PUBLISHING] == {way.DeadlineState.CHECKING, way.DeadlineState.ASKING}
    assert into[way.DeadlineState.CHECKING] == {way.DeadlineState.HOLDING}
    assert into[way.DeadlineState.ASKING] == {way.DeadlineState.LOOKING_BACK}
