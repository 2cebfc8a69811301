"""A terminator that loses the kube-apiserver around its finalizing write: the write counts, and the rest is done.

Its first instance speaks to the kube-apiserver through a proxy, which lets requests through and keeps the answers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.recorder import State
from actors.services import QUICK
from actors.tcp_proxy import TcpProxy
from exeunt.events import Fact, Verdict
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator")

Stopped = Callable[..., Awaitable[State]]


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(int(control_plane.url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
async def behind(
    proxy: TcpProxy, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The settings of a terminator that speaks through the proxy."""
    folder = tmp_path_factory.mktemp("behind")
    kubeconfig = await control_plane.kubeconfig_for("exeunt-terminator", "exeunt", folder=folder)
    kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, f"https://127.0.0.1:{proxy.port}"))
    return {"KUBECONFIG": str(kubeconfig)}


async def start_all(mesh: Mesh, behind: dict[str, str], **env: str) -> None:
    """Starts one of each service, the terminator behind the proxy."""
    settings = {**QUICK, **env}
    await asyncio.gather(
        mesh.start("watcher", 0, **settings),
        mesh.start("timeout-scheduler", 0, **settings),
        mesh.start("terminator", 0, **{**settings, **behind}),
    )


async def finished_behind_the_proxy(proxy: TcpProxy, kubernetes: Kubernetes, namespace: str) -> Call:
    """A call whose end is written, and the terminator waits for the answer to that."""
    call = await Call.start(kubernetes, namespace)
    await call.hang_up()
    proxy.go_silent()
    await call.cancel()
    await call.wait_finished()
    # Nobody has asked for that yet; the played operator would do it when its drain window is over.
    assert not [step_run for step_run in await call.step_runs() if "deletionTimestamp" in step_run["metadata"]]
    return call


async def test_the_answer_to_the_write_is_lost(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    mesh: Mesh,
    proxy: TcpProxy,
    behind: dict[str, str],
    stopped: Stopped,
) -> None:
    await start_all(mesh, behind)
    call = await Call.start(kubernetes, namespace)
    await call.hang_up()
    await bystander.wait_for_outcome(call.uid, Fact.TOPOLOGY_TERMINATED)
    proxy.lose_next_answer()
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"
    answer = await bystander.wait_for_outcome(call.uid, Fact.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert [(step.rule, step.result) for step in answer.outcome.trail] == [
        ("topology-gone", "condition lost (422)"),  # to the terminator's own first try
        ("ended-by-exeunt", ""),
    ]
    assert len(answer.outcome.deleted_step_runs) == len(call.staging.steps)


async def test_a_terminator_killed_between_its_write_and_the_deletes(
    kubernetes: Kubernetes, namespace: str, mesh: Mesh, proxy: TcpProxy, behind: dict[str, str], stopped: Stopped
) -> None:
    await start_all(mesh, behind)
    call = await finished_behind_the_proxy(proxy, kubernetes, namespace)
    await mesh.kill("terminator")
    await mesh.start("terminator", 0, **QUICK)
    await call.wait_cleaned_up()
    assert (await stopped(call)).written_by == "exeunt-terminator"


async def test_what_is_not_done_within_the_drain_budget_is_given_to_another_instance(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    mesh: Mesh,
    proxy: TcpProxy,
    behind: dict[str, str],
    stopped: Stopped,
) -> None:
    patient = {"EXEUNT_ACK_WAIT": "1m"}  # silence would give it away only then
    await start_all(mesh, {**behind, "EXEUNT_DRAIN_BUDGET": "500ms"}, **patient)
    call = await finished_behind_the_proxy(proxy, kubernetes, namespace)
    await mesh.start("terminator", 1, **{**QUICK, **patient})
    assert await mesh.stop("terminator", within=5) == 0
    await call.wait_cleaned_up(within=5)
    assert (await stopped(call)).written_by == "exeunt-terminator"
    answer = await bystander.wait_for_outcome(call.uid, Fact.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert answer.outcome.verdict is Verdict.ALREADY_TERMINAL
