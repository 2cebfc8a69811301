"""The installed CRDs take what contract §1 calls minimal objects, and refuse what it says they refuse.

It holds for this project's own definitions and, with BOBRAPET_CRDS, for the operator's.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiException, CustomObjectsApi

API_VERSIONS = {
    "engrams": ("bubustack.io", "Engram"),
    "stories": ("bubustack.io", "Story"),
    "storyruns": ("runs.bubustack.io", "StoryRun"),
    "stepruns": ("runs.bubustack.io", "StepRun"),
    "transportbindings": ("transport.bubustack.io", "TransportBinding"),
    "transports": ("transport.bubustack.io", "Transport"),
}
MINIMAL: dict[str, dict[str, Any]] = {
    "engrams": {"templateRef": {"name": "stt-template"}, "mode": "deployment"},
    "stories": {
        "pattern": "realtime",
        "steps": [{"name": "listen", "ref": {"name": "stt"}, "transport": "voice"}],
        "transports": [
            {
                "name": "voice",
                "transportRef": "voice",
                "settings": {"lifecycle": {"drainTimeoutSeconds": 120}},
            }
        ],
        "policy": {"timeouts": {"gracefulShutdownTimeout": "5s"}},
    },
    "storyruns": {"storyRef": {"name": "voice"}},
    "stepruns": {"storyRunRef": {"name": "voice-run-1"}, "stepId": "listen"},
    "transportbindings": {
        "transportRef": "voice",
        "driver": "bobravoz-grpc",
        "stepName": "listen",
        "engramName": "voice-run-1-listen",
        "storyRunRef": {"name": "voice-run-1"},
        "binary": {"direction": "bidirectional"},
    },
    "transports": {
        "provider": "bobravoz",
        "driver": "bobravoz-grpc",
        "supportedBinary": ["application/json"],
    },
}
READY = {
    "type": "Ready",
    "status": "False",
    "reason": "Running",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
DEGRADED = READY | {"type": "Degraded"}

Create = Callable[..., Awaitable[Any]]
SetStatus = Callable[[str, dict[str, Any]], Awaitable[Any]]


@pytest.fixture
def create(admin: CustomObjectsApi, namespace: str) -> Create:
    """Creates a minimal object of a kind, with `changes` to its spec (None removes a field)."""

    async def create(plural: str, **changes: Any) -> Any:
        group, kind = API_VERSIONS[plural]
        spec = {key: value for key, value in (MINIMAL[plural] | changes).items() if value is not None}
        body = {
            "apiVersion": f"{group}/v1alpha1",
            "kind": kind,
            "metadata": {"generateName": "voice-"},
            "spec": spec,
        }
        if plural == "transports":
            return await admin.create_cluster_custom_object(group, "v1alpha1", plural, body)
        return await admin.create_namespaced_custom_object(group, "v1alpha1", namespace, plural, body)

    return create


@pytest.fixture
def set_status(admin: CustomObjectsApi, namespace: str, create: Create) -> SetStatus:
    """Creates a minimal object and merges a status into it, as the operator does."""

    async def set_status(plural: str, status: dict[str, Any]) -> Any:
        group, _ = API_VERSIONS[plural]
        name = (await create(plural))["metadata"]["name"]
        return await admin.patch_namespaced_custom_object_status(
            group,
            "v1alpha1",
            namespace,
            plural,
            name,
            {"status": status},
            _content_type="application/merge-patch+json",  # type: ignore[call-arg]
        )

    return set_status


@pytest.mark.parametrize("plural", MINIMAL)
async def test_minimal_objects_are_taken_whole(create: Create, plural: str) -> None:
    assert (await create(plural))["spec"] == MINIMAL[plural]


async def test_the_default_pattern_of_a_story_is_batch(create: Create) -> None:
    assert (await create("stories", pattern=None))["spec"]["pattern"] == "batch"


async def test_a_shutdown_timeout_that_is_no_duration_is_taken(create: Create) -> None:
    timeouts = {"timeouts": {"gracefulShutdownTimeout": "five minutes"}}
    assert (await create("stories", policy=timeouts))["spec"]["policy"] == timeouts


async def test_unknown_fields_are_pruned(create: Create, set_status: SetStatus) -> None:
    assert "shutdownDeadline" not in (await create("storyruns", shutdownDeadline="5s"))["spec"]
    assert (await set_status("storyruns", {"phase": "Running", "foo": 1}))["status"] == {"phase": "Running"}


@pytest.mark.parametrize(
    ("plural", "changes"),
    [
        pytest.param("storyruns", {"storyRef": None}, id="run without a story"),
        pytest.param("storyruns", {"storyRef": {"name": "a.b"}}, id="story with a dot in its name"),
        pytest.param("storyruns", {"cancelRequested": "true"}, id="cancel that is a string"),
        pytest.param("stepruns", {"stepId": None}, id="StepRun without a step"),
        pytest.param("stepruns", {"storyRunRef": {"name": "a.b"}}, id="run with a dot in its name"),
        pytest.param("stories", {"steps": []}, id="story without steps"),
        pytest.param("stories", {"steps": [{"name": "a"}]}, id="step with neither ref nor type"),
        pytest.param("stories", {"steps": [{"name": "a", "type": "sleep"}] * 2}, id="two steps of one name"),
        pytest.param("stories", {"pattern": "eager"}, id="unknown pattern"),
        pytest.param("stories", {"policy": {"timeouts": {"gracefulShutdownTimeout": 5}}}, id="number of seconds"),
        pytest.param("transportbindings", {"driver": None}, id="binding without a driver"),
        pytest.param("transportbindings", {"engramName": ""}, id="binding without an engram"),
        pytest.param("transportbindings", {"binary": {"direction": "up"}}, id="unknown direction"),
        pytest.param("engrams", {"mode": "cron"}, id="unknown mode"),
        pytest.param("transports", {"provider": None}, id="transport without a provider"),
    ],
)
async def test_specs_that_are_refused(create: Create, plural: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ApiException, match=r"\(422\)"):
        await create(plural, **changes)


@pytest.mark.parametrize(
    ("plural", "status"),
    [
        pytest.param("storyruns", {"phase": ""}, id="empty phase"),
        pytest.param("storyruns", {"phase": "Cancelled"}, id="unknown phase"),
        pytest.param("storyruns", {"conditions": [DEGRADED]}, id="conditions without Ready"),
        pytest.param("storyruns", {"conditions": [READY, READY]}, id="two conditions of one type"),
        pytest.param("storyruns", {"conditions": [READY | {"reason": "not-ready"}]}, id="hyphen in a reason"),
        pytest.param("storyruns", {"conditions": [READY | {"reason": "R" * 65}]}, id="long reason"),
        pytest.param("storyruns", {"conditions": [READY | {"message": "m" * 2049}]}, id="long message"),
        pytest.param("storyruns", {"conditions": [READY | {"lastTransitionTime": None}]}, id="no transition time"),
        pytest.param("storyruns", {"conditions": [READY | {"status": "Maybe"}]}, id="unknown condition status"),
        pytest.param("storyruns", {"stepStates": {"listen": {"message": "m"}}}, id="step state without a phase"),
        pytest.param("storyruns", {"finishedAt": "now"}, id="finishedAt that is no time"),
        pytest.param("stepruns", {"phase": "Running"}, id="StepRun status without retries"),
        pytest.param("stepruns", {"phase": "", "retries": 0}, id="empty phase of a StepRun"),
        pytest.param(
            "stepruns", {"retries": 0, "conditions": [READY | {"reason": "R" * 65}]}, id="long StepRun reason"
        ),
        pytest.param("transportbindings", {"conditions": [READY | {"reason": "a-b"}]}, id="hyphen in a binding"),
    ],
)
async def test_statuses_that_are_refused(set_status: SetStatus, plural: str, status: dict[str, Any]) -> None:
    with pytest.raises(ApiException, match=r"\(422\)"):
        await set_status(plural, status)


@pytest.mark.parametrize(
    ("plural", "status"),
    [
        pytest.param("storyruns", {"phase": "Running", "conditions": [READY, DEGRADED]}, id="run"),
        pytest.param("stepruns", {"phase": "Running", "retries": 0, "conditions": [DEGRADED]}, id="StepRun"),
        pytest.param("transportbindings", {"conditions": [READY | {"reason": "R" * 65}]}, id="binding"),
    ],
)
async def test_statuses_that_are_taken(set_status: SetStatus, plural: str, status: dict[str, Any]) -> None:
    assert (await set_status(plural, status))["status"] == status


@pytest.mark.parametrize(
    ("plural", "selector"),
    [
        ("storyruns", "spec.storyRef.name=voice"),
        ("storyruns", "status.phase!=Finished"),
        ("stepruns", "spec.storyRunRef.name=voice-run-1"),
        ("stepruns", "spec.stepId=listen"),
        ("stepruns", "status.phase!=Finished"),
        ("transportbindings", "spec.storyRunRef.name=voice-run-1"),
        ("transportbindings", "spec.transportRef=voice"),
    ],
)
async def test_selectable_fields(
    admin: CustomObjectsApi, namespace: str, create: Create, plural: str, selector: str
) -> None:
    name = (await create(plural))["metadata"]["name"]
    found = await admin.list_namespaced_custom_object(
        API_VERSIONS[plural][0], "v1alpha1", namespace, plural, field_selector=selector
    )
    assert [item["metadata"]["name"] for item in found["items"]] == [name]
