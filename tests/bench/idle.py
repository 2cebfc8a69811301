"""What an idle process keeps in memory, and what it spends: services that have just been started, without any runs."""

import asyncio
from collections import defaultdict

from bench.accounts import MIB, Account, cpu
from bench.report import Row, compared
from bench.sides import EXEUNT
from bench.stage import Stage
from exeunt_local.mesh import SERVICES


async def measure(stage: Stage, *, rounds: int, seconds: float) -> list[Row]:
    """Builds are started anew in each round; loops have done nothing yet, if this is measured first."""
    memory: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for build in stage.builds if number % 2 else reversed(stage.builds):
            await build.restart()
            await asyncio.sleep(seconds)
            before = cpu(build.pids.values())
            await asyncio.sleep(seconds)
            spent[build.name].append(1000 * (cpu(build.pids.values()) - before) / seconds)
            for service, pid in build.pids.items():
                memory[service][build.name].append(Account.of(pid).resident / MIB)
    for loop in (stage.floor, *stage.peers):
        for pid in loop.pids.values():
            memory["all"][loop.name].append(Account.of(pid).resident / MIB)
    for build in stage.builds:
        sums = zip(*(memory[service][build.name] for service in SERVICES), strict=True)
        memory["all"][build.name] = [sum(each) for each in sums]
    assert EXEUNT in spent
    return [
        *(compared(f"idle {service}, resident", "MiB", memory[service], at_most=42) for service in SERVICES),
        compared("idle, all together, resident", "MiB", memory["all"]),
        compared("idle, CPU of all services a second", "ms", spent),
    ]
