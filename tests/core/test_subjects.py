import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.objects import FENCE, run_state, snapshot, story_run
from exeunt import bobrapet
from exeunt.episodes import Episode, fence_of, life_of, token_of
from exeunt.events import Fact
from exeunt.subjects import EVERY_DUE, armed_subject, due_subject, every, fact_subject, outcome_subject

TOKEN = re.compile(r"[^\s.*>]+")
LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,6}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
UID = st.uuids().map(str)
# What bobrapet writes, RFC3339Nano: trailing zeros are cut off, with the dot when nothing is left.
GO_FENCE = st.builds(
    lambda at, nanoseconds: f"{at:%Y-%m-%dT%H:%M:%S}" + f".{nanoseconds:09}".rstrip("0").rstrip(".") + "Z",
    st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001
    st.integers(0, 999_999_999),
)
LIFE = st.dictionaries(st.sampled_from([observed for _, observed in bobrapet.REDRIVE]), st.text()).map(life_of)
EPISODE = st.builds(Episode, LABEL, NAME, UID, GO_FENCE.map(lambda fence: token_of(fence, "first")) | LIFE)
ABOUT_RUNS = [lambda e, f=fact: fact_subject(e, f) for fact in Fact] + [
    lambda e, f=fact: outcome_subject(e, f) for fact in Fact
]


def test_a_name_with_dots_is_one_token() -> None:
    episode = Episode("voice", "call.of.monday", "uid", "first")
    assert fact_subject(episode, Fact.RUN_DELETED) == "exeunt.runs.voice.call_of_monday.uid.first.run-deleted"
    assert outcome_subject(episode, Fact.CANCEL_REQUESTED).split(".")[-2:] == ["outcome", "cancel-requested"]


def test_a_fence_is_one_token() -> None:
    episode = run_state(story_run(fence=FENCE)).episode
    assert armed_subject(episode) == "exeunt.deadlines.armed.voice.call.uid-call.2026-11-24T18:13:32_123456789Z"
    assert due_subject(episode) == "exeunt.deadlines.due.voice.call.uid-call.2026-11-24T18:13:32_123456789Z"


@given(EPISODE)
def test_every_subject_has_as_many_valid_tokens_as_the_filters_count(episode: Episode) -> None:
    subjects = [subject(episode) for subject in (*ABOUT_RUNS, armed_subject, due_subject)]
    assert all(TOKEN.fullmatch(token) for subject in subjects for token in subject.split("."))
    assert {len(fact_subject(episode, fact).split(".")) for fact in Fact} == {len(every(Fact.RUN_DELETED).split("."))}
    assert due_subject(episode).startswith(EVERY_DUE.removesuffix(">"))
    assert len(set(subjects)) == len(subjects)


@given(EPISODE, EPISODE)
def test_different_episodes_have_different_subjects(one: Episode, other: Episode) -> None:
    for subject in (*ABOUT_RUNS, armed_subject, due_subject):
        assert (subject(one) == subject(other)) == (one == other)


@given(LABEL, st.lists(LABEL, min_size=2, max_size=4))
def test_a_dot_and_a_dash_are_different_names(namespace: str, labels: list[str]) -> None:
    dotted, dashed = (Episode(namespace, by.join(labels), "uid", "first") for by in ".-")
    assert fact_subject(dotted, Fact.RUN_DELETED) != fact_subject(dashed, Fact.RUN_DELETED)


@given(st.text(max_size=40) | GO_FENCE | GO_FENCE.map(lambda fence: f" {fence}\n"))
def test_whatever_somebody_wrote_as_a_fence_the_token_is_valid(text: str) -> None:
    run = run_state(story_run(canceled=True, annotations={bobrapet.FENCE: text}))
    assert TOKEN.fullmatch(run.episode.token)
    assert (run.fence is None) == (run.episode == run.life_episode)


@pytest.mark.parametrize("text", ["", "soon", "2026-11-24 18:13:32Z", "2026-11-24*18:13:32Z", "2026-11-24T18:13:32"])
def test_a_fence_that_does_not_parse_counts_as_absent(text: str) -> None:
    assert fence_of({bobrapet.FENCE: text}) is None


def test_a_fence_of_a_run_that_is_not_canceled_begins_no_episode() -> None:
    assert run_state(story_run(annotations={bobrapet.FENCE: FENCE})).episode.token == "first"


def test_a_redrive_begins_a_new_life_and_its_fence_a_new_episode() -> None:
    redriven = {bobrapet.REDRIVE[0][1]: "token-1"}
    first, second = life_of({}), life_of(redriven)
    assert (first, second == life_of({bobrapet.REDRIVE[1][1]: "token-1"})) == ("first", False)
    assert (
        snapshot(story_run(canceled=True)).run.episode
        != snapshot(story_run(canceled=True, annotations=redriven)).run.episode
    )
    now = datetime(2026, 11, 24, tzinfo=UTC)
    assert (
        run_state(story_run(fence=FENCE), now=now).episode
        == run_state(story_run(fence=FENCE, annotations=redriven)).episode
    )
