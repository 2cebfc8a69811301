"""A Kubernetes control plane on this machine: one etcd and one kube-apiserver, on the loopback interface.

It is the real API: watch cache, schema and CEL validation, RBAC, tokens. What it lacks is whoever acts on
objects: no controllers (nothing collects garbage, a deleted namespace stays Terminating), no scheduler, no
kubelet. `binaries` finds the two programs; `kubernetes_admin` is what the first user does to the API.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import trustme

from exeunt.net.tls import client_context
from exeunt_local.binaries import Binaries
from exeunt_local.kubernetes_admin import KubernetesAdmin, write_kubeconfig, write_private
from exeunt_local.processes import Process, free_port


class ControlPlane:
    """Entered as an async context manager, ready in about 3 s; all that it writes is in `folder`.

    With a folder that was used before it comes back with the objects, certificates and tokens of that time,
    on other ports. `apiserver_flags` are appended to those of kube-apiserver (an audit log, say). Every
    start raises ProcessFailed with the tail of the log when the server does not come up.
    """

    def __init__(self, folder: Path, *, binaries: Binaries, apiserver_flags: Sequence[str] = ()) -> None:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        _write_certificates(folder)
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.url = f"https://127.0.0.1:{free_port()}"
        self.kubeconfig = folder / "admin.kubeconfig"
        self._admin = KubernetesAdmin(self.url, ca=self.ca, token=_ADMIN_TOKEN)
        write_kubeconfig(self.kubeconfig, url=self.url, ca=self.ca, user={"token": _ADMIN_TOKEN})
        self._data = folder / "etcd"
        self.etcd_url = f"http://127.0.0.1:{free_port()}"
        self._etcd = Process(
            _etcd_command(binaries.etcd, self._data, self.etcd_url),
            log=folder / "etcd.log",
            ready_url=f"{self.etcd_url}/readyz",
        )
        self._apiserver = Process(
            [*_apiserver_command(binaries.kube_apiserver, folder, self.url, self.etcd_url), *apiserver_flags],
            log=folder / "kube-apiserver.log",
            ready_url=f"{self.url}/readyz",
            ready_within=90,  # 3 s of a machine with nothing else to do
            tls=client_context(str(self.ca)),
        )
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            await starting.enter_async_context(self._etcd)
            await starting.enter_async_context(self._apiserver)
            self._running = starting.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    async def start_apiserver(self) -> None:
        """Starts it on the port that it had, and waits until it is ready."""
        await self._apiserver.start()

    async def stop_apiserver(self) -> int:
        """SIGTERM: it refuses new requests, ends the running ones and its watches, and goes. Returns its exit code."""
        return await self._apiserver.stop(within=30)

    async def kill_apiserver(self) -> None:
        """SIGKILL, as when its machine is lost."""
        await self._apiserver.kill()

    async def restart_apiserver(self) -> None:
        """Stops and starts it."""
        await self.stop_apiserver()
        await self.start_apiserver()

    async def save(self, backup: Path) -> None:
        """Stops both servers, copies what etcd has to the folder `backup`, and starts them again."""
        await self._apiserver.kill()
        await self._etcd.stop()
        shutil.copytree(self._data, backup)
        await self._etcd.start()
        await self._apiserver.start()

    async def restore(self, backup: Path) -> None:
        """Kills both servers, and starts them with what etcd had then: its versions go back, too."""
        await self._apiserver.kill()
        await self._etcd.kill()
        shutil.rmtree(self._data)
        shutil.copytree(backup, self._data)
        await self._etcd.start()
        await self._apiserver.start()

    async def apply(self, *manifests: Path | Mapping[str, Any]) -> None:
        """Applies objects on the server's side: given as values, as YAML files, or as folders of those."""
        await self._admin.apply(*manifests)

    async def install_crds(self, folder: Path) -> None:
        """Applies the CustomResourceDefinitions of a folder and waits until their kinds are served."""
        await self._admin.install_crds(folder)

    async def kubeconfig_for(self, service_account: str, namespace: str, *, folder: Path | None = None) -> Path:
        """Writes a kubeconfig with a fresh token of that ServiceAccount; it points at a token file beside
        it.
        """
        folder = folder or self.folder
        token = folder / f"{service_account}.token"
        write_private(token, await self._admin.create_token(service_account, namespace))
        kubeconfig = folder / f"{service_account}.kubeconfig"
        write_kubeconfig(kubeconfig, url=self.url, ca=self.ca, user={"tokenFile": str(token)})
        return kubeconfig


# The server listens on loopback only, and lives as long as a test run or a trial.
_ADMIN_TOKEN = "local-admin"  # noqa: S105


def _write_certificates(folder: Path) -> None:
    """A certificate authority, the server's certificate, and the first user; kept when they are there
    already.

    The server's private key signs the tokens of ServiceAccounts too.
    """
    if not (folder / "ca.pem").exists():
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "localhost")
        server.private_key_pem.write_to_path(folder / "server.key")
        server.cert_chain_pems[0].write_to_path(folder / "server.pem")
        authority.cert_pem.write_to_path(folder / "ca.pem")
    write_private(folder / "tokens.csv", f"{_ADMIN_TOKEN},admin,admin,system:masters\n")


def _etcd_command(program: Path, data: Path, url: str) -> list[str]:
    peers = f"http://127.0.0.1:{free_port()}"
    return [
        str(program),
        f"--data-dir={data}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--watch-progress-notify-interval=5s",  # as kubeadm sets it; else bookmarks come too late
        "--unsafe-no-fsync",  # nothing here has to survive a power cut
        "--log-level=warn",
    ]


def _apiserver_command(program: Path, folder: Path, url: str, etcd_url: str) -> list[str]:
    port = url.rpartition(":")[2]
    return [
        str(program),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={folder / 'server.pem'}",
        f"--tls-private-key-file={folder / 'server.key'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={folder / 'server.key'}",
        f"--service-account-signing-key-file={folder / 'server.key'}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",  # it would refuse a loopback address as an endpoint
        "--disable-admission-plugins=ServiceAccount",  # nobody makes the `default` accounts it wants
        "--profiling=false",
        "--shutdown-watch-termination-grace-period=5s",  # else a watch keeps it for 60 s after SIGTERM
    ]
