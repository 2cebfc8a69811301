"""The soak: rounds of faults on real parts, after each of which every promise is checked. `make soak` runs it.

`plan` says what happens when, which the seed decides alone; `stage` runs the real parts, `people` and `faults` act on
them, `witness` reads what became of it from the objects and the streams, and `promises` judges. What machines make of
one plan is never quite the same twice: a seed that has broken a promise is worth several tries.
"""

import asyncio
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a folder, it does not see `actors` and itself

from exeunt.errors import ExeuntError
from exeunt.settings import Settings
from exeunt.telemetry.logs import configure_logs
from soak import report
from soak.plan import KINDS, plan
from soak.rounds import Ended, play_round
from soak.stage import stage

_ROUND = 120.0
"""Seconds of faults in a round."""

app = App(
    name="soak", help="Has faults happen to Exeunt while it ends runs, and checks what it promises.", version_flags=[]
)


@app.default
def soak(
    *,
    minutes: float = 10,
    seed: int | None = None,
    faults: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = KINDS,
) -> None:
    """Play rounds and print tables; ends with 1 when a promise is broken.

    Parameters
    ----------
    minutes
        For so long new rounds are begun.
    seed
        Decides what happens; a new one unless it is given.
    faults
        Only these kinds.
    """
    configure_logs(Settings(log_level="error"), service="soak", stream=sys.stderr)
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # that NATS is away is no news here
    seed = random.randrange(1_000_000) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="exeunt-soak-"))
    ended = asyncio.run(_play(folder, seed, minutes, faults))
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    report.show(
        console, [run for each in ended for run in each.runs], [fault for each in ended for fault in each.faults]
    )
    console.print()
    console.print(
        f"Seed {seed}, {len(ended)} rounds, {os.cpu_count()} cores, the load at the end {os.getloadavg()[0]:.1f}."
    )
    if found := [promise for each in ended for promise in each.broken]:
        console.print(f"{len(found)} promises broken; the logs are in {folder}:")
        for promise in found:
            console.print(f"  {promise}", markup=False)
        sys.exit(1)
    console.print("All promises kept.")
    shutil.rmtree(folder)


async def _play(folder: Path, seed: int, minutes: float, kinds: tuple[str, ...]) -> list[Ended]:
    """Until the time is over, or a promise is broken."""
    ended: list[Ended] = []
    _say(f"seed {seed}; starting etcd, kube-apiserver, three nats-servers and two of each service ...")
    async with stage(folder) as on:
        until = time.monotonic() + 60 * minutes
        while (left := until - time.monotonic()) > 0 and not (ended and ended[-1].broken):
            planned = plan(seed, len(ended), min(_ROUND, max(20.0, left)), kinds)
            _say(f"round {len(ended)}: {len(planned.stops)} runs, {len(planned.faults)} faults")
            ended.append(await play_round(on, len(ended), planned, _say))
            _say(f"round {len(ended) - 1}: {len(ended[-1].broken)} promises broken")
    return ended


def _say(line: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S}  {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        app()
    except ExeuntError as error:
        sys.stderr.write(f"soak: {error}\n")
        sys.exit(1)
