from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.json_patch import TestFailed, patched
from core.objects import CANCEL_OBSERVED_AT, NOW, STARTED, condition, run_state, story_run
from exeunt.clock import format_instant, parse_instant
from exeunt.run import bobrapet
from exeunt.run.models import StoryRun
from exeunt_terminator.finalize import finalizing_patch

CANCEL_OBSERVED_AT_PATH = "/metadata/annotations/storyrun.bubustack.io~1graceful-cancel-observed-at"
ENABLED_PATH = "/metadata/annotations/exeunt.bubustack.io~1enabled"
NOW_TEXT = "2026-11-24T18:13:33Z"


def operations(run: StoryRun, now: datetime = NOW) -> list[dict[str, Any]]:
    decoded: list[dict[str, Any]] = msgspec.json.decode(finalizing_patch(run_state(run), now))
    return decoded


def by_path(op: str, run: StoryRun, now: datetime = NOW) -> dict[str, Any]:
    """The values of all operations of one kind."""
    return {operation["path"]: operation["value"] for operation in operations(run, now) if operation["op"] == op}


def canceled_condition(kind: str, at: str = NOW_TEXT) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "False",
        "reason": "Canceled",
        "message": "StoryRun gracefully canceled",
        "observedGeneration": 2,
        "lastTransitionTime": at,
    }


CONDITIONS = [
    condition("Ready", "False", "Running"),
    condition("Custom", "True", "Foreign") | {"observedGeneration": 1},
    condition("Degraded", "True", "TopologyTerminated"),
]
VARIANTS = {
    "fenced": story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=CONDITIONS),
    "no conditions": story_run(cancel_observed_at=CANCEL_OBSERVED_AT),
    "no phase": story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase=None),
    "no status": story_run(cancel_observed_at=CANCEL_OBSERVED_AT, status=False),
    "no cancel_observed_at": story_run(canceled=True, conditions=CONDITIONS),
    "no cancel_observed_at, no status": story_run(canceled=True, status=False),
    "finished before": story_run(cancel_observed_at=CANCEL_OBSERVED_AT, finished_at="2026-11-24T18:13:10Z"),
    "never started": story_run(cancel_observed_at=CANCEL_OBSERVED_AT, started_at=None),
    "unreadable times": story_run(
        cancel_observed_at=CANCEL_OBSERVED_AT,
        started_at="0001-01-01T00:00:00Z",
        finished_at="9999-12-31T23:59:59Z",
        conditions=CONDITIONS,
    ),
}


