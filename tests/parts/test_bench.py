"""The benchmark runs and reports. What it measures is no test: a busy machine would fail it."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from bench.rooms import Took, rows
from bench.stage import EXEUNT, FLOOR

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.usefixtures("servers")
@pytest.mark.timeout(330)
async def test_a_quick_run_reports_every_figure(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, str(BENCH), "--quick", "--json", str(report)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(300):
            table, complaints = await bench.communicate()
    finally:
        if bench.returncode is None:
            bench.kill()
            await bench.wait()
    assert bench.returncode == 0, complaints.decode()

    rows = {row["what"]: row for row in json.loads(report.read_text())["rows"]}
    assert list(rows) == [
        "gone -> Finished, p50",
        "gone -> Finished, p99",
        "cancel_observed_at -> Finished, p50",
        "cancel_observed_at -> Finished, p99",
        "10 stops due at once",
        "10 cancels at once",
        "lateness of 5 deadlines, least",
        "lateness, p50",
        "lateness, p99",
        "lateness, most",
        "webhook in -> Finished, p50",
        "webhook in -> Finished, less pause, p50",
        "leave() -> webhook in, LiveKit's, p50",
        "leave() -> Finished, p50",
        "services' CPU of a stop, metrics",
        "services' CPU of a stop, traces too",
        "gone -> Finished, p50, collector takes",
        "gone -> Finished, p50, collector hangs",
        "gone -> Finished, p50, collector refuses",
        "gone -> Finished, p50, collector away",
        "replay --check of 100 events",
        "one run out of 1000 events",
    ]
    for what, row in rows.items():
        assert what in table.decode()
        assert row["exeunt"] > 0  # also the least lateness: never early
        assert row["ratio"] is None or row["ratio"] == pytest.approx(row["exeunt"] / row["floor"])
        assert (row["floor"] is None) == what.startswith(("lateness", "replay", "leave() -> Finished"))


@pytest.mark.parametrize(("slowest", "met"), [(240, True), (241, False)])
def test_real_calls_are_judged_by_what_comes_after_the_webhook(slowest: float, *, met: bool) -> None:
    """However long LiveKit takes to say so."""
    took = {
        FLOOR: [Took(10, 50), Took(10, 60), Took(10, 70)],
        EXEUNT: [Took(800, 80), Took(900, slowest), Took(1000, 500)],
    }
    judged, without_pause, livekit, whole = rows(took)
    assert judged.met is met
    assert judged.ratio == pytest.approx(slowest / 60)
    assert (without_pause.floor, without_pause.exeunt) == (10, slowest - 50)
    assert (livekit.floor, livekit.exeunt) == (10, 900)
    assert (whole.exeunt, whole.met) == (900 + slowest, False)
