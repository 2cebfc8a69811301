"""The benchmark: what Exeunt costs beside a bare loop that does the same writes. `make bench` runs it.

`stage` runs the real parts, `floor` is the bare loop, `observer` sees both sides with the same eyes; `latency`,
`storm`, `deadlines`, `rooms` (real calls, with `room_floor`), `telemetry` and `replay` measure, `report` shows. A
figure is worth what its floor of the same run is worth: another machine, or a busy one, moves both.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from cyclopts import App
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a folder, it does not see `actors` and itself

from bench import deadlines, latency, replay, report, rooms, storm, telemetry
from bench.stage import Stage, stage
from exeunt.errors import ExeuntError
from exeunt.settings import Settings
from exeunt.telemetry.logs import configure_logs
from exeunt_local import binaries


class Size(NamedTuple):
    """How much is measured."""

    latency: int
    warm_up: int
    storm: int
    rounds: int
    deadlines: int
    spread: timedelta
    calls: int
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
    calls=15,
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
    calls=2,
    telemetry=2,
    replayed=100,
    stream=1_000,
    settings={},
)

Part = Literal["latency", "storm", "deadlines", "rooms", "telemetry", "replay"]

app = App(name="bench", help="Measures Exeunt against a bare loop on this machine.", version_flags=[])


@app.default
def bench(*, quick: bool = False, only: Part | None = None, json: Path | None = None) -> None:
    """Measure and print a table.

    Parameters
    ----------
    quick
        Small numbers: shows that it works, and no more.
    only
        One part of it, with what it needs.
    json
        A file for the figures.
    """
    configure_logs(Settings(log_level="warning"), service="bench", stream=sys.stderr)
    load = os.getloadavg()[0]
    rows = asyncio.run(_measure(QUICK if quick else FULL, only))
    report.show(Console(highlight=False, soft_wrap=True), rows, load=load)
    if json is not None:
        report.write_json(json, rows, load=load)


async def _measure(size: Size, only: Part | None) -> list[report.Row]:
    progress = Console(stderr=True, highlight=False, soft_wrap=True, style="dim")
    found: list[report.Row] = []
    if only != "replay":
        livekit_server = await binaries.prepare_livekit()
        with tempfile.TemporaryDirectory(prefix="exeunt-bench-") as folder:
            progress.print("Starting etcd, kube-apiserver, nats-server, the services and the floor ...")
            async with stage(Path(folder), **size.settings) as on:
                for part, (title, measure) in _on_stage(on, livekit_server, size).items():
                    if only in (None, part):
                        progress.print(f"{title} ...")
                        found += await measure()
    if only in (None, "replay"):
        progress.print(f"Replay: {size.replayed} events, and one run in a stream of {size.stream} ...")
        found += await replay.measure(await binaries.find(), events=size.replayed, stream=size.stream)
    return found


def _on_stage(
    on: Stage, livekit_server: Path, size: Size
) -> dict[Part, tuple[str, Callable[[], Awaitable[list[report.Row]]]]]:
    """What is measured there, in this order."""
    stops = size.storm // 2
    return {
        "latency": (
            f"Latency: {size.latency} runs a side, in both orders",
            partial(latency.measure, on, runs=size.latency, warm_up=size.warm_up),
        ),
        "storm": (
            f"Storms: {size.rounds} times {size.storm} stops a side, and as many cancels",
            partial(storm.measure, on, runs=size.storm, rounds=size.rounds),
        ),
        "deadlines": (
            f"Deadlines: {size.deadlines}",
            partial(deadlines.measure, on, runs=size.deadlines, spread=size.spread),
        ),
        "rooms": (
            f"Rooms: {size.calls} real calls a side",
            partial(rooms.measure, on, livekit_server, calls=size.calls),
        ),
        "telemetry": (
            f"Telemetry: {3 * size.rounds} times {stops} stops, {size.telemetry} runs a side four times",
            partial(telemetry.measure, on, stops=stops, rounds=size.rounds, runs=size.telemetry, warm_up=size.warm_up),
        ),
    }


if __name__ == "__main__":
    try:
        app()
    except ExeuntError as error:
        sys.stderr.write(f"bench: {error}\n")
        sys.exit(1)