def test_the_patch_tests_all_that_it_stands_on_then_writes_what_bobrapet_writes() -> None:
    assert operations(VARIANTS["fenced"]) == [
        {"op": "test", "path": "/metadata/uid", "value": "uid-call"},
        {"op": "test", "path": "/metadata/deletionTimestamp", "value": None},
        {"op": "test", "path": "/spec/cancelRequested", "value": True},
        {"op": "test", "path": CANCEL_OBSERVED_AT_PATH, "value": CANCEL_OBSERVED_AT},
        {"op": "test", "path": ENABLED_PATH, "value": None},
        {"op": "test", "path": "/status/phase", "value": "Running"},
        {"op": "test", "path": "/status/finishedAt", "value": None},
        {"op": "test", "path": "/status/conditions/0/type", "value": "Ready"},
        {"op": "test", "path": "/status/conditions/0/status", "value": "False"},
        {"op": "test", "path": "/status/conditions/0/reason", "value": "Running"},
        {"op": "test", "path": "/status/conditions/1/type", "value": "Custom"},
        {"op": "test", "path": "/status/conditions/2/type", "value": "Degraded"},
        {"op": "test", "path": "/status/conditions/2/status", "value": "True"},
        {"op": "test", "path": "/status/conditions/2/reason", "value": "TopologyTerminated"},
        {"op": "replace", "path": "/status/conditions/0", "value": canceled_condition("Ready", STARTED)},
        {"op": "replace", "path": "/status/conditions/2", "value": canceled_condition("Degraded")},
        {"op": "add", "path": "/status/conditions/-", "value": canceled_condition("Progressing")},
        {"op": "test", "path": "/status/conditions/3", "value": canceled_condition("Progressing")},
        {"op": "add", "path": "/status/phase", "value": "Finished"},
        {"op": "add", "path": "/status/message", "value": "StoryRun gracefully canceled"},
        {"op": "add", "path": "/status/observedGeneration", "value": 2},
        {"op": "add", "path": "/status/finishedAt", "value": NOW_TEXT},
        {"op": "add", "path": "/status/duration", "value": "33s"},
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation_carries_a_value(variant: str) -> None:
    assert all(set(op) == {"op", "path", "value"} for op in operations(VARIANTS[variant]))


def test_without_conditions_their_absence_is_tested() -> None:
    run = VARIANTS["no conditions"]
    assert by_path("test", run)["/status/conditions"] is None
    assert [c["type"] for c in by_path("add", run)["/status/conditions"]] == ["Ready", "Progressing", "Degraded"]


def test_without_a_status_a_whole_one_is_written() -> None:
    run = VARIANTS["no status"]
    assert by_path("test", run)["/status"] is None
    assert not any(path.startswith("/status/") for path in (*by_path("test", run), *by_path("add", run)))
    assert by_path("add", run)["/status"] == {
        "phase": "Finished",
        "message": "StoryRun gracefully canceled",
        "observedGeneration": 2,
        "conditions": [canceled_condition(kind) for kind in ("Ready", "Progressing", "Degraded")],
        "finishedAt": NOW_TEXT,
    }


def test_without_cancel_observed_at_nothing_at_all_may_have_changed() -> None:
    tested = by_path("test", story_run(canceled=True, resource_version="77"))
    assert tested["/metadata/resourceVersion"] == "77"
    assert not any(path.startswith("/metadata/annotations") for path in tested)
    assert "/metadata/resourceVersion" not in by_path("test", VARIANTS["fenced"])


def test_cancel_observed_at_is_tested_as_it_was_read() -> None:
    assert (
        by_path("test", story_run(cancel_observed_at="2026-11-24T20:13:32.1+02:00"))[CANCEL_OBSERVED_AT_PATH]
        == "2026-11-24T20:13:32.1+02:00"
    )


def test_the_opt_out_is_tested_as_it_was_read() -> None:
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations={bobrapet.ENABLED: " Yes"})
    assert by_path("test", run)[ENABLED_PATH] == " Yes"


def test_a_transition_time_moves_only_when_the_status_flips() -> None:
    kinds = ("Ready", "Progressing", "Degraded")
    for status, at in (("False", STARTED), ("True", NOW_TEXT), ("Unknown", NOW_TEXT)):
        run = story_run(
            cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[condition(kind, status, "Any") for kind in kinds]
        )
        assert conditions_after(run) == [canceled_condition(kind, at) for kind in kinds]


def test_foreign_conditions_are_kept_as_they_are_and_where_they_are() -> None:
    foreign: list[dict[str, Any]] = [
        {"type": "A", "status": "True", "x": [1, {"y": None}]},
        {"type": "Z", "status": "?"},
    ]
    run = story_run(
        cancel_observed_at=CANCEL_OBSERVED_AT,
        conditions=[foreign[0], condition("Ready", "False", "Running"), foreign[1]],
    )
    written = conditions_after(run)
    assert [written[0], written[2]] == foreign
    assert [c["type"] for c in written] == ["A", "Ready", "Z", "Progressing", "Degraded"]


def test_a_finish_that_was_written_before_is_kept() -> None:
    written = by_path("add", VARIANTS["finished before"])
    assert not {"/status/finishedAt", "/status/duration"} & set(written)
    assert by_path("test", VARIANTS["finished before"])["/status/finishedAt"] == "2026-11-24T18:13:10Z"


