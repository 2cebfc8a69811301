"""The benchmark: what Exeunt costs beside a bare loop that does the same writes, another build, and peers.

`make bench` runs it. `stage` runs the real parts, `sides` take turns on them (`floor` is the bare loop, `builds` finds
another build, `peers` are loops as others would write them), `observer` sees all with the same eyes and `accounts` are
the operating system's; `parts` says what is measured, `report` shows. A figure is worth what its floor of the same run
is worth: another machine, or a busy one, moves both.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from cyclopts import App
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a folder, it does not see `actors` and itself

from bench import builds, parts, report
from bench.parts import FULL, QUICK, Part, Size
from bench.peers import install
from bench.stage import stage
from exeunt.errors import ExeuntError
from exeunt.settings import Settings
from exeunt.telemetry.logs import configure_logs
from exeunt_local import binaries

_WIDTH = 200
"""Columns of the table where nobody tells."""

app = App(name="bench", help="Measures Exeunt against a bare loop on this machine.", version_flags=[])


@app.default
def bench(
    *,
    quick: bool = False,
    only: tuple[Part, ...] = (),
    against: str | None = None,
    peers: bool = True,
    rounds: int | None = None,
    storm: int | None = None,
    finished: int | None = None,
    live: int | None = None,
    json: Path | None = None,
    markdown: Path | None = None,
) -> None:
    """Measure and print a table.

    Parameters
    ----------
    quick
        Small numbers: shows that it works, and no more.
    only
        These parts of it, with what they need.
    against
        Another build that takes turns with this one: a commit of this repository, or an installed checkout. Parts
        that hold nothing against it are left out, unless `--only` names them.
    peers
        Whether peers take turns, too. They are installed from PyPI the first time; without it they are left out.
    rounds
        How many rounds, eight unless told otherwise (four where they are long).
    storm
        How many runs a storm has.
    finished
        How many finished runs are in the crowd.
    live
        How many live calls are watched; half as many are canceled ones that wait.
    json
        A file for the figures.
    markdown
        A file for the table, as docs/performance.md has it.
    """
    configure_logs(Settings(log_level="warning"), service="bench", stream=sys.stderr)
    load = os.getloadavg()[0]
    size = QUICK if quick else FULL
    size = size._replace(storm=storm or size.storm, finished=finished or size.finished)
    if live:
        size = size._replace(live=live, waiting=live // 2)
    if rounds:
        size = size._replace(rounds=rounds, crowd_rounds=rounds, peer_rounds=min(rounds, size.peer_rounds))
    chosen = only or (parts.COMPARED if against else parts.ALL)
    wanted = tuple(part for part in parts.ALL if part in chosen)
    rows = asyncio.run(_measure(size, wanted, against, peers=peers))
    wide = None if sys.stdout.isatty() else _WIDTH
    named = against and Path(against).name
    report.show(Console(highlight=False, width=wide), rows, load=load, against=named)
    if markdown is not None:
        report.write_markdown(markdown, rows, load=load, against=named)
    if json is not None:
        report.write_json(json, rows, load=load)


async def _measure(size: Size, wanted: tuple[Part, ...], against: str | None, *, peers: bool) -> list[report.Row]:
    progress = Console(stderr=True, highlight=False, soft_wrap=True, style="dim")
    found: list[report.Row] = []
    if on_stage := [part for part in wanted if part not in parts.ALONE]:
        other = await builds.find(against) if against else None
        python = None
        if peers and any(part in parts.WITH_PEERS for part in on_stage):
            try:
                python = await install.python()
            except install.PeersMissing as error:
                progress.print(f"Without the peers: {error}")
        livekit_server = await binaries.prepare_livekit() if "rooms" in on_stage else None
        with tempfile.TemporaryDirectory(prefix="exeunt-bench-") as folder:
            progress.print("Starting etcd, kube-apiserver, nats-server, the services and those beside them ...")
            async with stage(Path(folder), against=other, peers=python, settings=size.settings) as on:
                for part in on_stage:
                    title, measure = parts.on_stage(on, livekit_server, size)[part]
                    progress.print(f"{title} ...")
                    found += await measure()
    for part in (part for part in wanted if part in parts.ALONE):
        title, measure = parts.alone(await binaries.find(), size)[part]
        progress.print(f"{title} ...")
        found += await measure()
    return found


if __name__ == "__main__":
    try:
        app()
    except ExeuntError as error:
        sys.stderr.write(f"bench: {error}\n")
        sys.exit(1)
