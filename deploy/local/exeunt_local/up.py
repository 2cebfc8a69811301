"""`exeunt up`: everything that Exeunt needs and is, on this machine, to try by hand with kubectl.

What is missing is the operator, so whoever tries it plays the operator's few writes; the page that `up`
prints says which. `tests/demo.py` plays them itself.
"""

import asyncio
import contextlib
import signal
import tempfile
from pathlib import Path

from rich.console import Console

from exeunt_local import BASE, CRDS, binaries
from exeunt_local.binaries import Binaries, PrometheusBinaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.prometheus import Prometheus

_EXAMPLE = Path(__file__).parent / "example.yaml"

_PAGE = """\
Exeunt is up. For another terminal:

  export KUBECONFIG={kubeconfig}
  export EXEUNT_NATS_URL={nats_url}

Start a call. No operator runs here, so you write what it would write:

  kubectl apply -f {example}
  kubectl patch storyrun call --subresource=status --type=merge -p '{{"status": {{"phase": "Running"}}}}'

Cancel it, and acknowledge that as the operator does. Nobody leaves the call, so it ends when the shutdown
timeout of its Story, 5 s, runs out:

  kubectl patch storyrun call --type=merge -p '{{"spec": {{"cancelRequested": true}}}}'
  kubectl annotate storyrun call \\
      storyrun.bubustack.io/graceful-cancel-observed-at=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  kubectl get storyruns,stepruns --watch

Logs: {logs}
Ctrl-C stops everything.
"""


async def up(*, prepare_only: bool = False, prometheus: bool = False, folder: Path | None = None) -> None:
    """Finds or builds the servers, then runs them and the services until SIGINT or SIGTERM.

    Without a `folder` nothing is kept. Raises BinariesMissing, BuildFailed or ProcessFailed.
    """
    servers = await binaries.prepare()
    watching = await binaries.prepare_prometheus() if prometheus else None
    if prepare_only:
        return
    with contextlib.ExitStack() as cleanup:
        if folder is None:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="exeunt-")))
        with contextlib.suppress(asyncio.CancelledError):  # this is how it is meant to end
            await _serve(servers, watching, folder.absolute())


async def _serve(servers: Binaries, watching: PrometheusBinaries | None, folder: Path) -> None:
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
        if watching:
            prometheus = Prometheus(folder / "prometheus", binary=watching.prometheus)
            await stack.enter_async_context(prometheus)
            prometheus.scrape(mesh)
            console.print(f"Prometheus, to be queried over HTTP or as a data source of Grafana: {prometheus.url}\n")
        console.print(
            _PAGE.format(
                kubeconfig=control_plane.kubeconfig,
                nats_url=nats_server.url,
                example=_EXAMPLE,
                logs=mesh.folder,
            )
        )
        await asyncio.Event().wait()
