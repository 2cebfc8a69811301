"""How late a shutdown deadline is: "Finished" as the observer sees it, against cancel_observed_at + shutdown timeout.

Nobody leaves these calls, so that nothing but their deadlines ends them.
"""

from datetime import timedelta

from bench.report import Row, percentile
from bench.stage import EXEUNT, Stage
from bench.world import each
from exeunt.clock import format_duration, parse_duration

_FIRST = timedelta(seconds=3)
"""From a cancel to the first deadline: longer than it takes to cancel all of the runs."""


async def measure(stage: Stage, *, runs: int, spread: timedelta) -> list[Row]:
    """Deadlines that are spread evenly."""
    timeouts = [format_duration(_FIRST + spread * number / runs) for number in range(runs)]
    started = await stage.world.start(EXEUNT, "deadline", timeouts)
    await stage.rest()
    observations = await each(stage.world.cancel, started)
    ends = await stage.ended(started)
    late = [
        (end.wall - cancel_observed_at - parse_duration(run.shutdown_timeout)) / timedelta(milliseconds=1)
        for run, cancel_observed_at, end in zip(started, observations, ends, strict=True)
    ]
    return [
        Row(what=f"lateness of {runs} deadlines, least", unit="ms", exeunt=min(late), at_least=0),
        Row(what="lateness, p50", unit="ms", exeunt=percentile(late, 50)),
        Row(what="lateness, p99", unit="ms", exeunt=percentile(late, 99), at_most=20),
        Row(what="lateness, most", unit="ms", exeunt=max(late)),
    ]
