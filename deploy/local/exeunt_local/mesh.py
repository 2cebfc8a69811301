"""The services of Exeunt as processes of this machine, each with the rights of its own ServiceAccount.

They are what the image runs, `python -m exeunt_watcher` and so on, configured by the same environment. `up`
starts one of each; tests start, stop and kill as many as they like. The bridge to LiveKit is there where LiveKit is.
"""

import os
import sys
from pathlib import Path
from typing import Self

from exeunt_local.control_plane import ControlPlane
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.processes import Process, free_port

SERVICES = ("watcher", "terminator", "timeout-scheduler")
LIVEKIT_BRIDGE = "livekit-bridge"  # it knows no Kubernetes


class Mesh:
    """Started services by their name and instance number; left as a context manager, it kills those still
    running.

    The control plane must have the CRDs and deploy/base. The log of the first watcher is `watcher-0.log` in
    `folder`. `python` runs them, and `namespace` has their ServiceAccounts: the bench has those of another build, too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        control_plane: ControlPlane,
        nats_url: str,
        python: str = sys.executable,
        namespace: str = "exeunt",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ready_within = 30.0
        """Seconds that a service may take to become ready."""
        self._control_plane = control_plane
        self.nats_url = nats_url
        self.python = python
        self.namespace = namespace
        self._kubeconfigs: dict[str, Path] = {}
        self._processes: dict[tuple[str, int], Process] = {}
        self.addresses: dict[tuple[str, int], str] = {}
        """HOST:PORT of each started service: /livez, /readyz and /metrics."""

    async def start(self, service: str, instance: int = 0, **env: str) -> None:
        """Starts a service and waits until it is ready; raises ProcessFailed with the tail of its log.

        `env` goes over the environment of this process and the settings for the servers of this mesh.
        """
        address = f"127.0.0.1:{free_port()}"
        if service != LIVEKIT_BRIDGE:
            env = {"KUBECONFIG": str(await self._kubeconfig(f"exeunt-{service}")), **env}
        process = Process(
            [self.python, "-m", f"exeunt_{service.replace('-', '_')}"],
            log=self.log(service, instance),
            ready_url=f"http://{address}/readyz",
            ready_within=self.ready_within,
            env={
                **os.environ,
                "EXEUNT_NATS_URL": self.nats_url,
                "EXEUNT_HTTP_ADDR": address,
                **env,
            },
        )
        self._processes[service, instance] = process
        self.addresses[service, instance] = address
        await process.start()

    async def start_livekit_bridge(
        self, livekit: LiveKitServer, webhook_port: int, instance: int = 0, **env: str
    ) -> None:
        """As `start`, for the bridge: LiveKit's webhooks reach it at `webhook_port`, path /webhook."""
        await self.start(
            LIVEKIT_BRIDGE,
            instance,
            EXEUNT_LIVEKIT_URL=livekit.url,
            EXEUNT_LIVEKIT_KEYS=str(livekit.keys_file),
            EXEUNT_LIVEKIT_WEBHOOK_ADDR=f"127.0.0.1:{webhook_port}",
            **env,
        )

    async def stop(self, service: str, instance: int = 0, *, within: float = 30) -> int:
        """SIGTERM, and SIGKILL after `within` seconds; returns the exit code."""
        return await self._processes[service, instance].stop(within)

    async def kill(self, service: str, instance: int = 0) -> None:
        """SIGKILL, as when its machine is lost."""
        await self._processes[service, instance].kill()

    async def ended(self, service: str, instance: int = 0) -> int:
        """Returns the exit code of a started service once it has ended; a negative one is somebody's signal."""
        return await self._processes[service, instance].ended()

    async def start_again(self, service: str, instance: int = 0) -> None:
        """Starts a service that has ended as it was, at the same address; raises ProcessFailed."""
        await self._processes[service, instance].start()

    def pid(self, service: str, instance: int = 0) -> int:
        """The process id of a started service, to freeze it, say; raises RuntimeError when it has ended."""
        if pid := self._processes[service, instance].pid:
            return pid
        raise RuntimeError(f"{service} {instance} has ended: see {self.log(service, instance)}")

    def url(self, service: str, instance: int = 0) -> str:
        """Where a started service answers /livez, /readyz and /metrics."""
        return f"http://{self.addresses[service, instance]}"

    def log(self, service: str, instance: int = 0) -> Path:
        """Its output, of all the times that it was started."""
        return self.folder / f"{service}-{instance}.log"

    async def _kubeconfig(self, service_account: str) -> Path:
        """Asked for once, so that a service can be started again while the kube-apiserver is away."""
        if service_account not in self._kubeconfigs:
            self._kubeconfigs[service_account] = await self._control_plane.kubeconfig_for(
                service_account, self.namespace, folder=self.folder
            )
        return self._kubeconfigs[service_account]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes.values():
            await process.kill()
