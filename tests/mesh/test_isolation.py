"""A team whose runs cannot be written costs the other teams nothing: their stops do not wait behind its."""

import asyncio
import uuid

import pytest
from aiohttp import ClientSession

from actors.broken_webhook import writes_fail
from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import Kubernetes
from actors.services import start_all
from exeunt.events.event_types import EventType
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

PLACES, STUCK, WELL = 4, 12, 4
RETRY_BUDGET = "40s"
"""For so long a failing stop keeps its place: longer than anybody is waited for here."""


@pytest.fixture
async def started(own_mesh: Mesh) -> None:
    await start_all(
        own_mesh,
        EXEUNT_LOG_LEVEL="warning",
        EXEUNT_MAX_IN_FLIGHT=str(PLACES),
        EXEUNT_RETRY_BUDGET=RETRY_BUDGET,
    )


@pytest.fixture
async def troubled(control_plane: ControlPlane) -> str:
    """The namespace of a team in trouble."""
    name = f"troubled-{uuid.uuid4().hex[:8]}"
    await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


async def canceled(kubernetes: Kubernetes, listener: Bystander, namespace: str, count: int) -> list[Call]:
    """So many calls that only wait for everybody to leave."""
    staging = Staging(("listen",))
    first = await Call.start(kubernetes, namespace, "call-0", shutdown_timeout="10m", staging=staging)
    others = (
        Call.start(kubernetes, namespace, f"call-{number}", story=first.story, staging=staging)
        for number in range(1, count)
    )
    calls = [first, *await asyncio.gather(*others)]
    await asyncio.gather(*(call.cancel() for call in calls))
    await asyncio.gather(
        *(listener.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED, within=30) for call in calls)
    )
    return calls


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("started")
async def test_stops_do_not_wait_behind_those_of_a_team_whose_writes_fail(
    kubernetes: Kubernetes,
    namespace: str,
    troubled: str,
    control_plane: ControlPlane,
    listener: Bystander,
) -> None:
    stuck = await canceled(kubernetes, listener, troubled, STUCK)
    well = await canceled(kubernetes, listener, namespace, WELL)
    async with writes_fail(control_plane, troubled, stuck[0].name, "terminator"):
        await asyncio.gather(*(call.signal_topology_terminated() for call in stuck))
        async with asyncio.timeout(30):
            while (await listener.streams.consumer_info("RUNS", "terminator")).num_ack_pending < STUCK:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.gather(*(call.signal_topology_terminated() for call in well))
        await asyncio.gather(*(call.wait_finished(within=20) for call in well))
        phases = {(await call.get())["status"]["phase"] for call in stuck}
        assert phases == {"Running"}
    await asyncio.gather(*(call.wait_finished(within=60) for call in stuck))
    await listener.wait_until_idle(within=60)
    for call in stuck:
        rules = [
            rule
            for event_type, rule in await listener.outcomes(call.uid)
            if event_type is EventType.TOPOLOGY_TERMINATED
        ]
        assert rules == ["topology-gone"]


async def failing_writes(mesh: Mesh) -> int:
    """Writes of the terminator that were answered with 500."""
    async with ClientSession() as http, http.get(f"{mesh.url('terminator')}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    of_writes = ("exeunt_kube_request_duration_seconds_count{", 'code="500"', 'verb="patch"')
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if all(word in line for word in of_writes))


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("started")
async def test_nor_do_they_without_the_bus(
    kubernetes: Kubernetes,
    namespace: str,
    troubled: str,
    control_plane: ControlPlane,
    listener: Bystander,
    own_nats: NatsServer,
    own_mesh: Mesh,
) -> None:
    stuck = await canceled(kubernetes, listener, troubled, STUCK)
    well = await canceled(kubernetes, listener, namespace, WELL)
    async with writes_fail(control_plane, troubled, stuck[0].name, "terminator"):
        await own_nats.kill()
        await asyncio.gather(*(call.signal_topology_terminated() for call in stuck))
        async with asyncio.timeout(60):
            while await failing_writes(own_mesh) < 2 * PLACES:  # noqa: ASYNC110 - another process writes
                await asyncio.sleep(0.05)
        await asyncio.gather(*(call.signal_topology_terminated() for call in well))
        await asyncio.gather(*(call.wait_finished(within=20) for call in well))
        phases = {(await call.get())["status"]["phase"] for call in stuck}
        assert phases == {"Running"}
    await asyncio.gather(*(call.wait_finished(within=90) for call in stuck))
