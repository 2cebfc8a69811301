"""A cancel is passed on to a run's sub-stories when asked to, and to no others."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import STORY_RUN, Kubernetes, Object
from actors.services import start_all
from exeunt.events.codec import event_message
from exeunt.events.event_types import EventType
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator", "allowed")

PARENT = "bubustack.io/parent-storyrun"


@pytest.fixture
async def allowed(control_plane: ControlPlane, namespace: str) -> None:
    """What deploy/components/sub-stories adds, in this namespace alone."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "sub-stories", "namespace": namespace}
    await control_plane.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": ["runs.bubustack.io"], "resources": ["storyruns"], "verbs": ["list", "patch"]}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "sub-stories"},
            "subjects": [{"kind": "ServiceAccount", "name": "exeunt-terminator", "namespace": "exeunt"}],
        },
    )


@pytest.fixture
async def own_mesh(control_plane: ControlPlane, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path, control_plane=control_plane, nats_url=nats_server.url) as mesh:
        yield mesh


async def sub_story(kubernetes: Kubernetes, parent: Call, name: str, *, owner: str, phase: str = "Running") -> Object:
    """A StoryRun that bobrapet or the hub has started for a step of `parent` (contract §5)."""
    reference: dict[str, Any] = {
        "apiVersion": "runs.bubustack.io/v1alpha1",
        "kind": "StoryRun",
        "name": parent.name,
        "uid": owner,
        "controller": True,
    }
    child = await kubernetes.create(
        STORY_RUN,
        parent.namespace,
        name,
        {"storyRef": {"name": parent.story}},
        labels={PARENT: parent.name},
        ownerReferences=[reference],
    )
    await kubernetes.patch_status(STORY_RUN, parent.namespace, name, {"phase": phase})
    return child


async def canceled(kubernetes: Kubernetes, namespace: str) -> set[str]:
    runs = await kubernetes.list(STORY_RUN, namespace)
    return {run["metadata"]["name"] for run in runs if run["spec"].get("cancelRequested")}


@pytest.mark.parametrize("asked", [True, False], ids=["asked-to", "by-default"])
async def test_the_cancel_of_a_run_and_its_sub_stories(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, *, asked: bool
) -> None:
    await start_all(own_mesh, 0, EXEUNT_PROPAGATE_CANCEL=str(asked).lower())
    call = await Call.start(kubernetes, namespace)
    await sub_story(kubernetes, call, "child", owner=call.uid)
    await sub_story(kubernetes, call, "finished-child", owner=call.uid, phase="Succeeded")
    await sub_story(kubernetes, call, "child-of-a-namesake", owner="another-uid")
    await call.cancel()
    await call.signal_topology_terminated()
    await call.wait_finished()
    await call.wait_cleaned_up()
    if asked:
        child = Call(kubernetes, namespace, "child", "", call.story, call.staging)
        await child.wait_until(lambda run: bool(run["spec"].get("cancelRequested")))
    for service in ("watcher", "timeout-scheduler", "terminator"):
        await own_mesh.stop(service)  # drains: whatever it had to do is done
    assert await canceled(kubernetes, namespace) == ({"call", "child"} if asked else {"call"})


async def test_a_cancel_is_not_passed_on_by_the_word_of_an_event_only(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, bystander: Bystander
) -> None:
    """What a watcher's stolen credentials could say: a run that nobody has canceled is being stopped."""
    await start_all(own_mesh, 0, EXEUNT_PROPAGATE_CANCEL="true")
    call = await Call.start(kubernetes, namespace)
    victim = await Call.start(kubernetes, namespace, "victim")
    await sub_story(kubernetes, victim, "child", owner=victim.uid)
    await call.cancel()
    recorded = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert recorded.snapshot is not None
    forged = replace(recorded.snapshot, run=replace(recorded.snapshot.run, name=victim.name, uid=victim.uid))
    message = event_message(EventType.CANCEL_REQUESTED, forged, source="/thief", now=datetime.now(UTC), context={})
    await bystander.streams.publish(message.subject, message.payload, headers=message.headers)
    answer = await bystander.wait_for_outcome(victim.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert [step.rule for step in answer.outcome.trail] == ["topology-up", "not-canceled"]
    assert await canceled(kubernetes, namespace) == {call.name}
