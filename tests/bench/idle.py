"""What an idle process keeps in memory, and what it spends: services that have just been started, as in Pods.

They look after a namespace without runs, by their ServiceAccounts: what only a kubeconfig needs is not loaded.
"""

import asyncio
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from bench.accounts import MIB, Account, cpu
from bench.report import Row, compared
from bench.sides import EXEUNT, PATIENCE, Services
from bench.stage import Stage
from exeunt_local.mesh import SERVICES
from exeunt_local.processes import Process, free_port

_AS_POD: Final = Path(__file__).parent / "as_pod.py"
_EMPTY: Final = "nothing"


async def measure(stage: Stage, *, rounds: int, seconds: float) -> list[Row]:
    """Builds are started anew in each round; loops have done nothing yet, if this is measured first."""
    memory: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for build in stage.builds if number % 2 else reversed(stage.builds):
            async with _pods(stage, build) as pids:
                await asyncio.sleep(seconds)
                before = cpu(pids.values())
                await asyncio.sleep(seconds)
                spent[build.name].append(1000 * (cpu(pids.values()) - before) / seconds)
                for service, pid in pids.items():
                    memory[service][build.name].append(Account.of(pid).resident / MIB)
    for loop in (stage.floor, *stage.peers):
        for pid in loop.pids.values():
            memory["all"][loop.name].append(Account.of(pid).resident / MIB)
    for build in stage.builds:
        sums = zip(*(memory[service][build.name] for service in SERVICES), strict=True)
        memory["all"][build.name] = [sum(each) for each in sums]
    assert EXEUNT in spent
    return [
        *(compared(f"idle {service}, resident", "MiB", memory[service], at_most=42) for service in SERVICES),
        compared("idle, all together, resident", "MiB", memory["all"]),
        compared("idle, CPU of all services a second", "ms", spent),
    ]


@asynccontextmanager
async def _pods(stage: Stage, build: Services) -> AsyncIterator[dict[str, int]]:
    """Three more services of a build, ready; their process ids."""
    async with AsyncExitStack() as stack:
        pods = [await _pod(stage, build, service) for service in SERVICES]
        for pod in pods:
            await stack.enter_async_context(pod)
        yield {service: pod.pid or 0 for service, pod in zip(SERVICES, pods, strict=True)}


async def _pod(stage: Stage, build: Services, service: str) -> Process:
    mesh, control_plane = build.mesh, stage.control_plane
    folder = mesh.folder / "pods" / service
    folder.mkdir(parents=True, exist_ok=True)
    account = f"exeunt-{service}"
    await control_plane.kubeconfig_for(account, mesh.namespace, folder=folder)
    (folder / f"{account}.token").replace(folder / "token")
    shutil.copy(control_plane.ca, folder / "ca.crt")
    host, _, port = control_plane.url.removeprefix("https://").partition(":")
    address = f"127.0.0.1:{free_port()}"
    return Process(
        [mesh.python, _AS_POD, folder, f"exeunt_{service.replace('-', '_')}"],
        log=folder / "log",
        ready_url=f"http://{address}/readyz",
        ready_within=PATIENCE,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "EXEUNT_NATS_URL": mesh.nats_url,
            "EXEUNT_HTTP_ADDR": address,
            **build.settings,
            "EXEUNT_NAMESPACES": _EMPTY,
        },
    )
