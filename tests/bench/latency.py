"""How long one stop takes, nothing else going on: from what makes it due to "Finished", both as the observer sees them.

One run at a time, and the sides in turn.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from bench.observer import Moment, Sighting
from bench.report import Row, compared, percentile
from bench.sides import FLOOR, LOOKING, Side
from bench.stage import Stage
from bench.world import Run

_PAUSE: Final = 0.02
"""Seconds in which what the first half of a stop has set off comes to rest, before the second half is measured."""

Took = dict[str, list[float]]
"""Milliseconds of each run, by side."""


async def measure(
    stage: Stage, turns: Callable[[int], list[Side]], *, runs: int, warm_up: int, rounds: int = 1, prefix: str = ""
) -> list[Row]:
    """Both orders of a stop, canceled and then gone, gone and then canceled: so many runs a side in each round."""
    world, gone, canceled = stage.world, [], []
    for number in range(rounds):
        sides, spare = turns(number), 0 if number else warm_up
        # A list that waits for the watch cache holds the next one up for what is left of 100 ms, whosever it is.
        blind = [side for side in sides if side.name != LOOKING]
        gone.append(
            await _in_turn(
                stage, sides, f"{prefix}left-{number}", runs, spare, world.cancel, world.leave, lambda seen: seen.gone
            )
        )
        canceled.append(
            await _in_turn(
                stage,
                blind,
                f"{prefix}canceled-{number}",
                runs,
                spare,
                world.leave,
                world.cancel,
                lambda seen: seen.observed_cancel,
            )
        )
    return [
        *_rows("gone -> Finished", gone, at_most=(1.2, 1.4)),
        *_rows("cancel_observed_at -> Finished", canceled, at_most=(None, None)),
    ]


async def _in_turn(
    stage: Stage,
    sides: list[Side],
    prefix: str,
    runs: int,
    warm_up: int,
    prepare: Callable[[Run], Awaitable[object]],
    act: Callable[[Run], Awaitable[object]],
    due: Callable[[Sighting], asyncio.Future[Moment]],
) -> Took:
    started = [await stage.start(side.name, prefix, warm_up + runs) for side in sides]
    took: Took = defaultdict(list)
    await stage.rest()
    for turn in zip(*started, strict=True):
        for run in turn:
            await prepare(run)
            await asyncio.sleep(_PAUSE)
            await act(run)
            (ended,) = await stage.ended([run])
            since = due(stage.observer.of(run.key)).result()
            took[run.namespace].append(1000 * (ended.clock - since.clock))
    return {side: each[warm_up:] for side, each in took.items()}


def _rows(what: str, rounds: list[Took], *, at_most: tuple[float | None, float | None]) -> list[Row]:
    """The median of the rounds' medians; but of all rounds' runs together the p99, of which a round has too few."""
    medians: Took = defaultdict(list)
    together: Took = defaultdict(list)
    for each in rounds:
        for side, took in each.items():
            medians[side].append(percentile(took, 50))
            together[side] += took
    slowest = {side: [percentile(took, 99)] for side, took in together.items()}
    return [
        compared(f"{what}, p50", "ms", medians, of=FLOOR, at_most=at_most[0]),
        compared(f"{what}, p99", "ms", slowest, of=FLOOR, at_most=at_most[1]),
    ]
