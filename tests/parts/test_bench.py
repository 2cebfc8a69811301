"""The benchmark runs and reports. What it measures is no test: a busy machine would fail it."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.names import CANCEL_OBSERVED_AT
from actors.statuses import unfinished
from bench.peers.stops import finalizing_patch as peers_patch
from bench.report import compared
from bench.rooms import Took, rows
from bench.sides import AGAINST, EXEUNT, FLOOR, KOPF, LOOKING, WATCH
from exeunt.clock import format_instant
from exeunt.kube.resources import STORY_RUNS
from exeunt.run.snapshot import read_run
from exeunt_terminator.finalize import finalizing_patch as terminators_patch

BENCH = Path(__file__).parents[1] / "bench"


HELD_AGAINST_THE_FLOOR = [
    "gone -> Finished, p50",
    "gone -> Finished, p99",
    "cancel_observed_at -> Finished, p50",
    "cancel_observed_at -> Finished, p99",
    "10 stops due at once",
    "10 cancels at once, gone before",
    "CPU of a stop, all services",
    "webhook in -> Finished, p50",
    "webhook in -> Finished, less pause, p50",
    "leave() -> webhook in, LiveKit's, p50",
    "services' CPU of a stop, metrics",
    "services' CPU of a stop, traces too",
    "gone -> Finished, p50, collector takes",
    "gone -> Finished, p50, collector hangs",
    "gone -> Finished, p50, collector refuses",
    "gone -> Finished, p50, collector away",
    "one run out of 1000 events",
    "idle, all together, resident",
    "watcher, each of 50 live calls",
]
OF_EXEUNT_ONLY = [
    "idle watcher, resident",
    "idle terminator, resident",
    "idle timeout-scheduler, resident",
    "idle, CPU of all services a second",
    "CPU of a stop, watcher",
    "CPU of a stop, terminator",
    "CPU of a stop, timeout-scheduler",
    "terminator's peak in the storm",
    "stored of a stop in RUNS",
    "records of a stop in RUNS",
    "messages to nats-server of a stop",
    "lateness of 5 deadlines, least",
    "lateness, p50",
    "lateness, p99",
    "lateness, most",
    "kube-apiserver's CPU of a stop, 10 StepRuns",
    "kube-apiserver's CPU of a stop, 100 StepRuns",
    "kube-apiserver's CPU of a stop, 100 to 10",
    "requests to the kube-apiserver of a stop",
    "watcher, CPU from start to ready, 50 calls",
    "watcher, CPU a second, 20 stops waiting",
    "leave() -> Finished, p50",
    "replay --check of 100 events",
]
OF_PEERS = ["gone -> Finished, p50", "10 stops due at once", "idle, all together, resident", "lateness, p50"]


async def measured(folder: Path, *options: str) -> tuple[dict[str, dict[str, Any]], str, str]:
    """The figures of a quick run by what they are of, the table, and what was said meanwhile."""
    report = folder / "report.json"
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, str(BENCH), "--quick", "--json", str(report), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(900):
            table, said = await bench.communicate()
    finally:
        if bench.returncode is None:
            bench.kill()
            await bench.wait()
    assert bench.returncode == 0, said.decode()
    return {row["what"]: row for row in json.loads(report.read_text())["rows"]}, table.decode(), said.decode()


@pytest.mark.usefixtures("servers")
@pytest.mark.timeout(930)
async def test_a_quick_run_reports_every_figure(tmp_path: Path) -> None:
    rows, table, said = await measured(tmp_path)
    assert sorted(rows) == sorted(HELD_AGAINST_THE_FLOOR + OF_EXEUNT_ONLY)
    for what, row in rows.items():
        assert what in table
        small = "CPU" in what or "live calls" in what  # too small to be told, in a quick run
        assert row["exeunt"] > 0 or small  # also the least lateness: never early
        assert (row["floor"] is None) == (what in OF_EXEUNT_ONLY)
        assert row["ratio"] is None or small or row["ratio"] == pytest.approx(row["exeunt"] / row["floor"])
    if "Without the peers" not in said:  # they come from PyPI
        for what in OF_PEERS:
            assert rows[what]["others"].keys() - {LOOKING} == {KOPF, WATCH}
            assert all(figure > 0 for figure in rows[what]["others"].values())


@pytest.mark.usefixtures("servers")
@pytest.mark.timeout(930)
async def test_another_build_takes_turns(tmp_path: Path) -> None:
    """Here it is this one, which is installed already."""
    only = ("--only", "idle", "--only", "storm")
    rows, table, _ = await measured(tmp_path, "--against", str(BENCH.parents[1]), "--no-peers", *only)
    for what in ("idle watcher, resident", "10 stops due at once", "stored of a stop in RUNS"):
        assert rows[what]["others"].keys() - {LOOKING} == {AGAINST}
        assert rows[what]["others"][AGAINST] > 0
        assert rows[what]["ratios"][AGAINST] == pytest.approx(rows[what]["exeunt"] / rows[what]["others"][AGAINST])
    assert f"to {BENCH.parents[1].name}" in table


def test_a_round_is_compared_with_its_own() -> None:
    """What slows a round down moves both of its figures, and a ratio does not see it."""
    row = compared("a stop", "ms", {FLOOR: [10, 40, 11], EXEUNT: [12, 48, 11]}, of=FLOOR, at_most=1.2)
    assert (row.floor, row.exeunt) == (11, 12)
    assert row.ratio() == pytest.approx(1.2)
    assert row.met
    alone = compared("a stop", "ms", {EXEUNT: [12]}, of=AGAINST, at_most=0.5)
    assert (alone.ratio(AGAINST), alone.met) == (None, None)


def test_peers_write_what_exeunt_writes() -> None:
    """Else they would be no peers."""
    started, now = datetime.now(UTC) - timedelta(minutes=2, seconds=3), datetime.now(UTC)
    run = {
        "metadata": {
            "name": "call",
            "uid": "1",
            "namespace": "voice",
            "generation": 2,
            "resourceVersion": "7",
            "annotations": {CANCEL_OBSERVED_AT: format_instant(now)},
        },
        "spec": {"storyRef": {"name": "call"}, "cancelRequested": True},
        "status": unfinished("Running", 1, f"{started:%Y-%m-%dT%H:%M:%SZ}"),
    }
    state = read_run(
        STORY_RUNS.decode(msgspec.json.encode(run)), first_seen=now, now=now, fence_wait=timedelta(minutes=1)
    )
    while True:  # both read the clock, in whole seconds
        ours = msgspec.json.decode(terminators_patch(state, datetime.now(UTC)))
        theirs = peers_patch(run)
        if terminators_patch(state, datetime.now(UTC)) == msgspec.json.encode(ours):
            break
    assert sorted(theirs, key=_by_path) == sorted(ours, key=_by_path)


def _by_path(operation: dict[str, Any]) -> tuple[str, str]:
    return operation["op"], operation["path"]


@pytest.mark.parametrize(("slowest", "met"), [(240, True), (241, False)])
def test_real_calls_are_judged_by_what_comes_after_the_webhook(slowest: float, *, met: bool) -> None:
    """However long LiveKit takes to say so."""
    took = {
        FLOOR: [Took(10, 50), Took(10, 60), Took(10, 70)],
        EXEUNT: [Took(800, 80), Took(900, slowest), Took(1000, 500)],
    }
    judged, without_pause, livekit, whole = rows(took)
    assert judged.met is met
    assert judged.ratio() == pytest.approx(slowest / 60)
    assert (without_pause.floor, without_pause.exeunt) == (10, slowest - 50)
    assert (livekit.floor, livekit.exeunt) == (10, 900)
    assert (whole.exeunt, whole.met) == (900 + slowest, False)
