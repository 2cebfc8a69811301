"""The real servers that tests share: each starts when the first test asks, so pure tests start none."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop
from kubernetes_asyncio.client import CustomObjectsApi

from actors.admin import admin_client
from actors.kubernetes import Kubernetes
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.binaries import Binaries, PrometheusBinaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

asyncio.set_event_loop(None)  # or a loop that a synchronous test was given is left over, unclosed

CONNECTIONS = ("test_bus_", "test_kube", "test_list_watch", "test_deaf_watches", "test_keepalive", "test_oidc")

# BOBRAPET_CRDS names a folder of other CRDs, such as the operator's own.
CRDS_UNDER_TEST = Path(os.environ.get("BOBRAPET_CRDS") or CRDS)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What connects is tested on the loop that services have. Everything else has asyncio's own, as the CLI does."""
    if item.path.name.startswith(CONNECTIONS):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
async def servers() -> Binaries:
    return await binaries.find()


@pytest.fixture(scope="session")
def prometheus_binaries() -> PrometheusBinaries:
    return binaries.find_prometheus()


@pytest.fixture(scope="session")
async def control_plane(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """Kubernetes with the CRDs, and with the namespace and the RBAC of deploy/base."""
    async with ControlPlane(tmp_path_factory.mktemp("control-plane"), binaries=servers) as control_plane:
        await control_plane.install_crds(CRDS_UNDER_TEST)
        await control_plane.apply(BASE)
        yield control_plane


@pytest.fixture(scope="session")
async def nats_server(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as nats_server:
        yield nats_server


@pytest.fixture(scope="session")
async def admin(control_plane: ControlPlane) -> AsyncIterator[CustomObjectsApi]:
    """The cluster's admin, for everything that a user or another writer does; `.api_client` for the rest."""
    async with admin_client(control_plane.kubeconfig) as client:
        yield CustomObjectsApi(client)


@pytest.fixture(scope="session")
def kubernetes(admin: CustomObjectsApi) -> Kubernetes:
    return Kubernetes(admin.api_client)  # type: ignore[attr-defined]  # the generated stubs leave it out


@pytest.fixture
async def namespace(control_plane: ControlPlane) -> str:
    """A fresh namespace; it stays, since nothing here would finish its deletion."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@pytest.fixture
async def mesh(control_plane: ControlPlane, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Mesh]:
    """The services as processes, none started yet; what a test leaves running is killed."""
    async with Mesh(tmp_path, control_plane=control_plane, nats_url=nats_server.url) as mesh:
        yield mesh
