"""How long stops take while NATS is dead, and whether the history has all of them afterwards.

Run by hand, because it takes minutes: `python tests/bench/without_bus.py [STOPS] [MINUTES]`. Two terminators; figures
count from the moment that a stop was due, which the observer sees on the cluster.
"""

import asyncio
import os
import random
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a file, it does not see `actors` and `bench`

from actors import hub
from actors.bystander import Bystander
from actors.kubernetes import STORY_RUN
from bench.by_hand import show, started
from bench.observer import Moment
from bench.report import percentile
from bench.world import NO_DEADLINE, Run
from exeunt.clock import parse_duration
from exeunt.events.event_types import Verdict
from exeunt_local.mesh import SERVICES

NAMESPACE: Final = "bench"
KINDS: Final = ("bindings go", "bindings went before the cancel", "the hub says so", "deadline")
AFTER_THE_PATIENCE: Final = 8.0
"""Seconds from the death of NATS to the first stop."""


async def main(stops: int, minutes: float) -> None:
    async with started(NAMESPACE) as (_, nats_server, mesh, kubernetes, world, observer, _):
        for service in SERVICES:
            await mesh.start(service, 0, EXEUNT_LOG_LEVEL="warning")
        await mesh.start("terminator", 1, EXEUNT_LOG_LEVEL="warning")
        timeouts = ["5s" if kind == "deadline" else NO_DEADLINE for kind in KINDS] * (stops // len(KINDS))
        runs = await world.start(NAMESPACE, "run", timeouts)
        await nats_server.kill()
        show(f"NATS is dead; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}

        async def stop(kind: str, run: Run) -> None:
            await asyncio.sleep(AFTER_THE_PATIENCE + random.uniform(0, 60 * minutes))
            sighting = observer.of(run.key)
            if kind == "bindings went before the cancel":
                await world.leave(run)
            cancel_observed_at = await world.cancel(run)
            if kind == "bindings go":
                await world.leave(run)
            elif kind == "the hub says so":
                await hub.signal_topology_terminated(kubernetes, *run.key)
            recorded = Moment.now()
            async with asyncio.timeout(120):
                ended = await sighting.ended
            if kind == "deadline":
                due = cancel_observed_at + parse_duration(run.shutdown_timeout)
                seconds[kind].append((ended.wall - due) / timedelta(seconds=1))
            else:
                gone = sighting.gone.result() if kind == "bindings go" else recorded
                seconds[kind].append(ended.clock - gone.clock)

        async with asyncio.TaskGroup() as tasks:
            for number, run in enumerate(runs):
                tasks.create_task(stop(KINDS[number % len(KINDS)], run))
        show(f"all have ended; load {os.getloadavg()[0]:.1f}")
        for kind, taken in seconds.items():
            show(f"{kind}: {len(taken)}, least {min(taken):.3f} s, p50 {percentile(taken, 50):.3f} s,"
                  f" p99 {percentile(taken, 99):.3f} s, most {max(taken):.3f} s")  # fmt: skip
        await nats_server.start()
        async with Bystander(nats_server.url) as bystander:
            await asyncio.sleep(5)
            await bystander.wait_until_idle(120)
            await asyncio.sleep(20)
            await bystander.wait_until_idle(120)
            decided, marked, events = [], 0, 0
            for made in await kubernetes.list(STORY_RUN, NAMESPACE):
                history = await bystander.history(made["metadata"]["uid"])
                ends = [
                    recorded.outcome
                    for recorded in history
                    if recorded.outcome and recorded.outcome.verdict is Verdict.FINALIZE
                ]
                decided.append(len(ends))
                marked += sum(end.without_bus for end in ends)
                events += len(history)
        show(f"histories: {decided.count(1)} with one decision to end, {decided.count(0)} with none,"
              f" {sum(number > 1 for number in decided)} with more; {marked} made without the bus;"
              f" {events} messages")  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 200, float(sys.argv[2]) if sys.argv[2:] else 3.0))
