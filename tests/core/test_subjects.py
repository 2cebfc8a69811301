import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.objects import CANCEL_OBSERVED_AT, run_state, snapshot, story_run
from exeunt.events.event_types import EventType
from exeunt.events.subjects import EVERY_DUE, armed_subject, due_subject, event_subject, every, outcome_subject
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation, attempt_of, cancel_observed_at_of, token_of

TOKEN = re.compile(r"[^\s.*>]+")
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,6}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
UID = st.uuids().map(str)
# What bobrapet writes, RFC3339Nano: trailing zeros are cut off, with the dot when nothing is left.
GO_CANCEL_OBSERVED_AT = st.builds(
    lambda at, nanoseconds: f"{at:%Y-%m-%dT%H:%M:%S}" + f".{nanoseconds:09}".rstrip("0").rstrip(".") + "Z",
    st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001
    st.integers(0, 999_999_999),
)
ATTEMPT = st.dictionaries(st.sampled_from([observed for _, observed in bobrapet.REDRIVE]), st.text()).map(attempt_of)
CANCELLATION = st.builds(
    Cancellation,
    LABEL,
    NAME,
    UID,
    GO_CANCEL_OBSERVED_AT.map(lambda cancel_observed_at: token_of(cancel_observed_at, "first")) | ATTEMPT,
)
ABOUT_RUNS = [lambda e, f=event_type: event_subject(e, f) for event_type in EventType] + [
    lambda e, f=event_type: outcome_subject(e, f) for event_type in EventType
]


def test_a_name_with_dots_is_one_token() -> None:
    cancellation = Cancellation("voice", "call.of.monday", "uid", "first")
    assert (
        event_subject(cancellation, EventType.RUN_DELETED) == "exeunt.runs.voice.call_of_monday.uid.first.run-deleted"
    )
    assert outcome_subject(cancellation, EventType.CANCEL_REQUESTED).split(".")[-2:] == ["outcome", "cancel-requested"]


def test_cancel_observed_at_is_one_token() -> None:
    cancellation = run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).cancellation
    assert armed_subject(cancellation) == "exeunt.deadlines.armed.voice.call.uid-call.2026-11-24T18:13:32_123456789Z"
    assert due_subject(cancellation) == "exeunt.deadlines.due.voice.call.uid-call.2026-11-24T18:13:32_123456789Z"


@given(CANCELLATION)
def test_every_subject_has_as_many_valid_tokens_as_the_filters_count(cancellation: Cancellation) -> None:
    subjects = [subject(cancellation) for subject in (*ABOUT_RUNS, armed_subject, due_subject)]
    assert all(TOKEN.fullmatch(token) for subject in subjects for token in subject.split("."))
    assert {len(event_subject(cancellation, event_type).split(".")) for event_type in EventType} == {
        len(every(EventType.RUN_DELETED).split("."))
    }
    assert due_subject(cancellation).startswith(EVERY_DUE.removesuffix(">"))
    assert len(set(subjects)) == len(subjects)


@given(CANCELLATION, CANCELLATION)
def test_different_cancellations_have_different_subjects(one: Cancellation, other: Cancellation) -> None:
    for subject in (*ABOUT_RUNS, armed_subject, due_subject):
        assert (subject(one) == subject(other)) == (one == other)


@given(LABEL, st.lists(LABEL, min_size=2, max_size=4))
def test_a_dot_and_a_dash_are_different_names(namespace: str, labels: list[str]) -> None:
    dotted, dashed = (Cancellation(namespace, by.join(labels), "uid", "first") for by in ".-")
    assert event_subject(dotted, EventType.RUN_DELETED) != event_subject(dashed, EventType.RUN_DELETED)


@given(
    st.text(max_size=40)
    | GO_CANCEL_OBSERVED_AT
    | GO_CANCEL_OBSERVED_AT.map(lambda cancel_observed_at: f" {cancel_observed_at}\n")
)
def test_whatever_somebody_wrote_as_cancel_observed_at_the_token_is_valid(text: str) -> None:
    run = run_state(story_run(canceled=True, annotations={bobrapet.CANCEL_OBSERVED_AT: text}))
    assert TOKEN.fullmatch(run.cancellation.token)
    assert (run.cancel_observed_at is None) == (run.cancellation == run.attempt_key)


@pytest.mark.parametrize("text", ["", "soon", "2026-11-24 18:13:32Z", "2026-11-24*18:13:32Z", "2026-11-24T18:13:32"])
def test_cancel_observed_at_that_does_not_parse_counts_as_absent(text: str) -> None:
    assert cancel_observed_at_of({bobrapet.CANCEL_OBSERVED_AT: text}) is None


def test_cancel_observed_at_of_a_run_that_is_not_canceled_begins_no_cancellation() -> None:
    assert (
        run_state(story_run(annotations={bobrapet.CANCEL_OBSERVED_AT: CANCEL_OBSERVED_AT})).cancellation.token
        == "first"
    )


def test_a_redrive_begins_a_new_attempt_and_cancel_observed_at_a_new_cancellation() -> None:
    redriven = {bobrapet.REDRIVE[0][1]: "token-1"}
    first, second = attempt_of({}), attempt_of(redriven)
    assert (first, second == attempt_of({bobrapet.REDRIVE[1][1]: "token-1"})) == ("first", False)
    assert (
        snapshot(story_run(canceled=True)).run.cancellation
        != snapshot(story_run(canceled=True, annotations=redriven)).run.cancellation
    )
    now = datetime(2026, 11, 24, tzinfo=UTC)
    assert (
        run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT), now=now).cancellation
        == run_state(story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations=redriven)).cancellation
    )
