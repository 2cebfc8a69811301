"""A terminator that loses the kube-apiserver around its finalizing write: the write counts, and the rest is done.

Its first instance speaks to the kube-apiserver through a proxy, which lets requests through and keeps the answers.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientSession

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.recorder import State
from actors.services import QUICK
from actors.signaling import everyone_leaves
from actors.tcp_proxy import TcpProxy
from exeunt.events.event_types import EventType, Verdict
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

Stopped = Callable[..., Awaitable[State]]


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
    """Starts one of each service, the terminator behind the proxy.

    It comes last, because from its start on it probes the kube-apiserver every 10 s or so: what happens to an answer
    in the next seconds does not happen to that of a probe.
    """
    settings = {**QUICK, **env}
    await asyncio.gather(mesh.start("watcher", 0, **settings), mesh.start("timeout-scheduler", 0, **settings))
    await mesh.start("terminator", 0, **{**settings, **behind})


async def metrics(mesh: Mesh) -> Callable[[str], float]:
    """What the terminator counts, by name and labels."""
    async with ClientSession() as http, http.get(f"{mesh.url('terminator')}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {
        name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")
    }.__getitem__


async def finished_behind_the_proxy(proxy: TcpProxy, kubernetes: Kubernetes, namespace: str) -> Call:
    """A call whose end is written, and the terminator waits for the answer to that."""
    call = await Call.start(kubernetes, namespace)
    await call.signal_topology_terminated()  # which needs no look at anything else before the write
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
    await everyone_leaves(bystander.streams, call)
    await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    proxy.lose_next_answer()
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    # The second try has lost its condition to the first.
    steps = [(step.verdict, step.rule, step.result) for step in answer.outcome.trail]
    assert steps == [("finalize", "topology-gone", "written, the answer lost")]
    assert answer.outcome.verdict is Verdict.FINALIZE
    assert answer.outcome.finished_at == (await call.get())["status"]["finishedAt"]
    assert len(answer.outcome.deleted_step_runs) == len(call.staging.steps)
    counted = await metrics(mesh)
    assert counted('exeunt_stop_latency_seconds_count{cause="cancel"}') == 1
    assert counted('exeunt_deliveries_total{answer="retry",consumer="terminator"}') == 0


async def test_the_answer_to_the_record_is_lost(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    mesh: Mesh,
    nats_server: NatsServer,
    proxy: TcpProxy,
    behind: dict[str, str],
    stopped: Stopped,
) -> None:
    async with TcpProxy(int(nats_server.url.rpartition(":")[2])) as to_nats:
        await start_all(mesh, {**behind, "EXEUNT_NATS_URL": f"nats://127.0.0.1:{to_nats.port}"})
        call = await finished_behind_the_proxy(proxy, kubernetes, namespace)
        to_nats.go_silent()
        proxy.restore()
        proxy.cut()  # the write is sent again, and what comes after it is done
        await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
        to_nats.restore()
        to_nats.cut()
        assert (await stopped(call)).written_by == "exeunt-terminator"
        counted = await metrics(mesh)
    history = await bystander.history(call.uid)
    answers = [
        recorded.outcome.verdict
        for recorded in history
        if recorded.outcome is not None and recorded.event_type is EventType.CANCEL_REQUESTED
    ]
    assert answers == [Verdict.FINALIZE]
    assert counted('exeunt_outcomes_total{cause="cancel-requested",verdict="finalize"}') == 1


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
    assert await mesh.stop("terminator", within=15) == 0
    await call.wait_cleaned_up(within=20)
    assert (await stopped(call)).written_by == "exeunt-terminator"
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert answer.outcome.verdict is Verdict.ALREADY_TERMINAL
