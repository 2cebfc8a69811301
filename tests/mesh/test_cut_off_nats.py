"""Both terminators are at a nats-server that is cut off from the two others, where all that is new goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.nats_cluster import NatsCluster
from actors.recorder import Recorder
from actors.services import QUICK
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator")

SETTINGS = QUICK | {"EXEUNT_STREAM_REPLICAS": "3"}


@pytest.fixture
async def cluster(servers: Binaries, tmp_path: Path) -> AsyncIterator[NatsCluster]:
    async with NatsCluster(servers, tmp_path / "nats") as cluster:
        yield cluster


@pytest.fixture
async def mesh(control_plane: ControlPlane, cluster: NatsCluster, tmp_path: Path) -> AsyncIterator[Mesh]:
    """A watcher and a timeout-scheduler at two of the servers, and two terminators at the third."""
    async with Mesh(tmp_path, control_plane=control_plane, nats_url=cluster.servers[0].url) as mesh:
        await mesh.start("watcher", 0, **SETTINGS)
        await mesh.start("timeout-scheduler", 0, **SETTINGS | {"EXEUNT_NATS_URL": cluster.servers[1].url})
        for instance in range(2):
            await mesh.start("terminator", instance, **SETTINGS | {"EXEUNT_NATS_URL": cluster.servers[2].url})
        yield mesh


@pytest.mark.parametrize("fault", ["isolated", "frozen"])
@pytest.mark.usefixtures("mesh")
async def test_a_stop_goes_on_at_another_server(
    kubernetes: Kubernetes, namespace: str, cluster: NatsCluster, recorder: Recorder, fault: str
) -> None:
    async def stop(number: int) -> Call:
        call = await Call.start(kubernetes, namespace, f"call-{number}", shutdown_timeout="10m")
        await call.signal_topology_terminated()
        await call.cancel()
        return call

    calls = [await stop(0)]
    await calls[0].wait_finished(30)
    if fault == "isolated":
        cluster.isolate(2)
    else:
        cluster.servers[2].freeze()
    for number in range(1, 5):
        calls.append(await stop(number))
        await asyncio.sleep(1)  # while they find out, and after that
    for call in calls:
        await call.wait_finished(60)
        await recorder.wait_until_seen(await call.get())
        assert [end.written_by for end in recorder.terminal_transitions(call.uid)] == ["exeunt-terminator"]
