"""What a stop costs in requests, messages, records and bytes, counted on the real parts. Never in times: counts are the
same on any machine.

A count that has grown by more than 15 % fails. Where that is meant, write down what it is now, and why in the commit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

import pytest
from nats.js import JetStreamContext

from actors.admin import admin_client
from actors.bystander import Bystander
from actors.call import Call
from actors.counting import ANSWERED, ASKED, PUBLISHED, RECORDS, REQUESTS, SENT, STORED, Counting, audited
from actors.kubernetes import Kubernetes
from actors.services import start_all
from actors.signaling import bindings_go, everyone_leaves, hub_reports_gone
from exeunt.events.event_types import EventType
from exeunt_local import BASE, CRDS
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

STOPS: Final = 8
NAMESPACE: Final = "counted"
TOLERANCE: Final = 1.15
ONLY_STOPS: Final = {"EXEUNT_SWEEP_INTERVAL": "1h", "EXEUNT_SECOND_LOOK": "1h", "EXEUNT_ACK_WAIT": "1m"}
"""What a machine that is busy would bring in between is out of the way."""


class Way(NamedTuple):
    """How a call that is canceled ends, and what that costs; with its beginning, which is published, too.

    `leave` is None where nobody leaves, and its deadline comes.
    """

    leave: Callable[[JetStreamContext, Call], Awaitable[None]] | None
    costs: dict[str, float]


WAYS: Final = {
    "somebody says so": Way(
        everyone_leaves,
        {REQUESTS: 3, PUBLISHED: 6, ANSWERED: 6, ASKED: 3, RECORDS: 5, STORED: 5310, SENT: 5530},
    ),
    "the hub says so": Way(
        hub_reports_gone,
        {REQUESTS: 3, PUBLISHED: 6, ANSWERED: 4, ASKED: 1, RECORDS: 5, STORED: 5464, SENT: 5684},
    ),
    "the bindings go": Way(
        bindings_go,
        {REQUESTS: 4, PUBLISHED: 6, ANSWERED: 4, ASKED: 1, RECORDS: 5, STORED: 5245, SENT: 5465},
    ),
    "its deadline comes": Way(
        None,
        {REQUESTS: 5, PUBLISHED: 6, ANSWERED: 5, ASKED: 1, RECORDS: 5, STORED: 5168, SENT: 5393},
    ),
}
"""The requests are the write and the deletion of two StepRuns; bindings are listed again before the write, and at its
deadline the run and its Story are read. A signal is answered by the watcher that shares it and by the one that hears
it, and asked for again before the write, by the run's name and its trigger token. The other call purges the deadline's
schedule.
"""


@pytest.fixture(scope="module")
async def control_plane(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    async with audited(tmp_path_factory.mktemp("audited"), binaries=servers) as control_plane:
        await control_plane.install_crds(CRDS)
        await control_plane.apply(BASE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield control_plane


@pytest.fixture(scope="module")
async def kubernetes(control_plane: ControlPlane) -> AsyncIterator[Kubernetes]:
    async with admin_client(control_plane.kubeconfig) as client:
        yield Kubernetes(client)


@pytest.fixture(scope="module")
async def nats_server(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as nats_server:
        yield nats_server


@pytest.fixture(scope="module")
async def counted_mesh(
    control_plane: ControlPlane, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    async with Mesh(folder, control_plane=control_plane, nats_url=nats_server.url) as mesh:
        await start_all(mesh, 0, **ONLY_STOPS)
        yield mesh


@pytest.mark.usefixtures("operator", "counted_mesh")
@pytest.mark.parametrize("way", WAYS)
async def test_a_stop_costs_no_more_than_it_did(
    kubernetes: Kubernetes, control_plane: ControlPlane, nats_server: NatsServer, bystander: Bystander, way: str
) -> None:
    async with Counting(control_plane, nats_server.url) as counting:
        calls = [await start(kubernetes, way, number) for number in range(STOPS)]
        for call in calls:
            await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED, within=30)
        await asyncio.gather(*(stop(call, WAYS[way], bystander) for call in calls))
        await bystander.wait_until_idle(within=30)
        totals = await counting.totals()
    grown = {what: (totals[what] / STOPS, cost) for what, cost in WAYS[way].costs.items()}
    grown = {what: (is_now, was) for what, (is_now, was) in grown.items() if is_now > TOLERANCE * was}
    assert grown == {}, {what: count / STOPS for what, count in counting.seen.items()}


async def start(kubernetes: Kubernetes, way: str, number: int) -> Call:
    """Of the same length of name in every way."""
    timeout = "5s" if WAYS[way].leave is None else "10m"
    name = f"{way.replace(' ', '-'):-<20.20}{number:04}"
    return await Call.start(kubernetes, NAMESPACE, name, shutdown_timeout=timeout)


async def stop(call: Call, way: Way, bystander: Bystander) -> None:
    """From the cancel to the end, with everything that is said of it."""
    await call.cancel()
    await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED, within=30)
    if way.leave is not None:
        await way.leave(bystander.streams, call)
    await call.wait_finished(within=30)
    await call.wait_cleaned_up(within=30)
    await bystander.wait_for_event(call.uid, EventType.RUN_TERMINAL, within=30)
