"""How late a shutdown deadline is: "Finished" as the observer sees it, against cancel_observed_at + shutdown timeout.

Nobody leaves these calls, so that nothing but their deadlines ends them. The floor knows no deadlines.
"""

from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta

from bench.report import Row, compared, percentile
from bench.sides import FLOOR, Side
from bench.stage import Stage
from bench.world import each
from exeunt.clock import format_duration, parse_duration

_FIRST = timedelta(seconds=3)
"""From a cancel to the first deadline: longer than it takes to cancel all of the runs."""


async def measure(
    stage: Stage, turns: Callable[[int], list[Side]], *, runs: int, spread: timedelta, rounds: int
) -> list[Row]:
    """So many deadlines a side in each round, spread evenly."""
    late: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for side in turns(number):
            if side.name != FLOOR:
                late[side.name] += await _late(stage, side, f"deadline-{number}", runs, spread)
    figures = {
        "least": {side: [min(found)] for side, found in late.items()},
        "p50": {side: [percentile(found, 50)] for side, found in late.items()},
        "p99": {side: [percentile(found, 99)] for side, found in late.items()},
        "most": {side: [max(found)] for side, found in late.items()},
    }
    return [
        compared(f"lateness of {rounds * runs} deadlines, least", "ms", figures["least"], at_least=0),
        compared("lateness, p50", "ms", figures["p50"]),
        compared("lateness, p99", "ms", figures["p99"], at_most=10),
        compared("lateness, most", "ms", figures["most"]),
    ]


async def _late(stage: Stage, side: Side, prefix: str, runs: int, spread: timedelta) -> list[float]:
    """Milliseconds."""
    timeouts = [format_duration(_FIRST + spread * number / runs) for number in range(runs)]
    started = await stage.start_with(side.name, prefix, timeouts)
    await stage.rest()
    observations = await each(stage.world.cancel, started)
    ends = await stage.ended(started)
    return [
        (end.wall - cancel_observed_at - parse_duration(run.shutdown_timeout)) / timedelta(milliseconds=1)
        for run, cancel_observed_at, end in zip(started, observations, ends, strict=True)
    ]
