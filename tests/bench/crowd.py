"""What a stop costs the kube-apiserver: in a namespace with hardly anything else, and among a week of finished runs.

Nobody looks after these, and a stop should cost no more for them. Its CPU is counted from the moment that the services'
writes are let go to the end of second looks, less what it does at rest; requests are those of the services from the
cancels on.
"""

import asyncio
import re
import time
from collections import defaultdict
from typing import Final, NamedTuple

from bench.accounts import Account
from bench.report import Row, compared
from bench.sides import EXEUNT, Services, within
from bench.stage import Stage
from bench.storm import due_at_once
from bench.world import STEPS

_AT_ONCE: Final = 2_000
"""Runs that are copied before their watches are waited for."""
_REQUESTS: Final = re.compile(r"^apiserver_request_total\{(.*)\} ([\d.e+]+)$", re.MULTILINE)

Rounds = defaultdict[str, list[float]]
"""Figures of each round, by build."""


class Cost(NamedTuple):
    """Of one stop: milliseconds of the kube-apiserver, and requests other than watches."""

    cpu: float
    requests: float


async def measure(stage: Stage, *, finished: int, runs: int, rounds: int, rest: float) -> list[Row]:
    """With so many finished runs of two StepRuns; `rest` is how long the kube-apiserver is watched at rest, in s."""
    few: Rounds = defaultdict(list)
    many: Rounds = defaultdict(list)
    ratios: Rounds = defaultdict(list)
    requests: Rounds = defaultdict(list)
    crowds = {build.name: f"{build.name}-crowd" for build in stage.builds}
    for build in stage.builds:
        await _crowd(stage, crowds[build.name], finished)
        await build.restart(EXEUNT_NAMESPACES=f"{build.name},{crowds[build.name]}")
    for number in range(rounds):
        for build in stage.builds if number % 2 else reversed(stage.builds):
            costs: dict[str, Cost] = {}
            for namespace in (build.name, crowds[build.name])[:: 1 if number % 2 else -1]:
                costs[namespace] = await _cost(stage, build, namespace, f"crowd-{number}", runs, rest)
            alone, crowded = costs[build.name], costs[crowds[build.name]]
            few[build.name].append(alone.cpu)
            many[build.name].append(crowded.cpu)
            ratios[build.name].append(crowded.cpu / alone.cpu)
            requests[build.name].append(alone.requests)
    for build in stage.builds:
        await build.restart()
    assert EXEUNT in few
    what, here, there = "kube-apiserver's CPU of a stop", f"{len(STEPS) * runs}", f"{len(STEPS) * finished}"
    return [
        compared(f"{what}, {here} StepRuns", "ms", few),
        compared(f"{what}, {there} StepRuns", "ms", many),
        compared(f"{what}, {there} to {here}", "x", ratios, at_most=1.1),
        compared("requests to the kube-apiserver of a stop", "", requests),
    ]


async def _crowd(stage: Stage, namespace: str, finished: int) -> None:
    """Runs as bobrapet leaves them: their StepRuns are there for as long as the runs are."""
    await stage.add_namespace(namespace)
    (run,) = await stage.world.start(namespace, "finished", ["1h"])
    await stage.world.leave(run)
    await stage.world.finish(run)
    template = await stage.etcd.template(namespace, run.name, run.shutdown_timeout)
    names = [f"ended-{number}" for number in range(finished)]
    for first in range(0, finished, _AT_ONCE):
        some = names[first : first + _AT_ONCE]
        await stage.etcd.copy(template, ((name, run.shutdown_timeout) for name in some))
        await within(asyncio.gather(*(stage.observer.of((namespace, name)).ended for name in some)))


async def _cost(stage: Stage, build: Services, namespace: str, prefix: str, runs: int, rest: float) -> Cost:
    pid = stage.control_plane.apiserver_pid
    started = await stage.start(namespace, prefix, runs)
    await stage.rest()
    before = Account.of(pid).cpu
    await asyncio.sleep(rest)
    at_rest = (Account.of(pid).cpu - before) / rest
    requested, since = await _requests(stage), 0.0

    def released() -> None:
        nonlocal before, since
        before, since = Account.of(pid).cpu, time.monotonic()

    await due_at_once(stage, build, started, released=released)
    await build.rest(time.monotonic())
    spent = Account.of(pid).cpu - before - at_rest * (time.monotonic() - since)
    cancels = 1  # of each run, by the bench
    return Cost(1000 * spent / runs, (await _requests(stage) - requested) / runs - cancels)


async def _requests(stage: Stage) -> float:
    """Requests for runs and StepRuns so far, but for watches; and for bindings, but for the bench's DELETEs."""
    url = f"{stage.api.host}/metrics"
    async with stage.api.session.get(url, headers=stage.api.headers, raise_for_status=True) as response:
        text = await response.text()
    total = 0.0
    for labels, count in _REQUESTS.findall(text):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        ours = found["group"] == "runs.bubustack.io" or (
            found["group"] == "transport.bubustack.io" and found["verb"] != "DELETE"
        )
        total += float(count) if ours and found["verb"] != "WATCH" else 0
    return total
