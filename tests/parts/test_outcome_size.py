"""What the terminator records of a large run fits into one message, whatever was read on the way."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from actors.kubernetes import STEP_RUN, STORY, STORY_RUN, Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from core.objects import snapshot
from exeunt.bus.connection import Bus
from exeunt.events.codec import event_message, read_event
from exeunt.events.event_types import MOST_NAMES, EventType, Verdict
from exeunt.kube.client import KubeClient
from exeunt.run.snapshot import Evidence, StepRunRef, Topology
from exeunt.settings import Settings
from exeunt_local.control_plane import ControlPlane
from exeunt_terminator.calls import Calls
from exeunt_terminator.commands import Delivered, End, Input, Record
from exeunt_terminator.machine import Stopping

CANCELED = "2026-11-24T12:00:00Z"
MORE = 3


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    yield client
    await client.close()


async def test_an_outcome_names_no_more_step_runs_than_fit(
    kubernetes: Kubernetes, kube: KubeClient, bus: Bus, namespace: str
) -> None:
    spec = {"pattern": "realtime", "steps": [{"name": "a", "ref": {"name": "a"}}]}
    await kubernetes.create(STORY, namespace, "talk", spec)
    run = await kubernetes.create(
        STORY_RUN,
        namespace,
        "call",
        {"storyRef": {"name": "talk"}, "cancelRequested": True},
        annotations={CANCEL_OBSERVED_AT: CANCELED},
    )
    of_run = {"storyRunRef": {"name": "call"}, "stepId": "a"}
    names = [f"call-{number}" for number in range(MOST_NAMES + MORE)]
    created = await asyncio.gather(*(kubernetes.create(STEP_RUN, namespace, name, of_run) for name in names))

    known = snapshot(
        namespace=namespace,
        uid=run["metadata"]["uid"],
        cancel_observed_at=CANCELED,
        canceled_at=CANCELED,
        topology=Topology(established=True, gone=Evidence("bindings-gone", 2, "all of them")),
        step_runs=tuple(StepRunRef(each["metadata"]["name"], each["metadata"]["uid"]) for each in created),
    )
    message = event_message(EventType.TOPOLOGY_TERMINATED, known, source="/test", now=datetime.now(UTC), context={})
    headers = {key.lower(): value for key, value in message.headers.items()}
    event = read_event(headers, message.payload)
    stopping, calls = Stopping(event, dry_run=False, propagate_cancel=False), Calls(kube, bus, Settings())
    # So old that the run is read before anything is done.
    heard: Input = Delivered(1, 1, datetime.now(UTC) - timedelta(hours=1))
    while not isinstance(command := stopping.receive(heard, datetime.now(UTC)), Record):
        assert not isinstance(command, End)
        heard = await calls.answer(command)

    outcome = command.outcome
    assert outcome.verdict is Verdict.FINALIZE
    assert await kubernetes.list(STEP_RUN, namespace) == []
    assert len(outcome.deleted_step_runs) == MOST_NAMES
    assert outcome.more_deleted_step_runs == MORE
    assert outcome.trail[0].reread is not None
    assert len(msgspec.json.encode(outcome.trail)) < 2_000
