"""Everything that is soaked: Kubernetes, a cluster of three nats-servers, two of each service, and a played operator.

Each service has a way of its own to the kube-apiserver, a proxy, so that one can be cut off. Processes share no network
but this machine's loopback interface: parting them by network namespaces would need root, and the proxies do not.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp

from actors.admin import admin_client
from actors.bystander import Bystander
from actors.call import create_story
from actors.kubernetes import STORY_RUN, Kubernetes
from actors.nats_cluster import NatsCluster
from actors.operator import Operator
from actors.tcp_proxy import TcpProxy
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.processes import ProcessFailed

CALM, TROUBLED = "calm", "troubled"
"""Two teams' namespaces."""
REALTIME, BATCH = "call", "report"
"""Their Stories."""
PROBED: Final = "probed"
"""A run that nobody plays: by writes of it is seen that writes are refused."""
INSTANCES: Final = tuple((service, number) for service in SERVICES for number in (0, 1))
STORE: Final = 64
"""MB that each nats-server may store; as much more whenever that is full."""
_NEVER: Final = 3600.0
"""Seconds: a service that is started while NATS is away is ready once it is back, and waited for until then."""
_DRAIN: Final = 1800
"""Seconds that bobrapet would wait before it ended a call itself."""


class Stage:
    """Make one with `stage`."""

    def __init__(self, control_plane: ControlPlane, nats: NatsCluster, mesh: Mesh, kubernetes: Kubernetes) -> None:
        self.control_plane = control_plane
        self.nats = nats
        self.mesh = mesh
        self.kubernetes = kubernetes
        self.ways: dict[tuple[str, int], TcpProxy] = {}
        self.store = STORE
        self.restored_at = datetime.min.replace(tzinfo=UTC)
        self.folder = mesh.folder.parent
        self.bystander = Bystander(nats.servers[0].url)
        self._starting: set[asyncio.Task[None]] = set()
        self._operating = AsyncExitStack()

    async def start(self) -> None:
        """The services, the operator and the Stories."""
        self.mesh.ready_within = _NEVER
        await asyncio.gather(*(self._start(service, number) for service, number in INSTANCES))
        await self.operate()
        for namespace in (CALM, TROUBLED):
            await self.control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            await create_story(self.kubernetes, namespace, REALTIME, drain=_DRAIN)
            await create_story(self.kubernetes, namespace, BATCH, pattern="batch", shutdown_timeout="10s")
        await self.kubernetes.create(STORY_RUN, TROUBLED, PROBED, {"storyRef": {"name": REALTIME}})

    async def _start(self, service: str, number: int) -> None:
        kubeconfig = await self.control_plane.kubeconfig_for(
            f"exeunt-{service}", "exeunt", folder=self._folder(service, number)
        )
        here = f"https://127.0.0.1:{self.ways[service, number].port}"
        kubeconfig.write_text(kubeconfig.read_text().replace(self.control_plane.url, here))
        await self.mesh.start(
            service,
            number,
            KUBECONFIG=str(kubeconfig),
            EXEUNT_STREAM_REPLICAS="3",
            EXEUNT_DEADLETTERS_BYTES="4000000",
            EXEUNT_SIGNALS_BYTES="4000000",
            EXEUNT_LOG_LEVEL="warning",
            EXEUNT_LOG_FORMAT="json",
        )

    def _folder(self, service: str, number: int) -> Path:
        folder = self.folder / f"{service}-{number}"
        folder.mkdir(exist_ok=True)
        return folder

    async def operate(self) -> None:
        """Have an operator at work."""
        await self._operating.enter_async_context(Operator(self.kubernetes, requeue=0.5))

    async def rest(self) -> None:
        """Have none: what it knows of the cluster is forgotten."""
        await self._operating.aclose()

    def revive(self, service: str, number: int) -> None:
        """Start a service that was killed, and do not wait until it is ready."""

        async def start() -> None:
            with contextlib.suppress(ProcessFailed):  # killed once more, before it was ready
                await self.mesh.start_again(service, number)

        task = asyncio.create_task(start(), name=f"start {service} {number}")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def unready(self) -> dict[str, str]:
        """The services that are not ready, with what they say."""
        troubles = {}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            for service, number in INSTANCES:
                try:
                    async with http.get(f"{self.mesh.url(service, number)}/readyz") as answer:
                        if answer.status != 200:
                            troubles[f"{service} {number}"] = " ".join((await answer.text()).split())
                except (aiohttp.ClientError, TimeoutError) as error:
                    troubles[f"{service} {number}"] = repr(error)
        return troubles

    def ended(self) -> list[str]:
        """The services that have ended by themselves, or had to be ended because of a bug."""
        logs = {f"{service} {number}": self.mesh.log(service, number) for service, number in INSTANCES}
        return [
            f"{name} has ended by an error: {log}"
            for name, log in logs.items()
            if "ended by an error" in log.read_text()
        ]

    async def close(self) -> None:
        for task in tuple(self._starting):
            task.cancel()
        await self._operating.aclose()


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Starts it all in `folder`; nothing of it is left running."""
    servers = await binaries.prepare()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        control_plane = await enter(ControlPlane(folder / "kubernetes", binaries=servers))
        await control_plane.install_crds(CRDS)
        await control_plane.apply(BASE)
        nats = await enter(NatsCluster(servers, folder / "nats", store=f"{STORE}MB"))
        urls = ",".join(server.url for server in nats.servers)
        mesh = await enter(Mesh(folder / "services", control_plane=control_plane, nats_url=urls))
        on = Stage(control_plane, nats, mesh, Kubernetes(await enter(admin_client(control_plane.kubeconfig))))
        for instance in INSTANCES:
            on.ways[instance] = await enter(TcpProxy(int(control_plane.url.rpartition(":")[2])))
        stack.push_async_callback(on.close)
        await on.start()
        await enter(on.bystander)
        yield on
