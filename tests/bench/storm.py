"""How many stops a second, and what each costs: when hundreds are due at once, and when hundreds of cancels come in.

What makes a stop due here and in `latency` is that the run's TransportBindings are deleted, which a bare watch sees,
too. A real call ends by the bridge's word, as those of most tests do: `rooms` measures that way.

A stop is over when the run is seen Finished and its StepRuns are seen deleted. The floor works on as many stops at once
as the terminator does. What a stop costs is counted from its cancel to the end of its second look.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from bench.accounts import MIB, Account, forget_peak, peak
from bench.observer import Moment
from bench.report import Row, compared
from bench.sides import AGAINST, FLOOR, LOOKING, Services, Side
from bench.stage import Stage
from bench.world import STEPS, Run, each
from exeunt_local.mesh import SERVICES

_LOOP: Final = "loop"

Figures = defaultdict[str, defaultdict[str, list[float]]]
"""Of each round, by what it is of and by side."""


async def measure(stage: Stage, turns: Callable[[int], list[Side]], *, runs: int, rounds: int) -> list[Row]:
    """Both kinds of storm `rounds` times for each side in turn, after a small one that is not counted.

    While one side has its second looks, the runs of the next one are made.
    """
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for side in turns(0):
        await due_at_once(stage, side, await stage.start(side.name, "warm-up", max(1, runs // 10)))
    afterwards: Callable[[], Awaitable[None]] = stage.rest
    for number in range(rounds):
        for side in turns(number):
            started, _ = await asyncio.gather(stage.start(side.name, f"due-{number}", runs), afterwards())
            afterwards = await _costs(stage, side, started, figures)
        for side in turns(number):
            started, _ = await asyncio.gather(stage.start(side.name, f"storm-{number}", runs), afterwards())
            figures["canceled"][side.name].append(await _canceled_at_once(stage, started))
            afterwards = partial(side.rest, time.monotonic())
    await afterwards()
    return _rows(figures, runs)


async def _costs(stage: Stage, side: Side, runs: list[Run], figures: Figures) -> Callable[[], Awaitable[None]]:
    """Runs a storm, and returns what is to be done before the next one: then its costs are counted."""
    await stage.rest()
    before = {who: Account.of(pid).cpu for who, pid in side.pids.items()}
    counted = await _counts(side)
    for pid in side.pids.values():
        forget_peak(pid)
    figures["due"][side.name].append(await due_at_once(stage, side, runs))
    over = time.monotonic()

    async def count() -> None:
        await side.rest(over)
        spent = {who: 1000 * (Account.of(pid).cpu - before[who]) / len(runs) for who, pid in side.pids.items()}
        for who, cost in {**spent, "all": sum(spent.values())}.items():
            figures[f"CPU {who}"][side.name].append(cost)
        ender = side.pids.get("terminator") or side.pids[_LOOP]
        figures["peak"][side.name].append(peak(ender) / MIB)
        for what, now in (await _counts(side)).items():
            figures[what][side.name].append((now - counted[what]) / len(runs))

    return count


async def _counts(side: Side) -> dict[str, int]:
    """What the services of a build have stored and sent so far."""
    if not isinstance(side, Services):
        return {}
    records, stored = await side.stored()
    return {"records": records, "bytes": stored, "messages": await side.messages()}


async def due_at_once(
    stage: Stage, side: Side, runs: list[Run], *, released: Callable[[], None] = lambda: None
) -> float:
    """Stops a second; `released` is called when they begin.

    While the side holds its writes back, the last binding of every canceled run goes.
    """
    await each(stage.world.cancel, runs)
    await each(lambda run: stage.world.leave(run, STEPS[1:]), runs)
    await stage.rest()
    side.hold()
    await each(lambda run: stage.world.leave(run, STEPS[:1]), runs)
    await stage.gone(runs)
    await side.heard(len(runs))
    began = Moment.now()
    released()
    side.release()
    return await _rate(stage, runs, began)


async def _canceled_at_once(stage: Stage, runs: list[Run]) -> float:
    """Stops a second, from the first cancel on, of runs whose topology is gone before."""
    await each(stage.world.leave, runs)
    await stage.gone(runs)
    await stage.rest()
    since = Moment.now()
    await each(stage.world.cancel, runs)
    return await _rate(stage, runs, since)


async def _rate(stage: Stage, runs: list[Run], since: Moment) -> float:
    over = [*await stage.ended(runs), *await stage.cleaned_up(runs)]
    return len(runs) / (max(over).clock - since.clock)


def _rows(figures: Figures, runs: int) -> list[Row]:
    """A loop does alone what the services share."""
    peaks = {side: found for side, found in figures["peak"].items() if side not in (FLOOR, LOOKING)}
    return [
        compared(f"{runs} stops due at once", "/s", figures["due"], of=FLOOR, at_least=0.95),
        compared(f"{runs} cancels at once, gone before", "/s", figures["canceled"], of=FLOOR, at_least=0.85),
        compared("CPU of a stop, all services", "ms", figures["CPU all"], of=AGAINST, at_most=0.5),
        *(compared(f"CPU of a stop, {service}", "ms", figures[f"CPU {service}"]) for service in SERVICES),
        compared("terminator's peak in the storm", "MiB", peaks, at_most=64),
        compared("stored of a stop in RUNS", "bytes", figures["bytes"], at_most=4096),
        compared("records of a stop in RUNS", "", figures["records"]),
        compared("messages to nats-server of a stop", "", figures["messages"]),
    ]
