"""Plays what a cluster does with the manifests of deploy/: kubectl's user, the controllers, and the kubelet.

The user applies an overlay and the credentials with the real kubectl. The kubelet makes processes of the Pod templates
that the kube-apiserver then has: with their environment, with files from their Secrets and ConfigMaps, with a token of
their own ServiceAccount. What one machine cannot have is changed on the way: ports, Service names, where mounts are.
"""

import asyncio
import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.processes import Process, free_port

Object = dict[str, Any]
Install = Callable[..., "Installation"]

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMESPACE = "exeunt"
OURS = "app.kubernetes.io/part-of=exeunt"
_BIN = Path(sys.executable).parent


class CommandFailed(Exception):
    """A command exited with an error, which is what this says."""


async def command(*words: str | Path, stdin: bytes = b"") -> str:
    """What it prints; raises CommandFailed with what it says on stderr."""
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate(stdin)
    if process.returncode:
        raise CommandFailed(errors.decode())
    return output.decode()


async def kustomize(folder: Path) -> str:
    """An overlay as kubectl builds it."""
    return await command(_BIN / "kubectl", "kustomize", folder)


def with_components(folder: Path, *components: str) -> Path:
    """An overlay of one's own in that folder: the one for evaluation, with components."""
    kustomization = {
        "resources": [os.path.relpath(DEPLOY / "overlays" / "evaluation", folder)],
        "components": [os.path.relpath(DEPLOY / "components" / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return folder


class Kubectl:
    """kubectl, as the cluster's admin."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._kubeconfig = control_plane.kubeconfig

    async def __call__(self, *words: str | Path, stdin: bytes = b"") -> str:
        return await command(_BIN / "kubectl", f"--kubeconfig={self._kubeconfig}", *words, stdin=stdin)

    async def get(self, *words: str) -> list[Object]:
        """The objects of a `kubectl get`."""
        found: Object = json.loads(await self("get", *words, "-o", "json"))
        items: list[Object] = found["items"] if found["kind"] == "List" else [found]
        return items


class Installation:
    """One overlay on one control plane. Entered as an async context manager, it is applied and its NATS servers run.

    `mesh` has the services, none started yet. With `trace` the logs of the NATS servers hold every word of clients.
    At the end its processes and rights are taken away.
    """

    def __init__(
        self, folder: Path, overlay: Path, *, control_plane: ControlPlane, servers: Binaries, trace: bool = False
    ) -> None:
        self.folder = folder
        self.kubectl = Kubectl(control_plane)
        self.credentials = folder / "credentials"
        self.mesh = Mesh(folder / "services", control_plane=control_plane, nats_url="")
        self.nats: list[Process] = []
        self.nats_urls: list[str] = []
        self._overlay = overlay
        self._nats_server: list[str | Path] = [servers.nats_server, *(["--trace"] if trace else [])]
        self._ports = [(free_port(), free_port(), free_port()) for _ in range(3)]

    async def __aenter__(self) -> Self:
        try:
            await self.apply()
            await self.renew_credentials()
            (stateful_set,) = await self.kubectl.get("statefulset", "nats", "-n", NAMESPACE)
            await self._start_nats(stateful_set)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.mesh.__aexit__()
        for process in self.nats:
            await process.kill()
        kinds = "clusterrolebindings,clusterroles,rolebindings,roles,statefulsets"
        await self.kubectl("delete", kinds, "--all-namespaces", "-l", OURS)

    async def apply(self) -> None:
        """As the README of an overlay says it."""
        await self.kubectl("apply", "--server-side", "--force-conflicts", "--validate=strict", "-k", self._overlay)

    async def renew_credentials(self, *, apply: bool = True) -> None:
        """Makes what is missing, and the servers' certificate anew."""
        await command(_BIN / "exeunt", "nats-credentials", self.credentials, "--name", "127.0.0.1")
        if apply:
            await self.apply_credentials()

    async def apply_credentials(self) -> None:
        """What is in the folder now becomes what is in the cluster."""
        await self.kubectl("apply", "--server-side", "--force-conflicts", "-k", self.credentials)

    async def start(self, service: str, instance: int = 0, **env: str) -> None:
        """Starts one Pod of a service and waits until it is ready; `env` goes over the settings."""
        settings = await self.environment(service, instance)
        await self.mesh.start(service, instance, **{**settings, **env})

    async def start_all(self, instance: int = 0, **env: str) -> None:
        """Starts a Pod of each service, side by side."""
        await asyncio.gather(*(self.start(service, instance, **env) for service in SERVICES))

    async def environment(self, service: str, instance: int = 0) -> dict[str, str]:
        """What the kubelet gives the container of that service; its volumes are mounted."""
        (deployment,) = await self.kubectl.get("deployment", f"exeunt-{service}", "-n", NAMESPACE)
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["command"] == [f"exeunt-{service}"]
        settings: dict[str, str] = {}
        for source in container["envFrom"]:
            (found,) = await self.kubectl.get("configmap", source["configMapRef"]["name"], "-n", NAMESPACE)
            settings |= found["data"]
        root = self.folder / f"{service}-{instance}"
        mounts = await self.mount(pod, container, root)
        return {name: _replaced(self._here(value), mounts) for name, value in settings.items()}

    async def refresh_mounts(self) -> None:
        """What the kubelet does within a minute or so of a change: mounted files become what their sources are now."""
        for service in SERVICES:
            for root in self.folder.glob(f"{service}-*"):
                await self.environment(service, int(root.name.rpartition("-")[2]))
        (stateful_set,) = await self.kubectl.get("statefulset", "nats", "-n", NAMESPACE)
        for ordinal in range(len(self.nats)):
            await self._mount_nats(stateful_set, ordinal)

    async def mount(self, pod: Object, container: Object, root: Path) -> dict[str, Path]:
        """The container's volumes as folders under `root`, by their mount paths."""
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts: dict[str, Path] = {}
        for mount in container["volumeMounts"]:
            folder = root / mount["mountPath"].strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            mounts[mount["mountPath"]] = folder
            volume = volumes.get(mount["name"], {})  # that of a volumeClaimTemplate is not among them: a disk
            for source in volume.get("projected", {}).get("sources", []):
                for path, content in (await self._projected(source)).items():
                    _write(folder / path, content)
        return mounts

    async def _projected(self, source: Object) -> dict[str, bytes]:
        ((kind, reference),) = source.items()
        (found,) = await self.kubectl.get(kind.lower(), reference["name"], "-n", NAMESPACE)
        encoded = kind == "secret"
        data = {key: base64.b64decode(value) if encoded else value.encode() for key, value in found["data"].items()}
        if "items" not in reference:
            return data
        return {item["path"]: data[item["key"]] for item in reference["items"]}

    # The NATS servers.

    async def _start_nats(self, stateful_set: Object) -> None:
        for ordinal in range(stateful_set["spec"]["replicas"]):
            client, _, monitor = self._ports[ordinal]
            config = await self._mount_nats(stateful_set, ordinal)
            process = Process(
                [*self._nats_server, "--config", config],
                log=self.folder / f"nats-{ordinal}.log",
                ready_url=f"http://127.0.0.1:{monitor}/healthz",
                env={"POD_NAME": f"nats-{ordinal}"},
            )
            self.nats.append(process)
            self.nats_urls.append(f"tls://127.0.0.1:{client}")
        await asyncio.gather(*(process.start() for process in self.nats))

    async def _mount_nats(self, stateful_set: Object, ordinal: int) -> Path:
        pod = stateful_set["spec"]["template"]["spec"]
        container = next(container for container in pod["containers"] if container["name"] == "nats")
        mounts = await self.mount(pod, container, self.folder / f"nats-{ordinal}")
        client, route, monitor = self._ports[ordinal]
        for file in mounts["/etc/nats"].glob("*.conf"):
            text = _replaced(file.read_text(), mounts)
            for there, here in (("0.0.0.0:4222", client), ("0.0.0.0:6222", route), ("0.0.0.0:8222", monitor)):
                text = text.replace(there, f"127.0.0.1:{here}")
            _write(file, self._here(text).encode())
        config = Path(_replaced(container["args"][1], mounts))
        assert container["args"] == ["--config", "/etc/nats/nats-server.conf"]
        return config

    def _here(self, text: str) -> str:
        """Names of Services and their ports, as they are on this machine."""

        def port(found: re.Match[str]) -> str:
            client, route, _ = self._ports[int(found["ordinal"] or 0)]
            return f"//127.0.0.1:{route if found['port'] == '6222' else client}"

        return re.sub(r"//nats(-(?P<ordinal>\d)\.nats-headless)?:(?P<port>\d+)", port, text)


def _write(file: Path, content: bytes) -> None:
    """As the kubelet does: nobody sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_bytes(content)
    shutil.move(unfinished, file)


def _replaced(text: str, mounts: Mapping[str, Path]) -> str:
    for path, folder in mounts.items():
        text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?=[/\"]|$)", str(folder), text)
    return text
