"""The benchmark: what Exeunt costs beside a bare loop that does the same writes. `make bench` runs it.

`stage` runs the real parts, `floor` is the bare loop, `observer` sees both sides with the same eyes; `latency`,
`storm`, `deadlines`, `telemetry` and `replay` measure, `report` shows. A figure is worth what its floor of the same run
is worth: another machine, or a busy one, moves both.
"""

import asyncio
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from cyclopts import App
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a folder, it does not see `actors` and itself

from bench import deadlines, latency, replay, report, storm, telemetry
from bench.stage import stage
from exeunt.errors import ExeuntError
from exeunt.logs import configure_logs
from exeunt.settings import Settings
from exeunt_local import binaries


class Size(NamedTuple):
    """How much is measured."""

    latency: int
    warm_up: int
    storm: int
    rounds: int
    deadlines: int
    spread: timedelta
    telemetry: int
    replayed: int
    stream: int
    settings: dict[str, str]


FULL = Size(
    latency=200,
    warm_up=20,
    storm=600,
    rounds=3,
    deadlines=200,
    spread=timedelta(seconds=5),
    telemetry=100,
    replayed=10_000,
    stream=1_000_000,
    settings={},
)
QUICK = Size(
    latency=5,
    warm_up=2,
    storm=10,
    rounds=1,
    deadlines=5,
    spread=timedelta(seconds=0.25),
    telemetry=2,
    replayed=100,
    stream=1_000,
    settings={"EXEUNT_SECOND_LOOK": "200ms"},  # nothing is measured before they are over
)

app = App(name="bench", help="Measures Exeunt against a bare loop on this machine.", version_flags=[])


@app.default
def bench(*, quick: bool = False, json: Path | None = None) -> None:
    """Measure and print a table.

    Parameters
    ----------
    quick
        Small numbers: shows that it works, and no more.
    json
        A file for the figures.
    """
    configure_logs(Settings(log_level="warning"), service="bench", stream=sys.stderr)
    load = os.getloadavg()[0]
    rows = asyncio.run(_measure(QUICK if quick else FULL))
    report.show(Console(highlight=False, soft_wrap=True), rows, load=load)
    if json is not None:
        report.write_json(json, rows, load=load)


async def _measure(size: Size) -> list[report.Row]:
    progress = Console(stderr=True, highlight=False, soft_wrap=True, style="dim")
    with tempfile.TemporaryDirectory(prefix="exeunt-bench-") as folder:
        progress.print("Starting etcd, kube-apiserver, nats-server, the services and the floor ...")
        async with stage(Path(folder), **size.settings) as on:
            progress.print(f"Latency: {size.latency} runs a side, in both orders ...")
            rows = await latency.measure(on, runs=size.latency, warm_up=size.warm_up)
            progress.print(f"Storms: {size.rounds} times {size.storm} stops a side, and as many cancels ...")
            rows += await storm.measure(on, runs=size.storm, rounds=size.rounds)
            progress.print(f"Deadlines: {size.deadlines} ...")
            rows += await deadlines.measure(on, runs=size.deadlines, spread=size.spread)
            stops = size.storm // 2
            progress.print(
                f"Telemetry: {3 * size.rounds} times {stops} stops, {size.telemetry} runs a side four times ..."
            )
            rows += await telemetry.measure(
                on, stops=stops, rounds=size.rounds, runs=size.telemetry, warm_up=size.warm_up
            )
    progress.print(f"Replay: {size.replayed} events, and one run in a stream of {size.stream} ...")
    return rows + await replay.measure(await binaries.find(), events=size.replayed, stream=size.stream)


if __name__ == "__main__":
    try:
        app()
    except ExeuntError as error:
        sys.stderr.write(f"bench: {error}\n")
        sys.exit(1)
