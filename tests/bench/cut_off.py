"""How late stops end while one of three nats-servers is cut off from the others, or hangs.

Run by hand, because it takes half an hour: `python tests/bench/cut_off.py [ROUNDS] [STOPS]`. Two of each service, at
servers that they have chosen by chance. In each round a fault begins, and for some seconds there is a stop every half
second.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a file, it does not see `actors` and `bench`

import nats.errors
from aiohttp import ClientError, ClientSession
from nats.js.api import ClusterInfo
from nats.js.errors import Error as JetStreamError

from actors.bystander import Bystander
from actors.nats_cluster import NatsCluster
from bench.by_hand import show, started, stopped
from bench.observer import Observer
from bench.report import percentile
from bench.world import NO_DEADLINE, Run, World
from exeunt.events.subjects import TERMINATOR
from exeunt_local.mesh import SERVICES, Mesh

NAMESPACE: Final = "bench"
FAULTS: Final = ("isolated leader", "isolated follower", "frozen server")
"""The leader is that of the stream or of the terminators' consumer, in turn; of four servers that hang, two lead."""
BETWEEN: Final = 0.5
"""Seconds from one stop to the next."""


async def main(rounds: int, stops: int) -> None:
    async with started(NAMESPACE, three=True) as (_, _, mesh, _, world, observer, cluster):
        assert cluster is not None
        for service in SERVICES:
            for instance in range(2):
                await mesh.start(service, instance, EXEUNT_LOG_LEVEL="error", EXEUNT_STREAM_REPLICAS="3")
        late: dict[str, list[float]] = {fault: [] for fault in FAULTS}
        for number in range(rounds):
            for fault in FAULTS:
                prefix = f"{fault.replace(' ', '-')}-{number}"
                runs = await world.start(NAMESPACE, prefix, [NO_DEADLINE] * stops)
                taken = await round_of(fault, number, cluster, world, observer, runs)
                late[fault] += taken
                show(f"round {number + 1}, {fault}: most {max(taken):.2f} s; load {os.getloadavg()[0]:.1f}")
                await until_ready(mesh)
        for fault, seconds in late.items():
            over = sum(each > 5 for each in seconds)
            of_them = (
                f"p50 {percentile(seconds, 50):.3f} s, p99 {percentile(seconds, 99):.2f} s, most {max(seconds):.2f} s"
            )
            show(f"{fault}: {len(seconds)} stops, {of_them}, {over} later than 5 s")


async def round_of(
    fault: str, number: int, cluster: NatsCluster, world: World, observer: Observer, runs: list[Run]
) -> list[float]:
    """Seconds from the moment that the last binding is gone until the run is Finished."""
    leader = await leader_of(cluster, consumer=number % 2 == 1)
    leads = fault == "isolated leader" or (fault == "frozen server" and number % 4 < 2)
    server = leader if leads else (leader + 1 + number % 2) % 3
    end: Callable[[], None]
    if fault.startswith("isolated"):
        cluster.isolate(server)
        end = cluster.reunite
    else:
        cluster.servers[server].freeze()
        end = cluster.servers[server].thaw
    try:
        async with asyncio.TaskGroup() as tasks:
            stopping = []
            for run in runs:
                stopping.append(tasks.create_task(stopped(world, observer, run)))
                await asyncio.sleep(BETWEEN)
        return [each.result() for each in stopping]
    finally:
        end()


async def leader_of(cluster: NatsCluster, *, consumer: bool) -> int:
    """The number of the server that leads RUNS, or the terminators' consumer, once all three are one again."""
    async with asyncio.timeout(120), Bystander(cluster.servers[0].url) as bystander:
        while True:
            with contextlib.suppress(JetStreamError, nats.errors.Error):
                of_stream = leader_in((await bystander.streams.stream_info("RUNS")).cluster)
                of_consumer = leader_in((await bystander.streams.consumer_info("RUNS", TERMINATOR)).cluster)
                if of_stream is not None and of_consumer is not None:
                    return of_consumer if consumer else of_stream
            await asyncio.sleep(0.2)


def leader_in(group: ClusterInfo | None) -> int | None:
    """Who leads it, if all others are as far as that."""
    if group is None or not group.leader or not all(each.current for each in group.replicas or ()):
        return None
    return int(group.leader.removeprefix("n"))


async def until_ready(mesh: Mesh) -> None:
    """Until every service is."""
    async with asyncio.timeout(180), ClientSession() as http:
        for service in SERVICES:
            for instance in range(2):
                while not await is_ready(http, mesh.url(service, instance)):  # noqa: ASYNC110 - it is asked
                    await asyncio.sleep(0.2)


async def is_ready(http: ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except ClientError:
        return False


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 20, int(sys.argv[2]) if sys.argv[2:] else 20))
