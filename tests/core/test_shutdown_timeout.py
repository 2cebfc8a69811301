from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.objects import story, story_run
from exeunt.kube.resources import STORIES
from exeunt.run import bobrapet, shutdown_timeout
from exeunt.run.shutdown_timeout import DEFAULT, RUN_ANNOTATION, STORY_ANNOTATION, STORY_POLICY, resolve
from exeunt.run.snapshot import resolve_shutdown

TWENTY = timedelta(seconds=20)
JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def annotated(value: str | None) -> dict[str, str]:
    return {} if value is None else {bobrapet.SHUTDOWN_TIMEOUT: value}


@pytest.mark.parametrize(
    ("run", "of_story", "policy", "timeout", "rule"),
    [
        ("1s", "2s", "3s", "1s", RUN_ANNOTATION),
        (None, "2s", "3s", "2s", STORY_ANNOTATION),
        (None, None, "3s", "3s", STORY_POLICY),
        (None, None, None, "20s", DEFAULT),
        ("0s", "2s", "3s", "0s", RUN_ANNOTATION),
    ],
)
def test_each_rule_wins_in_its_turn(
    run: str | None, of_story: str | None, policy: str | None, timeout: str, rule: str
) -> None:
    found = resolve(annotated(run), annotated(of_story), policy, TWENTY)
    assert (found.timeout, found.rule, found.rejected) == (timeout, rule, ())


def test_the_rules_find_their_values_in_the_objects() -> None:
    run = story_run(annotations=annotated("1s"))
    of_story = story(annotations=annotated("2s"), timeout="3s")
    assert resolve_shutdown(run, of_story, TWENTY).rule == RUN_ANNOTATION
    assert resolve_shutdown(story_run(), of_story, TWENTY).rule == STORY_ANNOTATION
    assert resolve_shutdown(story_run(), story(timeout="3s"), TWENTY).rule == STORY_POLICY
    assert resolve_shutdown(story_run(), story(), TWENTY).rule == DEFAULT
    assert resolve_shutdown(story_run(), None, TWENTY).rule == DEFAULT


def test_what_cannot_be_used_is_reported_and_the_next_rule_is_used() -> None:
    found = resolve(annotated("five minutes"), annotated("-1s"), 5, TWENTY)
    assert (found.timeout, found.rule) == ("20s", DEFAULT)
    assert [(r.rule, r.value) for r in found.rejected] == [
        (RUN_ANNOTATION, "five minutes"),
        (STORY_ANNOTATION, "-1s"),
        (STORY_POLICY, "5"),
    ]
    why = [r.why for r in found.rejected]
    assert "no Go duration such as 20s" in why[0]
    assert "negative" in why[1]
    assert "int is no Go duration" in why[2]


def test_no_deadline_is_more_than_a_year_away() -> None:
    found = resolve(annotated("2562047h"), annotated("8760h0m0.000000001s"), "8760h", TWENTY)
    assert (found.timeout, found.rule) == ("8760h", STORY_POLICY)
    assert [(r.rule, r.why) for r in found.rejected] == [
        (RUN_ANNOTATION, "a shutdown timeout cannot be longer than a year (8760h0m0s)"),
        (STORY_ANNOTATION, "a shutdown timeout cannot be longer than a year (8760h0m0s)"),
    ]


def test_only_rules_before_the_winner_are_reported() -> None:
    found = resolve(annotated("soon"), annotated("2s"), "never looked at", TWENTY)
    assert (found.rule, [r.rule for r in found.rejected]) == (STORY_ANNOTATION, [RUN_ANNOTATION])


@given(JSON)
def test_a_policy_of_any_json_type_gives_a_timeout(policy: object) -> None:
    found = resolve({}, {}, policy, TWENTY)
    assert found.duration >= timedelta(0)
    assert (found.rule == STORY_POLICY) == (not found.rejected)
    assert msgspec.json.decode(msgspec.json.encode(found), type=shutdown_timeout.ShutdownTimeout) == found


def test_a_huge_value_does_not_make_a_huge_event() -> None:
    found = resolve(annotated("1" * 200_000), {}, {"s": "x" * 200_000}, TWENTY)
    assert len(found.rejected) == 2
    assert len(msgspec.json.encode(found)) < 1_000


def test_drain_timeout_seconds_is_no_input() -> None:
    body = msgspec.json.encode(
        {
            "metadata": {"name": "talk", "namespace": "voice", "uid": "u", "resourceVersion": "1"},
            "spec": {
                "pattern": "realtime",
                "transports": [{"name": "t", "settings": {"lifecycle": {"drainTimeoutSeconds": 120}}}],
                "policy": {"timeouts": {"drainTimeoutSeconds": 120, "story": "1h"}},
            },
        }
    )
    found = resolve_shutdown(story_run(), STORIES.decode(body), TWENTY)
    assert (found.timeout, found.rule) == ("20s", DEFAULT)


def test_blanks_beside_a_value_mean_nothing() -> None:
    found = resolve({bobrapet.SHUTDOWN_TIMEOUT: " 1s "}, {}, None, TWENTY)
    assert (found.timeout, found.rejected) == ("1s", ())
