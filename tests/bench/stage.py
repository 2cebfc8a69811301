"""Everything that is measured, running on one Kubernetes: the floor, this build, and whoever it is held against.

Each side looks after a namespace of its own, so that they can take turns on the same machine at the same time, and
whatever slows the machine down meets all. `rooms` adds LiveKit, its bridge and their floor for as long as it measures.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.admin import admin_client
from actors.bystander import Bystander
from actors.kubernetes import Kubernetes
from bench.api import Api
from bench.builds import THIS, Build
from bench.copies import Etcd, Template
from bench.observer import Moment, Observer
from bench.sides import AGAINST, EXEUNT, FLOOR, KOPF, WATCH, Services, Side, running, within
from bench.world import NO_DEADLINE, Run, World
from exeunt_local import CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

_PEERS: Final = {KOPF: "peers.kopf_operator", WATCH: "peers.watch_loop"}


@dataclass(frozen=True)
class Stage:
    """What measurements need. Make one with `stage`."""

    control_plane: ControlPlane
    world: World
    observer: Observer
    floor: Side
    exeunt: Services
    against: Services | None
    peers: tuple[Side, ...]
    _etcd: Etcd
    _templates: Mapping[str, Template]

    @property
    def kubeconfig(self) -> Path:
        """Of the cluster's admin, for floors."""
        return self.control_plane.kubeconfig

    @property
    def builds(self) -> tuple[Services, ...]:
        return (self.exeunt,) if self.against is None else (self.exeunt, self.against)

    def turns(self, number: int, *, peer_rounds: int) -> list[Side]:
        """Who comes in round `number`, in that order: another one first in each round; peers in the first rounds."""
        sides = [self.floor, *self.builds, *(self.peers if number < peer_rounds else ())]
        first = number % len(sides)
        return sides[first:] + sides[:first]

    async def start(self, side: Side, prefix: str, count: int) -> list[Run]:
        """That many running calls without a deadline."""
        return await self.start_with(side, prefix, [NO_DEADLINE] * count)

    async def start_with(self, side: Side, prefix: str, shutdown_timeouts: Iterable[str]) -> list[Run]:
        """One running call for each shutdown timeout (Go duration text), when all of it has been seen."""
        runs = [Run(side.name, f"{prefix}-{number}", timeout) for number, timeout in enumerate(shutdown_timeouts)]
        await self._etcd.copy(self._templates[side.name], ((run.name, run.shutdown_timeout) for run in runs))
        await within(asyncio.gather(*(self.observer.of(run.key).running for run in runs)))
        return runs

    async def gone(self, runs: Iterable[Run]) -> list[Moment]:
        return await within(asyncio.gather(*(self.observer.of(run.key).gone for run in runs)))

    async def ended(self, runs: Iterable[Run]) -> list[Moment]:
        """When each was seen in a terminal phase; raises TimeoutError when one does not end."""
        return await within(asyncio.gather(*(self.observer.of(run.key).ended for run in runs)))

    async def cleaned_up(self, runs: Iterable[Run]) -> list[Moment]:
        """When the last StepRun of each was seen deleted; raises TimeoutError when one stays."""
        return await within(asyncio.gather(*(self.observer.of(run.key).cleaned_up for run in runs)))

    async def rest(self) -> None:
        """Until every event is answered for good, second looks included; raises AssertionError when that takes long."""
        for build in self.builds:
            await build.settled()


@asynccontextmanager
async def stage(
    folder: Path, *, against: Build | None = None, peers: str | None = None, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """Starts it all in `folder`; nothing of it is left running.

    `peers` is the Python that they run on; `settings` go over the services' defaults.
    """
    servers = await binaries.prepare()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        control_plane = await enter(ControlPlane(folder / "kubernetes", binaries=servers))
        await control_plane.install_crds(CRDS)
        world = World(Kubernetes(await enter(admin_client(control_plane.kubeconfig))))
        observer = await enter(Observer(await enter(Api.connected(str(control_plane.kubeconfig)))))

        etcd = await enter(Etcd.connected(control_plane.etcd_url))
        templates: dict[str, Template] = {}

        async def namespace(name: str) -> None:
            await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            await world.add_story(name)
            (call,) = await world.start(name, "template", [NO_DEADLINE])
            templates[name] = await etcd.template(name, call.name, NO_DEADLINE)

        async def services(name: str, build: Build) -> Services:
            await namespace(name)
            home = f"{name}-services"
            await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": home}})
            await control_plane.apply(*build.rights(home))
            nats_server = await enter(NatsServer(folder / f"{name}-nats", binary=servers.nats_server))
            mesh = Mesh(
                folder / home,
                control_plane=control_plane,
                nats_url=nats_server.url,
                python=build.python,
                namespace=home,
            )
            await enter(mesh)
            bystander = await enter(Bystander(nats_server.url))
            side = Services(name, mesh, bystander, nats_server.monitor_url, settings or {})
            await side.start()
            return side

        async def loop(name: str, module: str, **on: str) -> Side:
            await namespace(name)
            return Side(name, await enter(running(module, name, control_plane.kubeconfig, **on)))

        floor = await loop(FLOOR, "floor")
        exeunt = await services(EXEUNT, THIS)
        other = await services(AGAINST, against) if against else None
        found = [await loop(name, module, python=peers) for name, module in _PEERS.items()] if peers else []
        yield Stage(control_plane, world, observer, floor, exeunt, other, tuple(found), etcd, templates)
