"""What telemetry costs: stops without any, with metrics, with traces, and while the collector is in trouble.

The floor of a stop's CPU is that of the same services with all telemetry turned off, that of its latency the bare loop.
"""

import os
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from actors.collector import Collector
from bench import latency
from bench.report import Row
from bench.stage import Stage
from exeunt_local.mesh import SERVICES, Mesh

_TICK: Final = os.sysconf("SC_CLK_TCK")


async def measure(stage: Stage, *, runs: int, warm_up: int) -> list[Row]:
    """Starts the services of the stage anew for each figure."""
    off, _ = await _played(stage, "off", {"OTEL_SDK_DISABLED": "true"}, runs, warm_up)
    metrics, _ = await _played(stage, "metrics", {}, runs, warm_up)
    async with Collector() as collector:
        traces, takes = await _played(stage, "takes", _exporting_to(collector), runs, warm_up)
    async with Collector("hangs") as collector:
        _, hangs = await _played(stage, "hangs", _exporting_to(collector), runs, warm_up)
    async with Collector("refuses") as collector:
        _, refuses = await _played(stage, "refuses", _exporting_to(collector), runs, warm_up)
    _, away = await _played(stage, "away", _exporting_to(Collector()), runs, warm_up)
    return [
        Row(what="CPU of a stop, with metrics", unit="ms", floor=off, exeunt=metrics, at_most=1.03),
        Row(what="CPU of a stop, with metrics and traces", unit="ms", floor=off, exeunt=traces),
        *(
            replace(row, what=f"{row.what}, collector {does}")
            for does, row in (("takes", takes), ("hangs", hangs), ("refuses", refuses), ("away", away))
        ),
    ]


async def _played(stage: Stage, name: str, env: dict[str, str], runs: int, warm_up: int) -> tuple[float, Row]:
    """Milliseconds of CPU of the three services for one stop, and the first figure of its latency."""
    await stage.restart(**env)
    await latency.measure(stage, runs=warm_up, warm_up=0, prefix=f"{name}-warm-up-")
    before = _cpu(stage.mesh)
    first, *_ = await latency.measure(stage, runs=runs, warm_up=0, prefix=f"{name}-")
    await stage.rest()
    return 1000 * (_cpu(stage.mesh) - before) / (2 * runs), first


def _exporting_to(collector: Collector) -> dict[str, str]:
    """As in a cluster: in batches, not at once as tests want it."""
    return {key: value for key, value in collector.env.items() if not key.endswith(("_DELAY", "_INTERVAL"))}


def _cpu(mesh: Mesh) -> float:
    """Seconds that the three services have spent on a processor so far."""

    def of(service: str) -> float:
        fields = Path(f"/proc/{mesh.pid(service)}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    return sum(map(of, SERVICES))
