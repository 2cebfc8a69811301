"""A run that is redriven while its leftovers are looked for: the StepRuns of its new life are not among them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes_asyncio.client import CustomObjectsApi

from actors.call import Call
from actors.kubernetes import STEP_RUN, Kubernetes
from actors.operator import Operator
from core.objects import snapshot
from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Delivery
from exeunt.codec import FactEvent, fact_message, read_fact
from exeunt.events import Fact
from exeunt.kube.client import KubeClient
from exeunt.settings import Settings
from exeunt.snapshot import Evidence, Topology
from exeunt_local.control_plane import ControlPlane
from exeunt_terminator.walk import Walk

GONE = Topology(established=True, gone=Evidence("hub-condition", 1, "all streams have ended"))


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    yield client
    await client.close()


def delivered(call: Call, fence: str, bus: Bus) -> tuple[FactEvent, Delivery]:
    """The fact that the call's topology is gone, as it comes from the stream."""
    known = snapshot(
        namespace=call.namespace,
        uid=call.uid,
        fence=fence,
        canceled_at=fence,
        topology=GONE,
        step_runs=None,
        resource_version="1",
    )
    message = fact_message(Fact.TOPOLOGY_TERMINATED, known, source="/test", now=datetime.now(UTC), context={})
    headers = {key.lower(): value for key, value in message.headers.items()}
    delivery = Delivery(
        stream="RUNS",
        subject=message.subject,
        headers=headers,
        data=message.payload,
        stream_sequence=1,
        num_delivered=1,
        timestamp=datetime.now(UTC) - timedelta(hours=1),  # so old that the run is read before anything is done
        ack_subject="",
        _nc=bus.nc,
    )
    return read_fact(headers, message.payload), delivery


@pytest.mark.parametrize("redriven", [False, True])
async def test_step_runs_of_a_new_life_stay(
    monkeypatch: pytest.MonkeyPatch,
    admin: CustomObjectsApi,
    kube: KubeClient,
    bus: Bus,
    namespace: str,
    *,
    redriven: bool,
) -> None:
    kubernetes = Kubernetes(admin.api_client)  # type: ignore[attr-defined]  # the generated stubs leave it out
    async with Operator(kubernetes, requeue=0.2):
        call = await Call.start(kubernetes, namespace)
        await call.signal_topology_terminated()
        await call.cancel()
        event, delivery = delivered(call, await call.wait_fenced(), bus)
        # What it is told of StepRuns is nothing: they are listed after the write, when the redrive comes in between.
        listing = kube.list

        async def redrive_and_list(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(kube, "list", listing)
            if redriven:
                await call.redrive(uncancel=True)
            return await listing(*arguments, **options)

        monkeypatch.setattr(kube, "list", redrive_and_list)
        walk = Walk(kube, bus, Settings(), event, delivery)
        await walk.to_its_end()
        assert walk.wrote
        left = await kubernetes.list(STEP_RUN, namespace, field_selector="spec.storyRunRef.name=call")
        assert len([each for each in left if "deletionTimestamp" not in each["metadata"]]) == (2 if redriven else 0)
