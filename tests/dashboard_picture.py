"""Plays a storm of stops with a bad half minute in it, and draws what the dashboard shows of it, in docs/dashboard: its
first rows in windows of three widths, in light and in dark, and all of it in one.

`make picture` runs it. Everything is real but the calls: a Prometheus scrapes the three services, and the panels' own
queries are asked of it. Meanwhile the terminator hangs for a while, a few calls are left by nobody, and a message is
garbage.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import nats
from PIL import Image
from rich.console import Console

from actors.admin import admin_client
from actors.dashboard_drawing import draw, record
from actors.grafana import panels, time_range
from actors.kubernetes import Kubernetes
from actors.pictures import WINDOWS, keep
from bench.world import NO_DEADLINE, World
from exeunt.errors import ExeuntError
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.prometheus import Prometheus, rules_file

ROOT: Final = Path(__file__).parents[1]
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "stops.json"
FOLDER: Final = ROOT / "docs" / "dashboard"

SECONDS: Final = 150.0
STOPS: Final = 150
NOBODY_LEAVES: Final = 0.06
"""The share of calls that end at their shutdown deadline."""
GONE_FIRST: Final = 0.1
"""The share of calls that nobody is in any more when they are canceled."""
TERMINATOR_HANGS: Final = (70.0, 78.0)
"""From when to when, in seconds from the start."""
NAMESPACE: Final = "voice"


async def play_a_call(world: World, number: int, chance: random.Random) -> None:
    """One call that is canceled, and left: usually within seconds, sometimes before, now and then never."""
    await asyncio.sleep(chance.uniform(5, SECONDS - 15))
    fate = chance.random()
    timeout = "4s" if fate < NOBODY_LEAVES else NO_DEADLINE
    (run,) = await world.start(NAMESPACE, f"call-{number}", [timeout])
    if NOBODY_LEAVES <= fate < NOBODY_LEAVES + GONE_FIRST:
        await world.leave(run)
        await asyncio.sleep(0.5)
        await world.cancel(run)
        return
    await world.cancel(run)
    if fate >= NOBODY_LEAVES:
        await asyncio.sleep(chance.uniform(0.3, 6))
        await world.leave(run)


async def play_trouble(mesh: Mesh, nats_url: str) -> None:
    hangs, goes_on = TERMINATOR_HANGS
    await asyncio.sleep(hangs)
    os.kill(mesh.pid("terminator"), signal.SIGSTOP)
    await asyncio.sleep(goes_on - hangs)
    os.kill(mesh.pid("terminator"), signal.SIGCONT)
    await asyncio.sleep(10)
    connection = await nats.connect(nats_url)
    await connection.jetstream().publish(f"exeunt.runs.{NAMESPACE}.nobody.uid.first.cancel-requested", b"garbage")
    await connection.close()


async def main() -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    servers, watching = await binaries.prepare(), await binaries.prepare_prometheus()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exeunt-picture-")))
        console.print("Starting etcd, kube-apiserver, nats-server, the services and Prometheus ...")
        control_plane = await enter(ControlPlane(folder / "kubernetes", binaries=servers))
        nats_server = await enter(NatsServer(folder / "nats", binary=servers.nats_server))
        await control_plane.install_crds(CRDS)
        await control_plane.apply(BASE)
        await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        world = World(Kubernetes(await enter(admin_client(control_plane.kubeconfig))))
        await world.add_story(NAMESPACE)
        mesh = await enter(Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url))
        for service in SERVICES:
            await mesh.start(service, OTEL_RESOURCE_ATTRIBUTES=f"service.instance.id=exeunt-{service}-0")
        rules = rules_file(folder / "prometheus" / "rules.yml")
        prometheus = await enter(Prometheus(folder / "prometheus", binary=watching.prometheus, rules=[rules]))
        prometheus.scrape(mesh)
        await prometheus.wait_for("exeunt_stop_latency_seconds_count and on() exeunt_watch_age_seconds")

        console.print(f"Playing {STOPS} stops within {SECONDS:.0f} s ...")
        start, chance = time.time(), random.Random(87)
        async with asyncio.timeout(SECONDS + 60), asyncio.TaskGroup() as tasks:
            tasks.create_task(play_trouble(mesh, nats_server.url))
            for number in range(STOPS):
                tasks.create_task(play_a_call(world, number, chance))
        await prometheus.wait_for("max(exeunt_stops_pending) == 0", within=60)
        await asyncio.sleep(5)  # a few quiet scrapes

        end = time.time()
        variables = time_range(end - start, scraped_every=1)
        recorded = await record(prometheus, panels(DASHBOARD), variables, start=start, end=end)
        for width, scheme in WINDOWS:
            draw(recorded, FOLDER / f"{width}-{scheme}.png", rows=2, width=width, scheme=scheme)
        draw(recorded, FOLDER / "all.png")
        for picture in FOLDER.glob("*.png"):
            keep(Image.open(picture), picture, source=shown())
        console.print(f"Drawn: {FOLDER.relative_to(ROOT)}")


def shown() -> str:
    """What is drawn: the panels, as far as they are not the storm's."""
    return repr(panels(DASHBOARD))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ExeuntError as error:
        sys.exit(f"picture: {error}")
