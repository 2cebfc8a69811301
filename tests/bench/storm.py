"""How many stops a second: when hundreds are due at once, and when hundreds of cancels come in.

What makes a stop due here and in `latency` is that the run's TransportBindings are deleted, which a bare watch sees,
too. A real call ends by the bridge's word, as those of most tests do: `rooms` measures that way.

A stop is over when the run is seen Finished and its StepRuns are seen deleted. The floor works on as many stops at once
as the terminator does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from statistics import median

from actors.bystander import Bystander
from bench.observer import Moment
from bench.report import Row
from bench.stage import EXEUNT, FLOOR, SIDES, Stage, within
from bench.world import STEPS, Run, each
from exeunt.events.event_types import EventType

_POLL = 0.02


async def measure(stage: Stage, *, runs: int, rounds: int) -> list[Row]:
    """Stops that are due at once, `rounds` times for each side in turn; then the whole way from the cancels on."""
    due: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES:
            due[side].append(await due_at_once(stage, await stage.start(side, f"due-{number}", runs)))
    canceled = {side: await _canceled_at_once(stage, await stage.start(side, "storm", runs)) for side in SIDES}
    return [
        Row(
            what=f"{runs} stops due at once",
            unit="/s",
            floor=median(due[FLOOR]),
            exeunt=median(due[EXEUNT]),
            at_least=0.8,
        ),
        Row(what=f"{runs} cancels at once", unit="/s", floor=canceled[FLOOR], exeunt=canceled[EXEUNT]),
    ]


async def due_at_once(stage: Stage, runs: list[Run], *, released: Callable[[], None] = lambda: None) -> float:
    """Stops a second; `released` is called when they begin.

    While the side holds its writes back, the last binding of every canceled run goes.
    """
    side, streams = runs[0].namespace, stage.bystander
    cancels = await _cancels(streams)
    await each(stage.world.cancel, runs)
    await each(lambda run: stage.world.leave(run, STEPS[1:]), runs)
    if side == EXEUNT:
        await _until(_cancels, streams, cancels + len(runs))
    await stage.rest()
    stage.hold[side]()
    await each(lambda run: stage.world.leave(run, STEPS[:1]), runs)
    await stage.gone(runs)
    if side == EXEUNT:
        await _until(_unanswered, streams, len(runs))
    began = Moment.now()
    released()
    stage.release[side]()
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


async def _cancels(bystander: Bystander) -> int:
    """How many cancels were published so far; to be answered."""
    subjects = f"exeunt.runs.{EXEUNT}.*.*.*.{EventType.CANCEL_REQUESTED}"
    info = await bystander.streams.stream_info("RUNS", subjects_filter=subjects)
    return sum((info.state.subjects or {}).values())


async def _unanswered(bystander: Bystander) -> int:
    """How many events are waiting for the terminator's answer."""
    info = await bystander.streams.consumer_info("RUNS", "terminator")
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def _until(count: Callable[[Bystander], Awaitable[int]], bystander: Bystander, wanted: int) -> None:
    async def counting() -> None:
        while await count(bystander) < wanted:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(_POLL)

    await within(counting())
