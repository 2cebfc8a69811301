"""What the measurements that are run by hand start with: they take minutes, and are no part of `make bench`."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from actors.admin import admin_client
from actors.kubernetes import Kubernetes
from actors.nats_cluster import NatsCluster
from bench.api import Api
from bench.observer import Observer
from bench.world import Run, World
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def stopped(world: World, observer: Observer, run: Run) -> float:
    """Cancel a run and have everybody leave: seconds from its last binding until it is Finished."""
    await world.cancel(run)
    await asyncio.sleep(0.05)
    await world.leave(run)
    sighting = observer.of(run.key)
    async with asyncio.timeout(120):
        gone, ended = await asyncio.gather(sighting.gone, sighting.ended)
    return ended.clock - gone.clock


class Started(NamedTuple):
    """Servers, and a mesh that has no service yet. The nats-server is the first of `cluster`, where there is one."""

    control_plane: ControlPlane
    nats_server: NatsServer
    mesh: Mesh
    kubernetes: Kubernetes
    world: World
    observer: Observer
    cluster: NatsCluster | None = None


@asynccontextmanager
async def started(*namespaces: str, three: bool = False) -> AsyncIterator[Started]:
    """With a Story in each namespace, and `three` nats-servers or one; nothing of it is left running."""
    servers = await binaries.prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            control_plane = await enter(ControlPlane(folder / "kubernetes", binaries=servers))
            cluster = await enter(NatsCluster(servers, folder / "nats")) if three else None
            if cluster is None:
                nats_servers = [await enter(NatsServer(folder / "nats", binary=servers.nats_server))]
            else:
                nats_servers = cluster.servers
            await control_plane.install_crds(CRDS)
            await control_plane.apply(BASE)
            kubernetes = Kubernetes(await enter(admin_client(control_plane.kubeconfig)))
            world = World(kubernetes)
            for namespace in namespaces:
                await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
                await world.add_story(namespace)
            observer = await enter(Observer(await enter(Api.connected(str(control_plane.kubeconfig)))))
            urls = ",".join(server.url for server in nats_servers)
            mesh = await enter(Mesh(folder / "services", control_plane=control_plane, nats_url=urls))
            yield Started(control_plane, nats_servers[0], mesh, kubernetes, world, observer, cluster)
