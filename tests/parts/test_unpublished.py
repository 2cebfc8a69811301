"""What was done without the bus, published when it is back: once, after what others have published, and bounded."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from actors.broken_webhook import writes_fail
from actors.call import Call
from actors.kubernetes import Kubernetes
from core.objects import NOW, snapshot
from exeunt.bus.connection import Bus
from exeunt.bus.mesh_streams import runs_stream
from exeunt.bus.publisher import last_message, publish
from exeunt.bus.streams import ensure_stream
from exeunt.events.codec import event_message, outcome_message, read_event
from exeunt.events.event_types import Decided, EventType, Outcome, Verdict
from exeunt.events.subjects import RUNS, event_subject, outcome_subject
from exeunt.kube.client import KubeClient
from exeunt.settings import Settings
from exeunt.telemetry.metrics import UNPUBLISHED_LOST
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.nats_server import NatsServer
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.local_streams import Done
from exeunt_terminator.remembered import Remembered
from exeunt_terminator.stand_in import StandIn
from exeunt_terminator.unpublished import Unpublished

Until = Callable[..., Awaitable[None]]

CAUSE = EventType.TOPOLOGY_TERMINATED


@pytest.fixture
async def nats_server(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A server of this module's own: it has the stream RUNS."""
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as nats_server:
        yield nats_server


def done(uid: str, verdict: Verdict = Verdict.FINALIZE, version: str = "1") -> Done:
    """A stop that was decided from the run as of `version`."""
    message = event_message(
        CAUSE, snapshot(uid=uid, resource_version=version), source="/exeunt/terminator", now=NOW, context={}
    )
    event = read_event(message.headers, message.payload)
    outcome = Outcome(
        cause_sequence=0,
        trail=(Decided("", verdict, "topology-gone", ""),),
        finished_at="2026-11-24T18:13:33Z" if verdict is Verdict.FINALIZE else None,
        without_bus=True,
    )
    return Done(message, event, outcome, NOW)


async def published(unpublished: Unpublished) -> None:
    """Until all is published."""
    publishing = asyncio.create_task(unpublished.publish(lambda: True))
    async with asyncio.timeout(20):
        while unpublished:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
    publishing.cancel()


async def test_a_stop_that_is_not_done_when_the_bus_is_back_is_left_to_it(
    bus: Bus, control_plane: ControlPlane, kubernetes: Kubernetes, namespace: str, until: Until
) -> None:
    await ensure_stream(bus, runs_stream())
    kubeconfig = await control_plane.kubeconfig_for("exeunt-terminator", "exeunt")
    client = await KubeClient.connect(kubeconfig=str(kubeconfig), retry_budget=0.1)
    unpublished = Unpublished(bus)
    stand_in = StandIn(
        client,
        bus,
        Settings(namespaces=(namespace,)),
        events=KubernetesEvents(client, enabled=False),
        remembered=Remembered(),
        unpublished=unpublished,
    )
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1h")
    await call.signal_topology_terminated()
    with capture_logs() as logs:
        async with writes_fail(control_plane, namespace, call.name, "terminator"):
            running = asyncio.create_task(stand_in.run())
            await call.cancel()
            canceled = await call.observe_cancel()
            await until(lambda: any(log["event"] == "stop not done yet" for log in logs), within=30)
            stand_in.stop()
            await running
    await client.close()
    await published(unpublished)
    token = canceled.replace(".", "_")
    subject = f"exeunt.runs.{namespace}.{call.name}.{call.uid}.{token}"
    assert await last_message(bus, RUNS, f"{subject}.cancel-requested") is not None
    assert await last_message(bus, RUNS, f"{subject}.outcome.cancel-requested") is None


async def stored(bus: Bus, what: Done) -> tuple[int, Outcome]:
    """The sequence of the event, and the last outcome."""
    cancellation = what.event.snapshot.run.cancellation
    event = await last_message(bus, RUNS, event_subject(cancellation, CAUSE))
    outcome = await last_message(bus, RUNS, outcome_subject(cancellation, CAUSE))
    assert event is not None
    assert outcome is not None
    return event.sequence, msgspec.json.decode(outcome.data, type=Outcome)


async def number_of_messages(bus: Bus) -> int:
    number: int = (await bus.api(f"STREAM.INFO.{RUNS}"))["state"]["messages"]
    return number


async def test_published_twice_it_is_there_once_and_names_its_event(bus: Bus) -> None:
    await ensure_stream(bus, runs_stream())
    one = done("one")
    for _ in range(2):  # as when the first answer is lost
        unpublished = Unpublished(bus)
        unpublished.add(one)
        await published(unpublished)
    sequence, outcome = await stored(bus, one)
    assert await number_of_messages(bus) == 2
    assert (outcome.cause_sequence, outcome.without_bus, outcome.verdict) == (sequence, True, Verdict.FINALIZE)


@pytest.mark.parametrize(("verdict", "added"), [(Verdict.FINALIZE, 1), (Verdict.ALREADY_TERMINAL, 0)])
async def test_what_others_published_stays_and_what_ended_the_run_is_added(
    bus: Bus, verdict: Verdict, added: int
) -> None:
    await ensure_stream(bus, runs_stream())
    theirs, ours = done("both", Verdict.ALREADY_TERMINAL), done("both", verdict, version="2")
    await publish(bus, theirs.message, deadline=5)
    assert theirs.outcome is not None
    outcome = replace(theirs.outcome, without_bus=False)
    cancellation = theirs.event.snapshot.run.cancellation
    await publish(
        bus, outcome_message(outcome, cancellation, CAUSE, source="/exeunt/other", now=NOW, context={}), deadline=5
    )
    unpublished = Unpublished(bus)
    unpublished.add(ours)
    await published(unpublished)
    assert await number_of_messages(bus) == 2 + added
    _, last = await stored(bus, ours)
    assert last.without_bus == bool(added)
    if added:  # the event is theirs, and was decided from another snapshot
        assert last.trail[0].reread is not None
        assert last.trail[0].reread.run.resource_version == "2"


async def test_beyond_the_bound_the_newest_are_counted_as_lost(bus: Bus) -> None:
    await ensure_stream(bus, runs_stream())
    unpublished = Unpublished(bus, most=1)
    first, second = done("first"), done("second")
    lost = UNPUBLISHED_LOST.figures._value.get()
    for each in (first, second):
        unpublished.add(each)
    assert UNPUBLISHED_LOST.figures._value.get() == lost + 1
    await published(unpublished)
    await stored(bus, first)
    assert await last_message(bus, RUNS, second.message.subject) is None