def test_a_run_that_never_started_has_no_duration() -> None:
    written = by_path("add", VARIANTS["never started"])
    assert "/status/duration" not in written
    assert written["/status/finishedAt"] == NOW_TEXT


def test_times_that_nobody_can_read_are_tested_as_they_are_and_count_as_none() -> None:
    run = VARIANTS["unreadable times"]
    assert by_path("test", run)["/status/finishedAt"] == "9999-12-31T23:59:59Z"
    assert by_path("add", run)["/status/finishedAt"] == NOW_TEXT
    assert "/status/duration" not in by_path("add", run)


def test_a_condition_that_has_no_time_is_given_one() -> None:
    bare = {"type": "Ready", "status": "False", "reason": "Running", "message": ""}
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[bare])
    assert conditions_after(run)[0] == canceled_condition("Ready")


@pytest.mark.parametrize(
    ("milliseconds", "duration"),
    [
        (0, "0s"),
        (499, "0s"),
        (500, "1s"),
        (1_499, "1s"),
        (1_500, "2s"),
        (2_500, "3s"),
        (59_500, "1m0s"),
        (133_000, "2m13s"),
        (3_604_600, "1h0m5s"),
        (90_000_000, "25h0m0s"),
    ],
)
def test_a_duration_is_rounded_to_the_second_as_go_does_and_the_finish_is_cut(milliseconds: int, duration: str) -> None:
    now = parse_instant(STARTED) + timedelta(milliseconds=milliseconds)
    written = by_path("add", VARIANTS["fenced"], now)
    assert written["/status/duration"] == duration
    assert written["/status/finishedAt"] == format_instant(now)[:19] + "Z"


def stored(run: StoryRun) -> dict[str, Any]:
    """The object as the kube-apiserver stores it."""
    state = run_state(run)
    document: dict[str, Any] = {
        "metadata": {"uid": state.uid, "resourceVersion": state.resource_version, "generation": state.generation},
        "spec": {"storyRef": {"name": "talk"}, "cancelRequested": True},
    }
    if run.metadata.annotations:
        document["metadata"]["annotations"] = run.metadata.annotations
    if run.status is not None:
        fields = {
            "phase": state.phase,
            "startedAt": state.started_at,
            "finishedAt": state.finished_at,
            "conditions": msgspec.json.decode(state.conditions),
            "stepStates": {"listen": {"phase": "Running"}},
        }
        document["status"] = {key: value for key, value in fields.items() if value is not None}
    return document


def conditions_after(run: StoryRun) -> list[dict[str, Any]]:
    """The conditions once the write has found the run as it was read."""
    conditions: list[dict[str, Any]] = patched(stored(run), finalizing_patch(run_state(run), NOW))["status"][
        "conditions"
    ]
    return conditions


def changed(document: dict[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    head, *rest = path
    return document | {head: changed(document.get(head, {}), rest, value) if rest else value}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_patch_applies_to_what_was_read_and_only_once(variant: str) -> None:
    run = VARIANTS[variant]
    patch = finalizing_patch(run_state(run), NOW)
    after = patched(stored(run), patch)
    assert (after["status"]["phase"], after["status"]["observedGeneration"]) == ("Finished", 2)
    assert {"Ready", "Progressing", "Degraded"} <= {c["type"] for c in after["status"]["conditions"]}
    if run.status is not None:
        assert after["status"]["stepStates"] == {"listen": {"phase": "Running"}}
    with pytest.raises(TestFailed):
        patched(after, patch)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metadata", "uid"), "uid-again"),
        (("metadata", "deletionTimestamp"), NOW_TEXT),
        (("metadata", "annotations", bobrapet.CANCEL_OBSERVED_AT), "2026-11-24T18:20:00Z"),
        (("metadata", "annotations"), None),
        (("metadata", "annotations", bobrapet.ENABLED), "false"),
        (("spec", "cancelRequested"), False),
        (("status", "phase"), "Failed"),
        (("status", "finishedAt"), NOW_TEXT),
        (("status", "conditions"), CONDITIONS[:2]),
        (("status", "conditions"), None),
        (("status", "conditions"), []),
        (("status", "conditions"), CONDITIONS[::-1]),
        (("status", "conditions"), [*CONDITIONS, condition("Progressing", "True", "Running")]),
        (("status", "conditions"), [*CONDITIONS, condition("Another", "True", "Foreign")]),
        (("status", "conditions"), [condition("Ready", "True", "Running"), *CONDITIONS[1:]]),
        (("status", "conditions"), [*CONDITIONS[:2], condition("Degraded", "True", "Running")]),
        (("status",), None),
    ],
)
def test_whatever_changed_in_between_nothing_is_written(path: tuple[str, ...], value: object) -> None:
    run = VARIANTS["fenced"]
    patched(stored(run), finalizing_patch(run_state(run), NOW))
    with pytest.raises(TestFailed):
        patched(changed(stored(run), path, value), finalizing_patch(run_state(run), NOW))


