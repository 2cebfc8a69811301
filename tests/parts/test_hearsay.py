"""What others publish is heard without JetStream, and acted on by a terminator that stands in for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest

from actors.call import Call
from actors.kubernetes import Kubernetes
from core.objects import FENCE_WAIT, snapshot
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.hearsay import Hearsay, tell
from exeunt.bus.mesh_streams import runs_stream
from exeunt.bus.publisher import publish
from exeunt.bus.streams import ensure_stream
from exeunt.bus.unstored import Word
from exeunt.events.codec import event_message
from exeunt.events.event_types import EventType
from exeunt.events.messages import Message
from exeunt.kube.client import KubeClient
from exeunt.kube.resources import STORY_RUNS
from exeunt.run.snapshot import Evidence, EvidenceKind, Topology, read_run
from exeunt.settings import Settings
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.nats_server import NatsServer
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.remembered import Remembered
from exeunt_terminator.stand_in import StandIn
from exeunt_terminator.unpublished import Unpublished

Until = Callable[..., Awaitable[None]]


@pytest.fixture
async def nats_server(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A server of the test's own: it has the stream RUNS, or not."""
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as nats_server:
        yield nats_server


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    kubeconfig = await control_plane.kubeconfig_for("exeunt-terminator", "exeunt")
    client = await KubeClient.connect(kubeconfig=str(kubeconfig))
    yield client
    await client.close()


@pytest.fixture
async def call(kubernetes: Kubernetes, namespace: str) -> Call:
    """A canceled call whose bindings are gone before anybody has seen them."""
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1h")
    await call.cancel()
    await call.observe_cancel()
    await call.lose_bindings()
    return call


@pytest.fixture
async def hearsay(bus: Bus) -> AsyncIterator[Hearsay]:
    hearsay = Hearsay(bus)
    running = asyncio.create_task(hearsay.run())
    await asyncio.sleep(0)
    await bus.nc.flush()
    yield hearsay
    running.cancel()


async def published(
    client: KubeClient,
    call: Call,
    event_type: EventType = EventType.TOPOLOGY_TERMINATED,
    gone: EvidenceKind | None = None,
) -> Message:
    """What a watcher publishes."""
    now = datetime.now(UTC)
    run = await client.get(STORY_RUNS, call.namespace, call.name)
    state = read_run(run, first_seen=now, now=now, fence_wait=FENCE_WAIT)
    evidence = Evidence(gone, 2, "nobody is left") if gone else None
    event = snapshot(state, topology=Topology(established=True, step_runs_seen=True, gone=evidence), step_runs=None)
    return event_message(event_type, event, source="/exeunt/watcher", now=now, context={})


def stand_in_for(call: Call, client: KubeClient, bus: Bus) -> StandIn:
    return StandIn(
        client,
        bus,
        Settings(namespaces=(call.namespace,)),
        events=KubernetesEvents(client, enabled=False),
        remembered=Remembered(),
        unpublished=Unpublished(bus),
    )


async def test_what_the_stream_has_and_nobody_delivers_is_read(bus: Bus, client: KubeClient, call: Call) -> None:
    await ensure_stream(bus, runs_stream())
    stand_in = stand_in_for(call, client, bus)
    await publish(bus, await published(client, call, EventType.TOPOLOGY_ESTABLISHED), deadline=10)
    running = asyncio.create_task(stand_in.run())
    await call.wait_finished(30)
    stand_in.stop()
    await running


@pytest.mark.parametrize(("gone", "ends"), [("bindings-gone", True), ("signal", False)])
async def test_an_event_that_is_not_stored_is_acted_on_unless_only_the_bus_knows_whether_it_holds(
    bus: Bus, client: KubeClient, call: Call, hearsay: Hearsay, until: Until, gone: EvidenceKind, *, ends: bool
) -> None:
    stand_in = stand_in_for(call, client, bus)
    event = await published(client, call, gone=gone)
    with pytest.raises(BusUnavailable):
        await publish(bus, event, deadline=0.5, tells=True)  # there is no such stream
    await until(lambda: [each.subject for each in hearsay.unstored] == [event.subject])
    assert "nobody answers" in str(hearsay.unavailable_reason)
    assert hearsay.since is not None
    stand_in.hear(hearsay.unstored[0])
    running = asyncio.create_task(stand_in.run())
    if ends:
        await call.wait_finished(30)
    else:
        await until(lambda: stand_in.unavailable_reason is None)
        await asyncio.sleep(1)
        assert (await call.get())["status"]["phase"] == "Running"
    stand_in.stop()
    await running


async def test_what_is_no_word_is_nothing_and_what_is_large_goes_without_its_body(
    bus: Bus, hearsay: Hearsay, until: Until
) -> None:
    understood = {"Exeunt-Subject": "small", "Exeunt-Reason": "full", "Exeunt-Failing-For": "1.5"}
    for wrong in ("-1", "nan", "inf", "long"):
        await bus.nc.publish("exeunt.unstored", b"", headers=understood | {"Exeunt-Failing-For": wrong})
    await bus.nc.publish("exeunt.unstored", b"", headers={"Exeunt-Subject": "small"})
    await bus.nc.publish("exeunt.unstored", bytes(100_000), headers=understood)
    await tell(bus, Word(Message(subject="large", payload=bytes(100_000), headers={}), "full", 1.5))
    await until(lambda: [(each.subject, each.payload) for each in hearsay.unstored] == [("large", b"")])
