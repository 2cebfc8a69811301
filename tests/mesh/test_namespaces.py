"""Several namespaces: one that is closed to us does not keep the others waiting, and there may be hundreds of them."""

import asyncio
import re
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from actors import kubelet
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from actors.services import QUICK
from exeunt.events.event_types import EventType
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

MANY = 200
RBAC = "rbac.authorization.k8s.io"
Rights = Callable[..., Awaitable[None]]


def manifest(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    version = "v1" if kind in ("Namespace", "ServiceAccount") else f"{RBAC}/v1"
    namespace = {"namespace": fields.pop("namespace")} if "namespace" in fields else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **namespace}, **fields}


@pytest.fixture
async def kubeconfigs(
    control_plane: ControlPlane, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """The settings of each service as a ServiceAccount of the test's own, which has no rights anywhere."""
    folder = tmp_path_factory.mktemp("closed")
    settings = {}
    for service in SERVICES:
        account = f"{service}-{namespace}"
        await control_plane.apply(manifest("ServiceAccount", account, namespace="exeunt"))
        settings[service] = {"KUBECONFIG": str(await control_plane.kubeconfig_for(account, "exeunt", folder=folder))}
    return settings


@pytest.fixture
def let_in(control_plane: ControlPlane, namespace: str) -> Rights:
    """Lets those accounts into a namespace, as a RoleBinding there does."""

    async def let_in(into: str, services: tuple[str, ...] = SERVICES) -> None:
        for service in services:
            subject = {"kind": "ServiceAccount", "name": f"{service}-{namespace}", "namespace": "exeunt"}
            role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": f"exeunt-{service}"}
            binding = manifest(
                "RoleBinding", f"{service}-{namespace}", namespace=into, roleRef=role, subjects=[subject]
            )
            await control_plane.apply(binding)

    return let_in


async def metric(mesh: Mesh, name: str, service: str = "watcher") -> float:
    async with ClientSession() as http, http.get(f"{mesh.url(service)}/metrics") as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", await answer.text(), re.MULTILINE)
    assert found, name
    return float(found[1])


async def answer_of_readyz(mesh: Mesh, service: str = "watcher") -> tuple[int, dict[str, Any]]:
    async with ClientSession() as http, http.get(f"{mesh.url(service)}/readyz") as answer:
        published: dict[str, Any] = await answer.json()
        return answer.status, published


async def stop(call: Call, bystander: Bystander) -> None:
    await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED, within=60)
    await call.cancel()
    await call.lose_bindings()
    await call.wait_finished(within=20)


