"""Everything that is measured, running on one Kubernetes: the floor, this build, and whoever it is held against.

Each side looks after a namespace of its own, so that they can take turns on the same machine at the same time, and
whatever slows the machine down meets all. `rooms` adds LiveKit, its bridge and their floor for as long as it measures.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from actors.admin import admin_client
from actors.bystander import Bystander
from actors.kubernetes import Kubernetes
from bench.api import Api
from bench.builds import THIS, Build
from bench.copies import Etcd, Template
from bench.observer import Moment, Observer
from bench.sides import AGAINST, EXEUNT, FLOOR, KOPF, LOOKING, PATIENCE, WATCH, Services, Side, running, within
from bench.world import NO_DEADLINE, Run, World
from exeunt.errors import ExeuntError
from exeunt_local import CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

_PEERS: Final = {KOPF: "peers.kopf_operator", WATCH: "peers.watch_loop"}


class NeverSeen(ExeuntError):
    """Some runs never came to what a measurement waits for; the message names one."""


class Stage:
    """What measurements need. Make one with `stage`."""

    def __init__(self, control_plane: ControlPlane, world: World, etcd: Etcd, api: Api, observer: Observer) -> None:
        self.control_plane = control_plane
        self.world = world
        self.etcd = etcd
        self.api = api
        self.observer = observer
        self.floor: Side
        self.looking: Side
        self.exeunt: Services
        self.against: Services | None = None
        self.peers: tuple[Side, ...] = ()
        self._templates: dict[str, Template] = {}

    @property
    def kubeconfig(self) -> Path:
        """Of the cluster's admin, for floors."""
        return self.control_plane.kubeconfig

    @property
    def builds(self) -> tuple[Services, ...]:
        return (self.exeunt,) if self.against is None else (self.exeunt, self.against)

    def turns(self, number: int, *, peer_rounds: int, looking: bool = False) -> list[Side]:
        """Who comes in round `number`, in that order: another one first in each round; peers in the first rounds.

        `looking`: the floor that looks, too.
        """
        sides = [
            self.floor,
            *([self.looking] if looking else []),
            *self.builds,
            *(self.peers if number < peer_rounds else ()),
        ]
        first = number % len(sides)
        return sides[first:] + sides[:first]

    async def add_namespace(self, name: str) -> None:
        """A namespace in which calls can be started."""
        await self.control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await self.world.add_story(name)
        (call,) = await self.world.start(name, "template", [NO_DEADLINE])
        self._templates[name] = await self.etcd.template(name, call.name, NO_DEADLINE)

    async def start(self, namespace: str, prefix: str, count: int) -> list[Run]:
        """That many running calls without a deadline."""
        return await self.start_with(namespace, prefix, [NO_DEADLINE] * count)

    async def start_with(self, namespace: str, prefix: str, shutdown_timeouts: Iterable[str]) -> list[Run]:
        """One running call for each shutdown timeout (Go duration text), when all of it has been seen."""
        runs = [Run(namespace, f"{prefix}-{number}", timeout) for number, timeout in enumerate(shutdown_timeouts)]
        build = next((build for build in self.builds if namespace.startswith(build.name)), None)
        before, _ = await build.stored() if build else (0, 0)
        await self.etcd.copy(self._templates[namespace], ((run.name, run.shutdown_timeout) for run in runs))
        await self._seen(runs, "running")
        if build:
            await build.stores(before + len(runs))
        return runs

    async def start_canceled(self, namespace: str, prefix: str, count: int) -> None:
        """That many calls that were canceled and wait for their callers to leave."""
        (run,) = await self.world.start(namespace, "canceled", [NO_DEADLINE])
        await self.world.cancel(run)
        template = await self.etcd.template(namespace, run.name, NO_DEADLINE)
        runs = [Run(namespace, f"{prefix}-{number}", NO_DEADLINE) for number in range(count)]
        await self.etcd.copy(template, ((run.name, NO_DEADLINE) for run in runs))
        await self._seen(runs, "running")

    async def _seen(self, runs: Sequence[Run], what: str) -> list[Moment]:
        """When each run was seen so; raises NeverSeen."""
        futures: list[asyncio.Future[Moment]] = [getattr(self.observer.of(run.key), what) for run in runs]
        try:
            return await within(asyncio.gather(*map(asyncio.shield, futures)))
        except TimeoutError:
            left = [run for run, future in zip(runs, futures, strict=True) if not future.done()]
            raise NeverSeen(
                f"{len(left)} of {len(runs)} runs were not seen {what.replace('_', ' ')} within {PATIENCE:g} s,"
                f" such as {left[0].name} of {left[0].namespace}"
            ) from None

    async def gone(self, runs: Sequence[Run]) -> list[Moment]:
        """When the last TransportBinding of each was seen deleted; raises NeverSeen."""
        return await self._seen(runs, "gone")

    async def ended(self, runs: Sequence[Run]) -> list[Moment]:
        """When each was seen in a terminal phase; raises NeverSeen."""
        return await self._seen(runs, "ended")

    async def cleaned_up(self, runs: Sequence[Run]) -> list[Moment]:
        """When the last StepRun of each was seen deleted; raises NeverSeen."""
        return await self._seen(runs, "cleaned_up")

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
        etcd = await enter(Etcd.connected(control_plane.etcd_url))
        api = await enter(Api.connected(str(control_plane.kubeconfig)))
        found = Stage(control_plane, world, etcd, api, await enter(Observer(api)))

        async def services(name: str, build: Build) -> Services:
            await found.add_namespace(name)
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
            mesh.ready_within = PATIENCE
            await enter(mesh)
            bystander = await enter(Bystander(nats_server.url))
            side = Services(name, mesh, bystander, nats_server.monitor_url, settings or {})
            await side.start()
            return side

        async def loop(name: str, module: str, python: str = sys.executable) -> Side:
            await found.add_namespace(name)
            run = partial(running, module, kubeconfig=control_plane.kubeconfig, python=python)
            return Side(name, await enter(run(name)), run)

        found.floor = await loop(FLOOR, "floor")
        found.looking = await loop(LOOKING, "looking_floor")
        found.exeunt = await services(EXEUNT, THIS)
        if against:
            found.against = await services(AGAINST, against)
        if peers:
            found.peers = tuple([await loop(name, module, peers) for name, module in _PEERS.items()])
        yield found
