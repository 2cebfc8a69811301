"""Requests that the kube-apiserver refuses for want of capacity (429) are waited out, and never taken for an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors import kubelet
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import BINDING, STORY_RUN, Kubernetes
from actors.recorder import State
from actors.services import QUICK, start_all
from actors.signaling import everyone_leaves
from actors.throttle import throttled
from exeunt.events.event_types import EventType, Verdict
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

Stopped = Callable[..., Awaitable[State]]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside that of the mesh."""
    return tmp_path_factory.mktemp("throttled")


async def wait_until_given_back(bystander: Bystander) -> None:
    """Until the terminator has got an event again that one retry budget was not enough for."""
    async with asyncio.timeout(30):
        while not (await bystander.streams.consumer_info("RUNS", "terminator")).num_redelivered:  # noqa: ASYNC110 - the world
            await asyncio.sleep(0.05)


async def test_a_throttled_stop_is_done_later(
    kubernetes: Kubernetes,
    namespace: str,
    control_plane: ControlPlane,
    bystander: Bystander,
    mesh: Mesh,
    stopped: Stopped,
    folder: Path,
) -> None:
    await start_all(mesh, EXEUNT_RETRY_BUDGET="1s")
    call = await Call.start(kubernetes, namespace)
    await everyone_leaves(bystander.streams, call)
    async with throttled(control_plane, folder, "terminator", STORY_RUN):
        await call.cancel()
        await kubelet.wait_until_missing(mesh.url("terminator"), "kubernetes", "429")
        await wait_until_given_back(bystander)
        assert await kubelet.attempts(mesh.url("terminator"))
        assert (await call.get())["status"]["phase"] == "Running"
        assert (EventType.CANCEL_REQUESTED, "topology-gone") not in await bystander.outcomes(call.uid)
    assert (await stopped(call, within=40)).written_by == "exeunt-terminator"
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert answer.outcome.verdict is Verdict.FINALIZE
    await kubelet.wait_until_ready(mesh.url("terminator"))


async def test_a_first_list_that_is_refused_is_no_empty_one(
    kubernetes: Kubernetes,
    namespace: str,
    control_plane: ControlPlane,
    nats_server: NatsServer,
    bystander: Bystander,
    mesh: Mesh,
    stopped: Stopped,
    folder: Path,
) -> None:
    await start_all(mesh)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED)
    await mesh.kill("watcher")
    await call.cancel()
    later = await Call.start(kubernetes, namespace, "later", shutdown_timeout="60s")
    settings = {"EXEUNT_NATS_URL": nats_server.url, "KUBECONFIG": str(mesh.folder / "exeunt-watcher.kubeconfig")}
    async with AsyncExitStack() as stack:
        async with throttled(control_plane, folder, "watcher", BINDING):
            watcher = await stack.enter_async_context(
                kubelet.running("watcher", folder / "watcher.log", **QUICK, **settings)
            )
            # All the rest is listed, and the run's bindings are remembered; but nobody knows what became of them.
            await kubelet.wait_until_missing(watcher.url, "watches", "not listed yet: transportbindings")
            assert await kubelet.attempts(watcher.url)
        await kubelet.wait_until_ready(watcher.url)
        assert await bystander.waits(call.uid)
        await later.cancel()
        await everyone_leaves(bystander.streams, later)
        await stopped(later)
        assert (await call.get())["status"]["phase"] == "Running"
        await everyone_leaves(bystander.streams, call)
        assert (await stopped(call)).written_by == "exeunt-terminator"
