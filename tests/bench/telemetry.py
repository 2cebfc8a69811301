"""What telemetry costs: stops without any, with metrics, with traces, and while the collector is in trouble.

The floor of a stop's CPU is the same services with all telemetry turned off, that of its latency the bare loop.
"""

from pathlib import Path

from msgspec.structs import replace

from actors.collector import Collector
from bench import latency
from bench.report import Row
from bench.sides import EXEUNT, Side
from bench.stage import Stage
from bench.storm import due_at_once
from exeunt_local.mesh import SERVICES, Mesh


async def measure(stage: Stage, *, stops: int, rounds: int, runs: int, warm_up: int) -> list[Row]:
    """Starts the services of the stage anew for each figure."""
    without, metrics, traces = [], [], []
    async with Collector() as collector:
        for number in range(rounds):  # in turn, and the least of each: whatever else goes on only adds
            without.append(await _cpu_of_a_stop(stage, f"without-{number}", {"OTEL_SDK_DISABLED": "true"}, stops))
            metrics.append(await _cpu_of_a_stop(stage, f"metrics-{number}", {}, stops))
            traces.append(await _cpu_of_a_stop(stage, f"traces-{number}", _exporting_to(collector), stops))
        takes = await _latency(stage, "takes", collector, runs, warm_up)
    async with Collector("hangs") as collector:
        hangs = await _latency(stage, "hangs", collector, runs, warm_up)
    async with Collector("refuses") as collector:
        refuses = await _latency(stage, "refuses", collector, runs, warm_up)
    return [
        Row(what="services' CPU of a stop, metrics", unit="ms", floor=min(without), exeunt=min(metrics)),
        Row(what="services' CPU of a stop, traces too", unit="ms", floor=min(without), exeunt=min(traces)),
        takes,
        hangs,
        refuses,
        await _latency(stage, "away", Collector(), runs, warm_up),
    ]


async def _cpu_of_a_stop(stage: Stage, name: str, env: dict[str, str], stops: int) -> float:
    """Milliseconds of CPU of the three services together, when many stops are due at once."""
    await stage.exeunt.restart(**env)
    await due_at_once(stage, stage.exeunt, await stage.start(EXEUNT, f"{name}-warm-up", max(1, stops // 10)))
    runs = await stage.start(EXEUNT, name, stops)
    before = 0.0

    def begin() -> None:
        nonlocal before
        before = _cpu(stage.exeunt.mesh)

    await due_at_once(stage, stage.exeunt, runs, released=begin)
    spent = _cpu(stage.exeunt.mesh) - before
    await stage.rest()
    return 1000 * spent / stops


async def _latency(stage: Stage, does: str, collector: Collector, runs: int, warm_up: int) -> Row:
    """The first figure of `latency`, while the collector does that."""
    await stage.exeunt.restart(**_exporting_to(collector))

    def turns(_: int) -> list[Side]:
        return [stage.floor, stage.exeunt]

    await latency.measure(stage, turns, runs=warm_up, warm_up=0, prefix=f"{does}-warm-up-")
    first, *_ = await latency.measure(stage, turns, runs=runs, warm_up=0, prefix=f"{does}-")
    await stage.rest()
    return replace(first, what=f"{first.what}, collector {does}", of=None, at_most=None)


def _exporting_to(collector: Collector) -> dict[str, str]:
    """As in a cluster: in batches, not at once as tests want it."""
    return {key: value for key, value in collector.env.items() if not key.endswith(("_DELAY", "_INTERVAL"))}


def _cpu(mesh: Mesh) -> float:
    """Seconds that the threads of the three services have spent on a processor so far."""
    threads = [thread for service in SERVICES for thread in Path(f"/proc/{mesh.pid(service)}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
