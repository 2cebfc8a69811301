"""A watcher that was cut off while the history that it missed expired: it lists anew and sees the state there is."""

import asyncio
import re

import pytest
from aiohttp import ClientSession

from actors import kubelet
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import BINDING, Kubernetes, Object
from actors.services import QUICK
from actors.tcp_proxy import TcpProxy
from exeunt.events.event_types import EventType
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
async def behind(
    mesh: Mesh, proxy: TcpProxy, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Mesh:
    """One of each service, the watcher speaks to the kube-apiserver through the proxy."""
    folder = tmp_path_factory.mktemp("behind")
    kubeconfig = await control_plane.kubeconfig_for("exeunt-watcher", "exeunt", folder=folder)
    kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, f"https://127.0.0.1:{proxy.port}"))
    await asyncio.gather(
        mesh.start("watcher", 0, **QUICK, KUBECONFIG=str(kubeconfig)),
        mesh.start("timeout-scheduler", 0, **QUICK),
        mesh.start("terminator", 0, **QUICK),
    )
    return mesh


async def wait_relisted(mesh: Mesh, resource: str, within: float = 40) -> None:
    pattern = rf'exeunt_watch_relists_total\{{resource="{resource}"\}} [1-9]'
    async with asyncio.timeout(within), ClientSession() as http:
        while True:
            async with http.get(f"{mesh.url('watcher')}/metrics") as answer:
                if re.search(pattern, await answer.text()):
                    return
            await asyncio.sleep(0.05)


async def replace(kubernetes: Kubernetes, binding: Object) -> None:
    """As bobrapet makes the binding of a living StepRun anew, under another name here."""
    namespace, name = binding["metadata"]["namespace"], binding["metadata"]["name"]
    await kubernetes.delete(BINDING, namespace, name)
    owners = binding["metadata"]["ownerReferences"]
    await kubernetes.create(BINDING, namespace, f"{name}-2", binding["spec"], ownerReferences=owners)


async def test_a_binding_replaced_in_a_gap_is_no_topology_that_is_gone(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    control_plane: ControlPlane,
    proxy: TcpProxy,
    behind: Mesh,
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED)
    proxy.cut(refuse=True)
    for binding in await call.bindings():
        await replace(kubernetes, binding)
    # A restarted kube-apiserver has forgotten the history before its start: the watches have expired.
    await control_plane.kill_apiserver()
    await control_plane.start_apiserver()
    proxy.restore()
    await wait_relisted(behind, "transportbindings")
    await kubelet.wait_until_ready(behind.url("watcher"), within=40)  # all of its watches go on again
    await call.cancel()
    assert await bystander.waits(call.uid)
    assert EventType.TOPOLOGY_TERMINATED not in await bystander.event_types(call.uid)
    await call.lose_bindings()
    await call.wait_finished()
