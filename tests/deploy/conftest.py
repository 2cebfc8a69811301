"""A cluster of their own for the tests of deploy/, since they take rights away; its audit log tells who asked what."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from actors.admin import admin_client
from actors.installation import DEPLOY, Install, Installation, Kubectl
from actors.kubernetes import Kubernetes
from exeunt_local import CRDS
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane

_AUDITED = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:exeunt"]}, {"level": "None"}],
}


@pytest.fixture(scope="session")
async def cluster(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "audit-policy.yaml").write_bytes(msgspec.json.encode(_AUDITED))  # JSON is YAML, too
    flags = [f"--audit-policy-file={folder}/audit-policy.yaml", f"--audit-log-path={folder}/audit.log"]
    async with ControlPlane(folder, binaries=servers, apiserver_flags=flags) as cluster:
        await cluster.install_crds(CRDS)
        for name in ("livekit-voice", "default"):
            await cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await cluster.apply(DEPLOY / "base" / "namespace.yaml")
        yield cluster


@pytest.fixture(scope="session")
def kubectl(cluster: ControlPlane) -> Kubectl:
    return Kubectl(cluster)


@pytest.fixture(scope="session")
async def kubernetes(cluster: ControlPlane) -> AsyncIterator[Kubernetes]:
    async with admin_client(cluster.kubeconfig) as client:
        yield Kubernetes(client)


@pytest.fixture(scope="session")
def install(cluster: ControlPlane, servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """One installation at a time: `async with install(overlay) as installation`."""

    def install(overlay: Path, *, trace: bool = False) -> Installation:
        folder = tmp_path_factory.mktemp(overlay.name)
        return Installation(folder, overlay, control_plane=cluster, servers=servers, trace=trace)

    return install
