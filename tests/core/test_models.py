import gc
import json

import msgspec
import pytest

from exeunt.kube.errors import Undecodable
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS
from exeunt.run.models import StoryRun, StoryRunStatus

META = {"name": "call-1", "namespace": "voice", "uid": "u-1", "resourceVersion": "7"}


def encode(**fields: object) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "Any", "metadata": META, **fields}).encode()


def test_paths_name_collection_object_and_subresource() -> None:
    collection = "/apis/runs.bubustack.io/v1alpha1/namespaces/voice/storyruns"
    assert STORY_RUNS.path(None) == "/apis/runs.bubustack.io/v1alpha1/storyruns"
    assert STORY_RUNS.path("voice") == collection
    assert STORY_RUNS.path("voice", "call-1") == f"{collection}/call-1"
    assert STORY_RUNS.path("voice", "call-1", "status") == f"{collection}/call-1/status"
    assert STORIES.path("voice", "../secrets").endswith("/stories/..%2Fsecrets")


def test_a_story_run_keeps_the_fields_that_exeunt_uses() -> None:
    run = STORY_RUNS.decode(
        encode(
            metadata=META
            | {
                "generation": 2,
                "annotations": {"storyrun.bubustack.io/graceful-cancel-observed-at": "2026-01-01T00:00:00.5Z"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "StoryRun", "name": "p", "uid": "u-0"}],
                "managedFields": [{"manager": "kubectl"}],
                "labels": {"ignored": "yes"},
            },
            spec={"storyRef": {"name": "voice"}, "cancelRequested": True, "inputs": {"ignored": 1}},
            status={
                "phase": "Running",
                "startedAt": "2026-01-01T00:00:00Z",
                "trace": {"traceId": "ab" * 16, "spanId": "cd" * 8, "sampled": True},
                "stepStates": {"ignored": {"phase": "Running"}},
            },
        )
    )
    assert run.metadata.key == ("voice", "call-1")
    assert (run.metadata.uid, run.metadata.resource_version, run.metadata.generation) == ("u-1", "7", 2)
    assert run.metadata.annotations["storyrun.bubustack.io/graceful-cancel-observed-at"].endswith(".5Z")
    assert run.metadata.owner_references[0].uid == "u-0"
    assert msgspec.json.decode(run.metadata.managed_fields) == [{"manager": "kubectl"}]
    assert run.spec.cancel_requested
    assert run.spec.story_ref.namespace is None
    assert run.status is not None
    assert run.status.phase == "Running"
    assert run.status.trace is not None
    assert run.status.trace.trace_id == "ab" * 16


def test_conditions_are_the_bytes_as_read() -> None:
    conditions = b'[ {"type":"Ready",  "status":"False","reason":"Running","message":"","x":1.50} ]'
    body = encode(spec={"storyRef": {"name": "voice"}}, status={"conditions": 0}).replace(
        b'"conditions": 0', b'"conditions": ' + conditions
    )
    status = STORY_RUNS.decode(body).status
    assert status is not None
    assert bytes(status.conditions) == conditions


@pytest.mark.parametrize("status", [{}, {"conditions": None}])
def test_absent_conditions_are_what_the_patch_must_test_for(status: dict[str, object]) -> None:
    decoded = STORY_RUNS.decode(encode(spec={"storyRef": {"name": "voice"}}, status=status)).status
    assert decoded is not None
    assert bytes(decoded.conditions) == b"null"
    assert bytes(StoryRunStatus().conditions) == b"null"


def test_a_run_does_not_keep_the_response_buffer_alive() -> None:
    class Buffer(bytearray):
        """A response body that tells when it is gone."""

    freed: list[bool] = []
    Buffer.__del__ = lambda _: freed.append(True)  # type: ignore[attr-defined]
    body = Buffer(
        encode(
            metadata=META | {"managedFields": [{"manager": "kubectl"}]},
            spec={"storyRef": {"name": "voice"}},
            status={"conditions": [{"type": "Ready", "status": "False"}]},
        )
    )
    run: StoryRun = STORY_RUNS.decode(body)  # type: ignore[arg-type]
    del body
    gc.collect()
    assert freed
    assert run.status is not None
    assert b"Ready" in bytes(run.status.conditions)


@pytest.mark.parametrize("value", ["30s", "five minutes", 5, 1.5, True, None, {"s": 5}, ["5s"]])
def test_a_story_decodes_whatever_its_timeout_is(value: object) -> None:
    policy = {"timeouts": {"gracefulShutdownTimeout": value}}
    story = STORIES.decode(encode(spec={"pattern": "realtime", "policy": policy}))
    assert story.spec.pattern == "realtime"
    assert story.spec.policy is not None
    assert story.spec.policy.timeouts is not None
    assert story.spec.policy.timeouts.graceful_shutdown_timeout == value


def test_null_reads_as_absent() -> None:
    nulls = META | {"annotations": None, "ownerReferences": None, "managedFields": None, "generation": None}
    run = STORY_RUNS.decode(
        encode(metadata=nulls, spec={"storyRef": {"name": "voice"}, "cancelRequested": None}, status=None)
    )
    assert run.metadata.annotations == {}
    assert run.metadata.owner_references == []
    assert not run.spec.cancel_requested
    assert run.status is None
    step = STEP_RUNS.decode(encode(spec={"storyRunRef": {"name": "call-1"}}, status={"phase": None}))
    assert step.status is not None
    assert step.status.phase is None
    binding = TRANSPORT_BINDINGS.decode(encode(spec={}, status={"conditions": None}))
    assert binding.status is not None
    assert binding.status.conditions == []
    assert STORIES.decode(encode(spec={"pattern": None, "policy": None})).spec.pattern == "batch"


def test_a_binding_without_a_run_is_readable() -> None:
    binding = TRANSPORT_BINDINGS.decode(encode(spec={"engramName": "call-1-listen", "stepName": "listen"}))
    assert binding.spec.story_run_ref is None
    assert binding.status is None


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", encode(spec={}), encode(spec={"storyRef": {"name": 3}}), encode(metadata={}, spec={})],
)
def test_what_is_no_story_run_is_refused(body: bytes) -> None:
    with pytest.raises(Undecodable):
        STORY_RUNS.decode(body)


def test_what_is_undecodable_tells_what_it_is() -> None:
    with pytest.raises(Undecodable, match=r"voice/call-1: no storyruns\.runs\.bubustack\.io: .*cancelRequested") as it:
        STORY_RUNS.decode(encode(spec={"storyRef": {"name": "voice"}, "cancelRequested": "maybe"}))
    assert (it.value.namespace, it.value.name) == ("voice", "call-1")
    assert (it.value.uid, it.value.resource_version) == ("u-1", "7")