async def test_a_namespace_that_is_closed_keeps_nobody_waiting_and_joins_when_it_opens(
    control_plane: ControlPlane,
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    mesh: Mesh,
    kubeconfigs: dict[str, dict[str, str]],
    let_in: Rights,
) -> None:
    closed, absent = f"{namespace}-closed", f"{namespace}-absent"
    await control_plane.apply(manifest("Namespace", closed))
    await let_in(namespace)
    settings = {**QUICK, "EXEUNT_NAMESPACES": f"{closed},{absent},{namespace}"}
    call = await Call.start(kubernetes, closed, "waiting", shutdown_timeout="5m")
    await asyncio.gather(*(mesh.start(service, 0, **settings, **kubeconfigs[service]) for service in SERVICES))
    status, recorded = await answer_of_readyz(mesh)
    assert (status, recorded["status"]) == (200, "degraded")
    for name in (closed, absent):
        assert f"{name} (" in recorded["troubles"]["namespaces"]
    assert "403" in recorded["troubles"]["namespaces"]
    assert await metric(mesh, 'exeunt_dependency_up{dependency="namespaces"}') == 0
    assert await metric(mesh, 'exeunt_dependency_up{dependency="watches"}') == 1
    await stop(await Call.start(kubernetes, namespace, shutdown_timeout="5m"), bystander)
    # Half open: runs may be listed, and what became of their topologies may not.
    watcher = {"kind": "ServiceAccount", "name": f"watcher-{namespace}", "namespace": "exeunt"}
    only_runs = {"apiGroups": ["runs.bubustack.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    await call.cancel()
    await control_plane.apply(
        manifest("Role", "only-runs", namespace=closed, rules=[only_runs]),
        manifest(
            "RoleBinding", "only-runs", namespace=closed, subjects=[watcher],
            roleRef={"apiGroup": RBAC, "kind": "Role", "name": "only-runs"},
        ),
    )  # fmt: skip
    await asyncio.sleep(1)
    await let_in(closed, ("terminator", "timeout-scheduler"))
    await stop(await Call.start(kubernetes, namespace, "another", shutdown_timeout="5m"), bystander)
    assert await bystander.event_types(call.uid) == []
    await let_in(closed)
    assert await bystander.waits(call.uid, within=60)
    await call.lose_bindings()
    await call.wait_finished(within=20)
    assert absent in (await answer_of_readyz(mesh))[1]["troubles"]["namespaces"]
    assert closed not in (await answer_of_readyz(mesh))[1]["troubles"]["namespaces"]
    # A namespace that is made later, too.
    await control_plane.apply(manifest("Namespace", absent))
    await let_in(absent)
    await stop(await Call.start(kubernetes, absent, shutdown_timeout="5m"), bystander)
    assert (await answer_of_readyz(mesh))[1] == {"status": "ok"}
    assert await metric(mesh, 'exeunt_dependency_up{dependency="namespaces"}') == 1


async def test_a_watcher_that_is_let_in_nowhere_is_not_ready(
    nats_server: NatsServer, namespace: str, kubeconfigs: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    settings = {**QUICK, "EXEUNT_NAMESPACES": f"{namespace},default", **kubeconfigs["watcher"]}
    nats_url = {"EXEUNT_NATS_URL": nats_server.url}
    async with kubelet.running("watcher", tmp_path / "watcher.log", **settings, **nats_url) as watcher:
        await kubelet.wait_until_missing(watcher.url, "watches", "403")
        await kubelet.wait_until_missing(watcher.url, "kubernetes", "403")
        assert await kubelet.attempts(watcher.url)


async def test_a_sweep_looks_after_the_namespaces_that_it_is_let_into(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    mesh: Mesh,
    kubeconfigs: dict[str, dict[str, str]],
    let_in: Rights,
) -> None:
    await let_in(namespace)
    settings = {"EXEUNT_NAMESPACES": f"default,{namespace},kube-system", "EXEUNT_SWEEP_INTERVAL": "200ms"}
    call = await Call.start(kubernetes, namespace, shutdown_timeout="5m")
    await call.cancel()
    await call.wait_until(lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {}))
    await mesh.start("timeout-scheduler", 0, **QUICK, **settings, **kubeconfigs["timeout-scheduler"])
    async with asyncio.timeout(20):
        while not await bystander.armed(call.uid):  # noqa: ASYNC110 - the world is polled
            await asyncio.sleep(0.05)
    for _ in range(20):
        assert (await answer_of_readyz(mesh, "timeout-scheduler"))[1] == {"status": "ok"}
        await asyncio.sleep(0.1)


@contextmanager
def few_open_files(most: int) -> Iterator[None]:
    """Processes that are started meanwhile may open so many files, unless they ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(300)
async def test_a_stop_in_the_last_of_hundreds_of_namespaces(
    control_plane: ControlPlane, kubernetes: Kubernetes, namespace: str, bystander: Bystander, mesh: Mesh
) -> None:
    names = [f"{namespace}-{number}" for number in range(MANY)]
    await control_plane.apply(*(manifest("Namespace", name) for name in names))
    last = names[-1]
    before = await Call.start(kubernetes, last, "before", shutdown_timeout="5m")
    settings = {**QUICK, "EXEUNT_NAMESPACES": ",".join(names)}
    mesh.ready_within = 120
    with few_open_files(512):  # four watches in each are more
        await asyncio.gather(*(mesh.start(service, 0, **settings) for service in SERVICES))
    await stop(before, bystander)
    assert (await answer_of_readyz(mesh))[1] == {"status": "ok"}
    assert await metric(mesh, 'exeunt_watch_interruptions_total{resource="storyruns"}') == 0
    # All of them at once.
    later = await Call.start(kubernetes, last, "later", shutdown_timeout="5m")
    await bystander.wait_for_event(later.uid, EventType.TOPOLOGY_ESTABLISHED)
    await control_plane.kill_apiserver()
    await control_plane.start_apiserver()
    await kubelet.wait_until_ready(mesh.url("watcher"), within=60)
    await stop(later, bystander)