def test_what_others_say_of_conditions_meanwhile_refuses_nothing() -> None:
    foreign = condition("Custom", "False", "Others") | {"message": "told anew"}
    told = [each | {"message": "told anew", "lastTransitionTime": NOW_TEXT} for each in CONDITIONS]
    document = changed(stored(VARIANTS["fenced"]), ("status", "conditions"), [told[0], foreign, told[2]])
    assert patched(document, finalizing_patch(run_state(VARIANTS["fenced"]), NOW))["status"]["conditions"] == [
        canceled_condition("Ready", STARTED),
        foreign,
        canceled_condition("Degraded"),
        canceled_condition("Progressing"),
    ]


def test_conditions_that_appear_meanwhile_are_looked_at() -> None:
    run = VARIANTS["no conditions"]
    with pytest.raises(TestFailed):
        patched(changed(stored(run), ("status", "conditions"), CONDITIONS), finalizing_patch(run_state(run), NOW))


KIND = st.sampled_from(["Ready", "Progressing", "Degraded", "A", "B"])


@given(st.lists(st.tuples(KIND, st.sampled_from(["True", "False", "Unknown"])), unique_by=lambda pair: pair[0]))
def test_any_conditions_become_a_valid_list_map(pairs: list[tuple[str, str]]) -> None:
    before = [condition(kind, status, "Any") for kind, status in pairs]
    written = conditions_after(story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=before))
    kinds = [c["type"] for c in written]
    assert len(set(kinds)) == len(kinds)
    assert kinds[: len(before)] == [c["type"] for c in before]
    assert all(c["lastTransitionTime"] for c in written)


CONDITIONS_OF_ANYBODY = st.lists(
    st.builds(condition, KIND, st.sampled_from(["True", "False"]), st.sampled_from(["Running", "TopologyTerminated"])),
    unique_by=lambda each: str(each["type"]),
)


@given(CONDITIONS_OF_ANYBODY, CONDITIONS_OF_ANYBODY)
def test_whatever_became_of_the_conditions_nothing_is_lost_or_doubled_or_decided_on_other_grounds(
    read: list[dict[str, Any]], found: list[dict[str, Any]]
) -> None:
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=read)
    document = changed(stored(run), ("status", "conditions"), found)
    try:
        after = patched(document, finalizing_patch(run_state(run), NOW))["status"]["conditions"]
    except TestFailed:
        return
    ours = ("Ready", "Progressing", "Degraded")
    assert [each for each in read if each["type"] in ours] == [each for each in found if each["type"] in ours]
    assert len({each["type"] for each in after}) == len(after)
    assert [each for each in after if each["type"] not in ours] == [each for each in found if each["type"] not in ours]
    assert {each["type"]: each["reason"] for each in after if each["type"] in ours} == dict.fromkeys(ours, "Canceled")
