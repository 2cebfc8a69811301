"""Both terminators are at a nats-server that hangs, or is cut off from the others, where all that is new goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.client import Client

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.nats_cluster import NatsCluster
from actors.recorder import Recorder
from actors.services import QUICK
from exeunt.events.event_types import EventType
from exeunt.events.subjects import TERMINATOR
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


async def test_what_was_delivered_to_where_nobody_can_be_reached_is_not_waited_for(
    kubernetes: Kubernetes, namespace: str, cluster: NatsCluster, control_plane: ControlPlane, tmp_path: Path
) -> None:
    """The terminator stands in for JetStream, and finds that the topology was gone before it looked. Over its next
    connection it can read what the stream remembers.
    """
    settings = SETTINGS | {"EXEUNT_ACK_WAIT": "5m", "EXEUNT_SWEEP_INTERVAL": "5m"}
    async with Mesh(tmp_path, control_plane=control_plane, nats_url=cluster.servers[0].url) as mesh:
        await mesh.start("watcher", 0, **settings)
        await mesh.start("terminator", 0, **settings | {"EXEUNT_NATS_URL": cluster.servers[2].url})
        call = await Call.start(kubernetes, namespace, "call", shutdown_timeout="10m")
        async with Bystander(cluster.servers[0].url) as bystander:
            await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED)
        async with await nats.connect(cluster.servers[0].url) as client:
            await elsewhere(client, "STREAM", "RUNS")
            await elsewhere(client, "CONSUMER", f"RUNS.{TERMINATOR}")
        cluster.servers[2].freeze()
        await call.cancel()
        await call.lose_bindings()
        await call.wait_finished(60)


async def elsewhere(client: Client, kind: str, name: str) -> None:
    """Have it led by another server than the third, whoever that is."""
    async with asyncio.timeout(30):
        while True:
            answer = await client.request(f"$JS.API.{kind}.INFO.{name}", timeout=5)
            leader = msgspec.json.decode(answer.data).get("cluster", {}).get("leader")
            if leader and leader != "n2":
                return
            if leader:
                await client.request(f"$JS.API.{kind}.LEADER.STEPDOWN.{name}", timeout=5)
            await asyncio.sleep(0.2)
