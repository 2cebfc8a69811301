"""What a team whose runs cannot be written costs another team: its stops, one at a time, alone and beside them.

Run by hand, because it takes minutes: `python tests/bench/isolation.py [FAILING] [STOPS]`. One of each service.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a file, it does not see `actors` and `bench`

from actors.broken_webhook import writes_fail
from actors.bystander import Bystander
from bench.by_hand import show, started, stopped
from bench.observer import Observer
from bench.report import percentile
from bench.world import NO_DEADLINE, Run, World, each
from exeunt_local.mesh import SERVICES

TROUBLED, WELL = "troubled", "well"
WARM_UP: Final = 10
AT_ONCE: Final = 10

T = TypeVar("T")


async def seconds_of(world: World, observer: Observer, runs: list[Run]) -> list[float]:
    """Of stops one after another."""
    return [await stopped(world, observer, run) for run in runs]


async def main(failing: int, stops: int) -> None:
    async with (
        started(TROUBLED, WELL) as (control_plane, nats_server, mesh, _, world, observer, _),
        Bystander(nats_server.url) as bystander,
    ):
        for service in SERVICES:
            await mesh.start(service, 0, EXEUNT_LOG_LEVEL="error")
        well = await _in_batches(WARM_UP + 2 * stops, lambda some, n: world.start(WELL, f"run-{n}", some))
        stuck = await _in_batches(failing, lambda some, n: world.start(TROUBLED, f"run-{n}", some))
        for some in _batches(stuck):
            await each(world.cancel, some)
        await bystander.wait_until_idle(120)
        await seconds_of(world, observer, well[:WARM_UP])
        await bystander.wait_until_idle(120)
        alone = await seconds_of(world, observer, well[WARM_UP : WARM_UP + stops])
        show(f"alone: {_figures(alone)}")
        async with writes_fail(control_plane, TROUBLED, stuck[0].name, "terminator"):
            for some in _batches(stuck):
                await each(world.leave, some)
            while (await bystander.streams.consumer_info("RUNS", "terminator")).num_ack_pending < failing:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            beside = await seconds_of(world, observer, well[WARM_UP + stops :])
            show(f"beside {failing} runs that cannot be written: {_figures(beside)}")
            info = await bystander.streams.consumer_info("RUNS", "terminator")
            show(f"still without an answer: {info.num_ack_pending}")
        more = 1000 * (percentile(beside, 99) - percentile(alone, 99))
        show(f"what they cost at p99: {more:.0f} ms")
        async with asyncio.timeout(300):
            await asyncio.gather(*(observer.of(run.key).ended for run in stuck))
        show("and once they can be written, all of them end")


def _batches(runs: list[T]) -> list[list[T]]:
    """So many at once as a busy kube-apiserver answers in time."""
    return [runs[at : at + AT_ONCE] for at in range(0, len(runs), AT_ONCE)]


async def _in_batches(number: int, start: Callable[[list[str], int], Awaitable[list[Run]]]) -> list[Run]:
    started: list[Run] = []
    for n, some in enumerate(_batches([NO_DEADLINE] * number)):
        started += await start(some, n)
    return started


def _figures(seconds: list[float]) -> str:
    ms = [1000 * each for each in seconds]
    return (
        f"{len(ms)} stops, p50 {percentile(ms, 50):.0f} ms, p99 {percentile(ms, 99):.0f} ms, most {max(ms):.0f} ms;"
        f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 500, int(sys.argv[2]) if sys.argv[2:] else 200))
