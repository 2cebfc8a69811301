"""A topology that is up again by the time its event is acted on: nobody is cut off, and its real end is not missed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.js import JetStreamContext

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import connect
from actors.kubernetes import Kubernetes
from actors.recorder import Recorder, State
from actors.services import without
from actors.signaling import bindings_go, everyone_leaves, hub_reports_gone, somebody_is_back
from exeunt.events.event_types import EventType
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

Stopped = Callable[..., Awaitable[State]]
Step = Callable[[JetStreamContext, Call], Awaitable[None]]

A_WHILE = 1.5
"""Seconds for which a run that must not end is looked at: its event comes again after one to two."""


async def bindings_come(_: JetStreamContext, call: Call) -> None:
    await connect(call.kubernetes, await call.get(), call.staging)


async def hub_is_overwritten(_: JetStreamContext, call: Call) -> None:
    await call.lose_topology_terminated()


@pytest.mark.parametrize(
    ("goes", "comes_back"),
    [(everyone_leaves, somebody_is_back), (bindings_go, bindings_come), (hub_reports_gone, hub_is_overwritten)],
)
async def test_back_before_the_terminator_gets_to_it(
    kubernetes: Kubernetes,
    namespace: str,
    running_mesh: Mesh,
    bystander: Bystander,
    recorder: Recorder,
    stopped: Stopped,
    *,
    goes: Step,
    comes_back: Step,
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    async with without(running_mesh, "terminator"):
        await goes(bystander.streams, call)
        await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        await comes_back(bystander.streams, call)
    await asyncio.sleep(A_WHILE)
    assert recorder.terminal_transitions(call.uid) == []
    await goes(bystander.streams, call)
    assert (await stopped(call, within=20)).written_by == "exeunt-terminator"
