"""A signal of somebody else is evidence: it ends a canceled run, and no other."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from nats.js.errors import NotFoundError

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.recorder import Recorder, State
from actors.services import QUICK, without
from exeunt.events import Fact
from exeunt.signals import TYPE
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

Stopped = Callable[..., Awaitable[State]]


async def send(bystander: Bystander, call: Call, *, uid: str | None = None, at: datetime | None = None) -> None:
    """Says that everyone has left the call."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": call.uid,
        "ce-source": "/livekit/bridge",
        "ce-type": TYPE,
        "ce-time": (at or datetime.now(UTC)).isoformat(),
    }
    body = {"namespace": call.namespace, "name": call.name, "uid": uid or call.uid, "detail": "room_finished"}
    await bystander.streams.publish(
        f"exeunt.signals.{call.namespace}.{call.name}", json.dumps(body).encode(), headers=headers
    )


async def test_a_signal_after_the_cancel_ends_the_call(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await call.cancel()
    await bystander.wait_for_outcome(call.uid, Fact.CANCEL_REQUESTED)
    await send(bystander, call)
    await send(bystander, call)  # said twice is the same as said once
    assert (await stopped(call)).written_by == "exeunt-terminator"
    said = await bystander.wait_for_fact(call.uid, Fact.TOPOLOGY_TERMINATED)
    assert said.snapshot is not None
    assert said.snapshot.topology.gone is not None
    assert (said.snapshot.topology.gone.kind, said.snapshot.topology.gone.rank) == ("signal", 6)


async def test_a_signal_before_the_cancel_is_remembered_also_over_a_restart(
    kubernetes: Kubernetes, namespace: str, running_mesh: Mesh, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await send(bystander, call)
    answer = await bystander.wait_for_outcome(call.uid, Fact.TOPOLOGY_TERMINATED)
    assert answer.outcome is not None
    assert answer.outcome.rule == "not-canceled"
    async with without(running_mesh, "watcher"):
        pass
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"


async def test_a_signal_before_the_cancel_outlives_the_watcher_that_heard_it(
    kubernetes: Kubernetes, namespace: str, running_mesh: Mesh, bystander: Bystander, stopped: Stopped
) -> None:
    await running_mesh.start("watcher", 1, **QUICK)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await bystander.wait_for_fact(call.uid, Fact.TOPOLOGY_ESTABLISHED)
    await send(bystander, call)
    await bystander.wait_for_outcome(call.uid, Fact.TOPOLOGY_TERMINATED)
    (heard,) = [instance for instance in (0, 1) if await has_said(running_mesh, instance, call)]
    await running_mesh.kill("watcher", heard)
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"
    await running_mesh.start("watcher", heard, **QUICK)
    await running_mesh.stop("watcher", 1)


async def has_said(mesh: Mesh, instance: int, call: Call) -> bool:
    """Whether that watcher was the one to say that the call's topology is gone."""
    lines = map(json.loads, mesh.log("watcher", instance).read_text().splitlines())
    return any(line["event"] == str(Fact.TOPOLOGY_TERMINATED) and call.uid in line["run"] for line in lines)


async def test_forged_and_stale_signals_do_no_harm(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await call.cancel()
    await bystander.wait_for_outcome(call.uid, Fact.CANCEL_REQUESTED)
    await send(bystander, call, uid="somebody-else")
    await send(bystander, call, at=datetime.now(UTC) - timedelta(days=1))
    await send(bystander, call, at=datetime.now(UTC) + timedelta(days=1))
    later = await Call.start(kubernetes, namespace, "later", shutdown_timeout="60s")
    await later.cancel()
    await send(bystander, later)
    await stopped(later)
    assert recorder.terminal_transitions(call.uid) == []
    assert Fact.TOPOLOGY_TERMINATED not in await bystander.facts(call.uid)
    await call.hang_up()  # leaves no deadline behind that would come while others are tested
    await stopped(call)


async def test_a_malformed_signal_is_set_aside(bystander: Bystander, namespace: str) -> None:
    sent = await bystander.streams.publish(f"exeunt.signals.{namespace}.call", b"hello")
    subject, at = "exeunt.deadletters.watcher-signals", 1
    async with asyncio.timeout(10):
        while True:
            try:
                message = await bystander.streams.get_msg("DEADLETTERS", seq=at, subject=subject, next=True)
            except NotFoundError:
                await asyncio.sleep(0.01)
                continue
            if (message.headers or {})["Exeunt-Sequence"] == str(sent.seq):
                break
            at = (message.seq or 0) + 1
    assert "no CloudEvent" in (message.headers or {})["Exeunt-Reason"]
