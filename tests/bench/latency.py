"""How long one stop takes, nothing else going on: from what makes it due to "Finished", both as the observer sees them.

One run at a time, the floor's and Exeunt's in turn.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from bench.observer import Moment, Sighting
from bench.report import Row, percentile
from bench.stage import EXEUNT, FLOOR, SIDES, Stage
from bench.world import Run

_PAUSE: Final = 0.02
"""Seconds in which what the first half of a stop has set off comes to rest, before the second half is measured."""


async def measure(stage: Stage, *, runs: int, warm_up: int, prefix: str = "") -> list[Row]:
    """Both orders of a stop: canceled and then gone, gone and then canceled."""
    world, left, canceled_ = stage.world, f"{prefix}left", f"{prefix}canceled"
    gone = await _in_turn(stage, left, runs, warm_up, world.cancel, world.leave, lambda seen: seen.gone)
    canceled = await _in_turn(
        stage, canceled_, runs, warm_up, world.leave, world.cancel, lambda seen: seen.observed_cancel
    )
    return [*_rows("gone -> Finished", gone), *_rows("cancel_observed_at -> Finished", canceled)]


async def _in_turn(
    stage: Stage,
    prefix: str,
    runs: int,
    warm_up: int,
    prepare: Callable[[Run], Awaitable[object]],
    act: Callable[[Run], Awaitable[object]],
    due: Callable[[Sighting], asyncio.Future[Moment]],
) -> dict[str, list[float]]:
    """Milliseconds of each run, by side."""
    started = [await stage.start(side, prefix, warm_up + runs) for side in SIDES]
    took: dict[str, list[float]] = {side: [] for side in SIDES}
    await stage.rest()
    for pair in zip(*started, strict=True):
        for run in pair:
            await prepare(run)
            await asyncio.sleep(_PAUSE)
            await act(run)
            (ended,) = await stage.ended([run])
            since = due(stage.observer.of(run.key)).result()
            took[run.namespace].append(1000 * (ended.clock - since.clock))
    return {side: each[warm_up:] for side, each in took.items()}


def _rows(what: str, took: dict[str, list[float]]) -> list[Row]:
    return [
        Row(
            what=f"{what}, p{percent}",
            unit="ms",
            floor=percentile(took[FLOOR], percent),
            exeunt=percentile(took[EXEUNT], percent),
            at_most=at_most,
        )
        for percent, at_most in ((50, 2), (99, 3))
    ]
