"""`exeunt up`: everything that Exeunt needs and is, on this machine, to try by hand with kubectl.

What is missing is the operator, so whoever tries it plays the operator's few writes; the page that `up`
prints says which. `tests/demo.py` plays them itself.
"""

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from exeunt_local import BASE, CRDS, binaries
from exeunt_local.binaries import Binaries, PrometheusBinaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port
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

"""

_LIVEKIT_PAGE = """\
Or let a real call end. Alice joins a room of LiveKit (in a terminal of her own); the line `leave` hangs up:

  {python} -m exeunt_local.livekit_participant --url={url} --keys={keys} voice alice

Start a call as above, and say that it is the one of her room, by the room's id from the first line that she gets:

  kubectl annotate storyrun call storyrun.bubustack.io/trigger-token=RM_...

Cancel it and acknowledge that as above: it ends when she leaves, or at once when she has left.

"""

_LAST_LINES = """\
Logs: {logs}
Ctrl-C stops everything.
"""


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
        page = _PAGE.format(kubeconfig=control_plane.kubeconfig, nats_url=nats_server.url, example=_EXAMPLE)
        if calling:
            webhook_port = free_port()
            webhook_url = f"http://127.0.0.1:{webhook_port}/webhook"
            livekit = LiveKitServer(folder / "livekit", binary=calling, webhook_urls=[webhook_url])
            await stack.enter_async_context(livekit)
            await mesh.start_livekit_bridge(livekit, webhook_port)
            page += _LIVEKIT_PAGE.format(python=sys.executable, url=livekit.url, keys=livekit.keys_file)
        if watching:
            prometheus = Prometheus(folder / "prometheus", binary=watching.prometheus)
            await stack.enter_async_context(prometheus)
            prometheus.scrape(mesh)
            console.print(f"Prometheus, to be queried over HTTP or as a data source of Grafana: {prometheus.url}\n")
        console.print(page + _LAST_LINES.format(logs=mesh.folder))
        await asyncio.Event().wait()
