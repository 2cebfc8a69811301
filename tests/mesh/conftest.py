"""The three services as processes on real parts, running for the tests of one module.

Those that kill or restart something take the function-scoped `mesh` instead and start their own: never both in one
module, because two meshes on one cluster would do each other's work.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from actors.operator import Operator
from actors.recorder import Recorder, State
from actors.services import start_all
from actors.tcp_proxy import TcpProxy
from exeunt.events.event_types import EventType
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

Stopped = Callable[..., Awaitable[State]]


@pytest.fixture(scope="module")
async def operator(kubernetes: Kubernetes) -> AsyncIterator[Operator]:
    """Plays bobrapet for all namespaces, as long as the module's tests run."""
    async with Operator(kubernetes, requeue=0.2) as operator:
        yield operator


@pytest.fixture(scope="module")
async def running_mesh(
    request: pytest.FixtureRequest,
    control_plane: ControlPlane,
    nats_server: NatsServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Mesh]:
    """One of each service, ready; a module's SETTINGS, where it has some, go over the usual ones."""
    folder = tmp_path_factory.mktemp("mesh")
    async with Mesh(folder, control_plane=control_plane, nats_url=nats_server.url) as mesh:
        await start_all(mesh, **getattr(request.module, "SETTINGS", {}))
        yield mesh


@pytest.fixture
async def own_nats(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A server of the test's own: its streams can be changed and lost, and what changes there has the test changed."""
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as own_nats:
        yield own_nats


@pytest.fixture
async def own_mesh(
    control_plane: ControlPlane, own_nats: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    """The services on that server, none started yet."""
    async with Mesh(tmp_path_factory.mktemp("mesh"), control_plane=control_plane, nats_url=own_nats.url) as own_mesh:
        yield own_mesh


@pytest.fixture
async def listener(own_nats: NatsServer) -> AsyncIterator[Bystander]:
    """Reads the streams of that server."""
    async with Bystander(own_nats.url) as listener:
        yield listener


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[TcpProxy]:
    """A way to the kube-apiserver that can be cut."""
    async with TcpProxy(int(control_plane.url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
async def recorder(kubernetes: Kubernetes, namespace: str) -> AsyncIterator[Recorder]:
    """Sees every state of every run of the test's namespace."""
    async with Recorder(kubernetes, namespace) as recorder:
        yield recorder


@pytest.fixture(scope="module")
async def bystander(nats_server: NatsServer) -> AsyncIterator[Bystander]:
    """Reads the streams of the shared NATS server."""
    async with Bystander(nats_server.url) as bystander:
        yield bystander


@pytest.fixture
def stopped(recorder: Recorder, bystander: Bystander) -> Stopped:
    """Waits until a call is over and everybody has had their say; returns its one terminal transition.

    AssertionError when the call does not end `within` seconds, when something of it is left, or when its run has
    become terminal more often than `times`.
    """

    async def stopped(call: Call, within: float = 10, times: int = 1) -> State:
        run = await call.wait_finished(within)
        await call.wait_cleaned_up()
        await bystander.wait_for_event(
            call.uid,
            EventType.RUN_TERMINAL,
            cancel_observed_at=run["metadata"].get("annotations", {}).get(CANCEL_OBSERVED_AT),
        )
        await bystander.wait_until_idle()
        # What was published is answered: nobody will write this run any more. Let the recorder see as much.
        await recorder.wait_until_seen(await call.get())
        ends = recorder.terminal_transitions(call.uid)
        assert len(ends) == times, [(end.at.isoformat(), end.phase, end.written_by) for end in ends]
        return ends[-1]

    return stopped
