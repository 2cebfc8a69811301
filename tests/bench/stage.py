"""Everything that is measured, running: Kubernetes, NATS, the three services and, beside them, the floor.

`rooms` adds LiveKit, its bridge and their floor for as long as it measures.

The services look after one namespace and the floor after another, so that the two can take turns on the same machine
at the same time, and whatever slows the machine down meets both.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from actors.admin import admin_client
from actors.bystander import Bystander
from actors.kubernetes import Kubernetes
from bench.floor import Api
from bench.observer import Moment, Observer
from bench.world import NO_DEADLINE, Run, World
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer

FLOOR: Final = "floor"
EXEUNT: Final = "bench"
SIDES: Final = (FLOOR, EXEUNT)
"""The namespaces, in which the two sides take turns."""
_PATIENCE = 120.0
"""Seconds after which a measurement is given up; a machine that has more to do needs a minute for a storm."""

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """What measurements need. Make one with `stage`."""

    world: World
    observer: Observer
    bystander: Bystander
    mesh: Mesh
    kubeconfig: Path
    """Of the cluster's admin, for floors."""
    settings: dict[str, str]
    hold: dict[str, Callable[[], None]]
    """Makes a side hold its writes back."""
    release: dict[str, Callable[[], None]]

    async def start(self, side: str, prefix: str, count: int) -> list[Run]:
        """That many running calls without a deadline."""
        return await self.world.start(side, prefix, [NO_DEADLINE] * count)

    async def gone(self, runs: Iterable[Run]) -> list[Moment]:
        return await within(asyncio.gather(*(self.observer.of(run.key).gone for run in runs)))

    async def ended(self, runs: Iterable[Run]) -> list[Moment]:
        """When each was seen in a terminal phase; raises TimeoutError when one does not end."""
        return await within(asyncio.gather(*(self.observer.of(run.key).ended for run in runs)))

    async def cleaned_up(self, runs: Iterable[Run]) -> list[Moment]:
        """When the last StepRun of each was seen deleted; raises TimeoutError when one stays."""
        return await within(asyncio.gather(*(self.observer.of(run.key).cleaned_up for run in runs)))

    async def restart(self, **settings: str) -> None:
        """The services anew, under settings that go over those of this stage."""
        await asyncio.gather(*map(self.mesh.stop, SERVICES))
        await asyncio.gather(*(self.mesh.start(service, 0, **{**self.settings, **settings}) for service in SERVICES))

    async def rest(self) -> None:
        """Until every event is answered for good, second looks included; raises AssertionError when that takes long."""
        await self.bystander.wait_until_idle(within=_PATIENCE)


async def within(waiting: Awaitable[T]) -> T:
    """Waits, but not for ever; raises TimeoutError."""
    async with asyncio.timeout(_PATIENCE):
        return await waiting


@asynccontextmanager
async def stage(folder: Path, **settings: str) -> AsyncIterator[Stage]:
    """Starts it all in `folder`; nothing of it is left running. `settings` go over the services' defaults."""
    servers = await binaries.prepare()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        control_plane = await enter(ControlPlane(folder / "kubernetes", binaries=servers))
        nats_server = await enter(NatsServer(folder / "nats", binary=servers.nats_server))
        await control_plane.install_crds(CRDS)
        await control_plane.apply(BASE)
        client = await enter(admin_client(control_plane.kubeconfig))
        world = World(Kubernetes(client))
        for side in SIDES:
            await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": side}})
            await world.add_story(side)
        observer = await enter(Observer(await enter(Api.connected(str(control_plane.kubeconfig)))))
        mesh = await enter(Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url))
        settings = {"EXEUNT_NAMESPACES": EXEUNT, "EXEUNT_LOG_LEVEL": "warning", **settings}
        for service in SERVICES:
            await mesh.start(service, 0, **settings)
        floor = await enter(running_floor("floor", control_plane.kubeconfig))
        bystander = await enter(Bystander(nats_server.url))
        yield Stage(
            world,
            observer,
            bystander,
            mesh,
            control_plane.kubeconfig,
            settings,
            hold={
                FLOOR: lambda: floor.send_signal(signal.SIGUSR1),
                EXEUNT: lambda: os.kill(mesh.pid("terminator"), signal.SIGSTOP),
            },
            release={
                FLOOR: lambda: floor.send_signal(signal.SIGUSR2),
                EXEUNT: lambda: os.kill(mesh.pid("terminator"), signal.SIGCONT),
            },
        )


@asynccontextmanager
async def running_floor(module: str, kubeconfig: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A floor of this package for its namespace, watching. What it has to complain about goes to our stderr."""
    floor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"bench.{module}", FLOOR, *arguments),
        cwd=Path(__file__).parents[1],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        start_new_session=True,  # Ctrl-C is for us, who then stop everything in order
    )
    try:
        await within(_first_word(floor))
        yield floor
    finally:
        if floor.returncode is None:
            floor.kill()
        await floor.wait()


async def _first_word(floor: asyncio.subprocess.Process) -> None:
    assert floor.stdout is not None
    if not await floor.stdout.readline():
        raise RuntimeError("the floor has ended before it began")
