"""A topology that is up again by the time its fact is acted on: nobody is cut off, and its real end is not missed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import connect
from actors.kubernetes import Kubernetes
from actors.names import TRIGGER_TOKEN
from actors.recorder import Recorder, State
from actors.services import without
from actors.signaling import a_room, send
from exeunt.events import Fact
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

Stopped = Callable[..., Awaitable[State]]
Step = Callable[[Call, Bystander, str], Awaitable[None]]

A_WHILE = 1.5
"""Seconds for which a run that must not end is looked at: its event comes again after one to two."""


async def bindings_go(call: Call, *_: object) -> None:
    await call.hang_up()


async def bindings_come(call: Call, *_: object) -> None:
    await connect(call.kubernetes, await call.get(), call.staging)


async def room_empties(call: Call, bystander: Bystander, sid: str) -> None:
    await send(bystander.streams, call, token=sid)


async def room_fills(call: Call, bystander: Bystander, sid: str) -> None:
    await send(bystander.streams, call, token=sid, gone=False)


async def hub_says_so(call: Call, *_: object) -> None:
    await call.signal_topology_terminated()


async def hub_is_overwritten(call: Call, *_: object) -> None:
    await call.lose_topology_terminated()


@pytest.mark.parametrize(
    ("goes", "comes_back"),
    [(bindings_go, bindings_come), (room_empties, room_fills), (hub_says_so, hub_is_overwritten)],
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
    room = a_room()
    sid = room[TRIGGER_TOKEN]
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s", annotations=room)
    await call.cancel()
    await bystander.wait_for_outcome(call.uid, Fact.CANCEL_REQUESTED)
    async with without(running_mesh, "terminator"):
        await goes(call, bystander, sid)
        await bystander.wait_for_fact(call.uid, Fact.TOPOLOGY_TERMINATED)
        await comes_back(call, bystander, sid)
    await asyncio.sleep(A_WHILE)
    assert recorder.terminal_transitions(call.uid) == []
    await goes(call, bystander, sid)
    assert (await stopped(call, within=20)).written_by == "exeunt-terminator"
