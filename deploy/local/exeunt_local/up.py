"""`exeunt up`: everything that Exeunt needs and is, on this machine, to try by hand with kubectl.

What is missing is the operator, so whoever tries it plays the operator's few writes; the page that `up` prints says
which (`page`). `tests/demo.py` plays them itself. What dies, and which alert fires, is reported below the page.
"""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import aiohttp
from rich.console import Console

from exeunt_local import BASE, CRDS, binaries
from exeunt_local.binaries import Binaries, PrometheusBinaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.mesh import LIVEKIT_BRIDGE, SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.page import page
from exeunt_local.processes import ProcessFailed, free_port, tail
from exeunt_local.prometheus import Prometheus, rules_file

_RESTART = (1.0, 30.0)
"""Seconds before a service that has died is started again: the first time, and at the most."""
_LOOK_AT_ALERTS = 2.0  # seconds

Tell = Callable[[str], None]


async def up(
    *, prepare_only: bool = False, prometheus: bool = False, livekit: bool = False, folder: Path | None = None
) -> None:
    """Finds or builds the servers, then runs them and the services until SIGINT or SIGTERM.

    Without a `folder` nothing is kept. Raises BinariesMissing, BuildFailed or ProcessFailed.
    """
    servers = await binaries.prepare()
    watching = await binaries.prepare_prometheus() if prometheus else None
    calling = await binaries.prepare_livekit() if livekit else None
    if prepare_only:
        return
    with contextlib.ExitStack() as cleanup:
        if folder is None:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="exeunt-")))
        with contextlib.suppress(asyncio.CancelledError):  # this is how it is meant to end
            await _serve(servers, watching, calling, folder.absolute())


async def _serve(servers: Binaries, watching: PrometheusBinaries | None, calling: Path | None, folder: Path) -> None:
    serving = asyncio.current_task()
    if serving is None:
        raise RuntimeError("up runs in a task")
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print("Starting etcd, kube-apiserver, nats-server, " + ", ".join(SERVICES) + " ...")
    async with (
        ControlPlane(folder / "kubernetes", binaries=servers) as control_plane,
        NatsServer(folder / "nats", binary=servers.nats_server) as nats_server,
        Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url) as mesh,
        contextlib.AsyncExitStack() as stack,
    ):
        await control_plane.install_crds(CRDS)
        await control_plane.apply(BASE)
        for service in SERVICES:
            await mesh.start(service)
        started, livekit, prometheus = list(SERVICES), None, None
        if calling:
            webhook_port = free_port()
            webhook_url = f"http://127.0.0.1:{webhook_port}/webhook"
            livekit = LiveKitServer(folder / "livekit", binary=calling, webhook_urls=[webhook_url])
            await stack.enter_async_context(livekit)
            await mesh.start_livekit_bridge(livekit, webhook_port)
            started.append(LIVEKIT_BRIDGE)
        if watching:
            at = folder / "prometheus"
            prometheus = Prometheus(at, binary=watching.prometheus, rules=[rules_file(at / "rules.yml")])
            await stack.enter_async_context(prometheus)
            prometheus.scrape(mesh)
        printed = page(
            kubeconfig=control_plane.kubeconfig,
            nats_url=nats_server.url,
            logs=mesh.folder,
            livekit=(livekit.url, livekit.keys_file) if livekit else None,
            prometheus=prometheus.url if prometheus else None,
        )
        console.print(printed)
        async with asyncio.TaskGroup() as tasks:
            for service in started:
                tasks.create_task(_keep(mesh, service, console.print))
            if prometheus:
                tasks.create_task(_tell_alerts(prometheus, console.print))


async def _keep(mesh: Mesh, service: str, render: Tell) -> NoReturn:
    """Tells when a service dies, and starts it again, as a kubelet would."""
    first, most = _RESTART
    pause = first
    while True:
        since = asyncio.get_running_loop().time()
        code = await mesh.ended(service)
        if asyncio.get_running_loop().time() - since > most:
            pause = first
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        render(f"{service} has died ({why}); it is started again in {pause:g} s.\n{tail(mesh.log(service), 5)}")
        await asyncio.sleep(pause)
        pause = min(2 * pause, most)
        try:
            await mesh.start_again(service)
        except ProcessFailed as failed:
            render(str(failed))
        else:
            render(f"{service} is back.")


async def _tell_alerts(prometheus: Prometheus, render: Tell) -> NoReturn:
    """Tells when an alert begins to fire, and when it is over."""
    rendered: dict[str, str] = {}
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # what it cannot say now, it says next time
            firing = {str(sorted(alert["labels"].items())): alert for alert in await prometheus.firing()}
            for key, alert in firing.items():
                name, message = alert["labels"]["alertname"], alert["annotations"]
                if key not in rendered:
                    render(
                        f"{name} fires ({alert['labels']['severity']}): {message['summary']}.\n  "
                        f"{message['runbook_url']}"
                    )
                rendered[key] = name
            for key in rendered.keys() - firing:
                render(f"{rendered.pop(key)} is over.")
        await asyncio.sleep(_LOOK_AT_ALERTS)
