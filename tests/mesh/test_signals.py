"""What others publish about a topology is evidence: it ends a canceled run, and no other, until it is taken back."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from nats.js.errors import NotFoundError

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.recorder import Recorder, State
from actors.services import QUICK, without
from actors.signaling import everyone_leaves, send, somebody_is_back
from exeunt.events.event_types import EventType
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

Stopped = Callable[..., Awaitable[State]]

A_WHILE = 0.5
"""Seconds for which a run that must not end is looked at: a stop takes some 20 ms."""


async def stays(call: Call, recorder: Recorder) -> None:
    """Asserts that a run is not ended while somebody would have had the time to."""
    await asyncio.sleep(A_WHILE)
    assert recorder.terminal_transitions(call.uid) == []


async def test_a_signal_after_the_cancel_ends_the_call(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await send(bystander.streams, call)
    await send(bystander.streams, call)  # said twice is the same as said once
    assert (await stopped(call)).written_by == "exeunt-terminator"
    recorded = await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
    assert recorded.snapshot is not None
    assert recorded.snapshot.topology.gone is not None
    assert (recorded.snapshot.topology.gone.kind, recorded.snapshot.topology.gone.rank) == ("signal", 6)


async def test_a_signal_before_the_cancel_is_remembered_also_over_a_restart(
    kubernetes: Kubernetes, namespace: str, running_mesh: Mesh, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await send(bystander.streams, call)
    answer = await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    assert answer.outcome is not None
    assert answer.outcome.rule == "not-canceled"
    async with without(running_mesh, "watcher"):
        pass
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"


async def test_a_signal_before_the_cancel_outlives_the_watcher_that_was_there(
    kubernetes: Kubernetes, namespace: str, running_mesh: Mesh, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await send(bystander.streams, call)
    await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    await running_mesh.start("watcher", 1, **QUICK)
    await running_mesh.kill("watcher", 0)
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"
    await running_mesh.start("watcher", 0, **QUICK)
    await running_mesh.stop("watcher", 1)


async def test_a_room_is_known_by_its_sid_alone(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    again = await Call.start(kubernetes, namespace, "again", shutdown_timeout="60s", sid=call.sid)
    other = await Call.start(kubernetes, namespace, "other", shutdown_timeout="60s")
    for each in (call, again, other):
        await each.cancel()
        await bystander.wait_until_answered(each.uid, EventType.CANCEL_REQUESTED)
    await everyone_leaves(bystander.streams, call)
    assert (await stopped(call)).written_by == "exeunt-terminator"
    assert (await stopped(again)).written_by == "exeunt-terminator"
    assert EventType.TOPOLOGY_TERMINATED not in await bystander.event_types(other.uid)
    await everyone_leaves(bystander.streams, other)
    await stopped(other)


async def test_a_room_that_was_over_before_its_run_was_there(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    before = await Call.start(kubernetes, namespace, "before", shutdown_timeout="60s")
    await everyone_leaves(bystander.streams, before)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s", sid=before.sid)
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"
    cancel = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert cancel.snapshot is not None
    assert cancel.snapshot.topology.gone is not None


@pytest.mark.parametrize("restarted", [False, True])
async def test_somebody_is_back_before_the_cancel(
    kubernetes: Kubernetes,
    namespace: str,
    running_mesh: Mesh,
    bystander: Bystander,
    recorder: Recorder,
    stopped: Stopped,
    *,
    restarted: bool,
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    left = datetime.now(UTC)
    await send(bystander.streams, call, token=call.sid, at=left)
    await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    await somebody_is_back(bystander.streams, call)
    await send(bystander.streams, call, token=call.sid, at=left)  # late, and older than what is known
    if restarted:
        async with without(running_mesh, "watcher"):
            pass
    await call.cancel()
    assert await bystander.waits(call.uid)
    await stays(call, recorder)
    await everyone_leaves(bystander.streams, call)
    assert (await stopped(call)).written_by == "exeunt-terminator"


async def test_a_hub_that_takes_its_word_back_before_the_cancel(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await call.signal_topology_terminated()
    await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    await call.lose_topology_terminated()
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await stays(call, recorder)
    await call.signal_topology_terminated()
    assert (await stopped(call)).written_by == "exeunt-terminator"


async def test_forged_and_stale_signals_do_no_harm(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await send(bystander.streams, call, uid="somebody-else")
    await send(bystander.streams, call, at=datetime.now(UTC) - timedelta(days=1))
    await send(bystander.streams, call, at=datetime.now(UTC) + timedelta(days=1))
    later = await Call.start(kubernetes, namespace, "later", shutdown_timeout="60s")
    await later.cancel()
    await send(bystander.streams, later)
    await stopped(later)
    assert recorder.terminal_transitions(call.uid) == []
    assert EventType.TOPOLOGY_TERMINATED not in await bystander.event_types(call.uid)
    await everyone_leaves(bystander.streams, call)  # leaves no deadline behind that would come while others are tested
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


async def test_a_trigger_token_that_no_signal_can_name_does_no_harm(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    """Whoever may make a run writes the token: asking for its subject would cost the terminator its connection."""
    call = await Call.start(kubernetes, namespace, sid="x" * 5000)
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await send(bystander.streams, call)
    assert (await stopped(call)).written_by == "exeunt-terminator"
