"""Whatever dies in the middle of a stop, the stop still happens, and once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.recorder import Recorder, State
from actors.services import QUICK, start_all
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator", "crashing")

SETTINGS = {"EXEUNT_SWEEP_INTERVAL": "2s"}

Once = Callable[[Call], Awaitable[State]]


@pytest.fixture(scope="module")
async def nats(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A server of this module's own, to be restarted and killed."""
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as nats:
        yield nats


@pytest.fixture(scope="module")
async def crashing(
    control_plane: ControlPlane, nats: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    folder: Path = tmp_path_factory.mktemp("mesh")
    async with Mesh(folder, control_plane=control_plane, nats_url=nats.url) as mesh:
        await start_all(mesh, 0, **SETTINGS)
        yield mesh


@pytest.fixture
async def listener(nats: NatsServer) -> AsyncIterator[Bystander]:
    async with Bystander(nats.url) as listener:
        yield listener


@pytest.fixture
def once(recorder: Recorder) -> Once:
    """Waits for the end of a call and for everything of it to be gone: one terminal transition was seen, no more."""

    async def once(call: Call) -> State:
        await call.wait_finished(within=25)
        await call.wait_cleaned_up(within=25)
        await recorder.wait_until_seen(await call.get())
        (end,) = recorder.terminal_transitions(call.uid)
        return end

    return once


async def start_again(mesh: Mesh, service: str) -> None:
    await mesh.start(service, 0, **{**QUICK, **SETTINGS})


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_away_for_the_whole_stop_makes_up_for_it(
    kubernetes: Kubernetes, namespace: str, crashing: Mesh, once: Once, service: str
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1500ms")
    await crashing.kill(service)
    await call.cancel()
    await call.signal_topology_terminated()
    await start_again(crashing, service)
    assert (await once(call)).written_by == "exeunt-terminator"


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_killed_between_cancel_and_leaving(
    kubernetes: Kubernetes, namespace: str, crashing: Mesh, listener: Bystander, once: Once, service: str
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="3s")
    await call.cancel()
    await listener.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    await crashing.kill(service)
    await everyone_leaves(listener.streams, call)
    await start_again(crashing, service)
    assert (await once(call)).written_by == "exeunt-terminator"


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_killed_at_any_moment_of_a_stop(
    kubernetes: Kubernetes, namespace: str, crashing: Mesh, once: Once, service: str
) -> None:
    # Half of the calls are left, half run into their deadline; the kill comes somewhere in the middle of both.
    calls = [await Call.start(kubernetes, namespace, f"call-{n}", shutdown_timeout="700ms") for n in range(16)]

    async def stop(number: int, call: Call) -> None:
        await call.cancel()
        await asyncio.sleep(0.6 + 0.02 * number)  # spreads the ends around the kill
        if number % 2:
            await call.signal_topology_terminated()

    async def kill() -> None:
        await asyncio.sleep(0.75)
        await crashing.kill(service)
        await start_again(crashing, service)

    await asyncio.gather(kill(), *(stop(number, call) for number, call in enumerate(calls)))
    for call in calls:
        assert (await once(call)).written_by == "exeunt-terminator"


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_nats_server_restarted_in_the_middle(
    kubernetes: Kubernetes, namespace: str, nats: NatsServer, once: Once, end: str
) -> None:
    left = await Call.start(kubernetes, namespace, "left", shutdown_timeout="30s")
    stays = await Call.start(kubernetes, namespace, "stays", shutdown_timeout="1500ms")
    await left.cancel()
    await stays.cancel()
    await (nats.stop() if end == "stop" else nats.kill())
    late = await Call.start(kubernetes, namespace, "late", shutdown_timeout="1500ms")
    await late.cancel()
    await left.signal_topology_terminated()
    await nats.start()
    for call in (left, stays, late):
        assert (await once(call)).written_by == "exeunt-terminator"


async def test_kube_apiserver_killed_in_the_middle(
    kubernetes: Kubernetes, namespace: str, control_plane: ControlPlane, once: Once
) -> None:
    left = await Call.start(kubernetes, namespace, "left", shutdown_timeout="60s")
    stays = await Call.start(kubernetes, namespace, "stays", shutdown_timeout="1s")
    await left.cancel()
    await stays.cancel()
    await left.wait_until(lambda run: "annotations" in run["metadata"])
    await stays.wait_until(lambda run: "annotations" in run["metadata"])
    await control_plane.kill_apiserver()
    await control_plane.start_apiserver()
    await left.signal_topology_terminated()
    for call in (left, stays):
        assert (await once(call)).written_by == "exeunt-terminator"
