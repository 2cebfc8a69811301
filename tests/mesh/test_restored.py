"""etcd is restored from a backup while the services run: what they saw since then has never happened.

The kube-apiserver accepts a watch from a version that is still to come, and it stays silent until then; or, where the
cluster has passed that version in the meantime, it tells what follows without what went before.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from actors import kubelet
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from actors.operator import Operator
from actors.services import start_all
from exeunt.events.event_types import EventType, Verdict
from exeunt_local import BASE, CRDS
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer

NAMESPACE = "voice"


@pytest.fixture
async def cluster(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """One of the test's own, with a past to be restored."""
    async with ControlPlane(tmp_path_factory.mktemp("control-plane"), binaries=servers) as cluster:
        await cluster.install_crds(CRDS)
        await cluster.apply(BASE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield cluster


@pytest.fixture
async def kubernetes(cluster: ControlPlane) -> AsyncIterator[Kubernetes]:
    configuration = Configuration()
    await config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        yield Kubernetes(client)


@pytest.fixture
async def mesh(
    cluster: ControlPlane, own_nats: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path_factory.mktemp("mesh"), control_plane=cluster, nats_url=own_nats.url) as mesh:
        yield mesh


async def until_pending(mesh: Mesh, stops: int, within: float = 30) -> None:
    async with asyncio.timeout(within), ClientSession() as http:
        while True:
            async with http.get(f"{mesh.url('watcher')}/metrics") as answer:
                if re.search(rf"^exeunt_stops_pending {stops}(\.0)?$", await answer.text(), re.MULTILINE):
                    return
            await asyncio.sleep(0.05)


async def touch(call: Call, times: int) -> None:
    """Move the cluster's version on."""
    for n in range(times):
        await call.annotate({"touched": str(n)})


@pytest.mark.timeout(300)
@pytest.mark.parametrize("passed", [False, True], ids=["still-to-come", "passed"])
async def test_a_stop_after_a_restore_is_ended(
    cluster: ControlPlane, kubernetes: Kubernetes, mesh: Mesh, listener: Bystander, tmp_path: Path, *, passed: bool
) -> None:
    async with Operator(kubernetes, requeue=0.2):
        await start_all(mesh)
        call = await Call.start(kubernetes, NAMESPACE, "call", shutdown_timeout="5m")
        await listener.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED)
        await cluster.save(tmp_path / "backup")
        await asyncio.gather(*(kubelet.wait_until_ready(mesh.url(service), within=90) for service in SERVICES))
        # From here on all is lost: this call's bindings go, and another call is being stopped.
        await call.lose_bindings()
        await listener.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED, within=30)
        lost = await Call.start(kubernetes, NAMESPACE, "lost", shutdown_timeout="5m")
        await lost.cancel()
        await listener.wait_for_event(lost.uid, EventType.CANCEL_REQUESTED, within=30)
        await until_pending(mesh, 1)
        await touch(call, 10 if passed else 500)
    await cluster.restore(tmp_path / "backup")
    async with Operator(kubernetes, requeue=0.2):
        if passed:
            await touch(call, 200)
        await until_pending(mesh, 0, within=90)
        await call.cancel()
        assert await listener.waits(call.uid, within=90)  # that they went has not happened
        await call.lose_bindings()
        run = await call.wait_finished(within=30)
        cancel_observed_at = run["metadata"]["annotations"][CANCEL_OBSERVED_AT]
        answer = await listener.wait_for_outcome(
            call.uid, EventType.TOPOLOGY_TERMINATED, cancel_observed_at=cancel_observed_at
        )
        assert answer.outcome is not None
        assert answer.outcome.verdict is Verdict.FINALIZE
        await kubelet.wait_until_ready(mesh.url("watcher"))
