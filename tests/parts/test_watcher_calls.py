"""What a watcher asks for, carried out: an event that cannot be stored is an answer, and no trouble of other runs."""

from collections.abc import AsyncIterator

import msgspec
import pytest
import structlog
from msgspec import Raw
from msgspec.structs import replace

from actors.kubernetes import STORY_RUN, Kubernetes
from core.objects import CANCEL_OBSERVED_AT, snapshot, story_run
from exeunt.bus.connection import Bus
from exeunt.bus.mesh_streams import runs_stream
from exeunt.bus.publisher import last_message
from exeunt.bus.streams import ensure_stream
from exeunt.events.codec import carried
from exeunt.events.event_types import EventType
from exeunt.events.subjects import RUNS, event_subject
from exeunt.kube.client import KubeClient
from exeunt.run import bobrapet
from exeunt.run.shutdown_timeout import DEFAULT, RUN_ANNOTATION, Rejected, ShutdownTimeout
from exeunt.run.snapshot import Evidence, Topology
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.nats_server import NatsServer
from exeunt_watcher import calls
from exeunt_watcher.calls import Calls
from exeunt_watcher.commands import (
    AlreadyStored,
    GetRun,
    MessageAt,
    MessageRead,
    Publish,
    Recall,
    Recalled,
    Refused,
    RunRead,
    Stored,
)


@pytest.fixture
async def nats_server(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A server of this module's own: it has the stream RUNS."""
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as nats_server:
        yield nats_server


@pytest.fixture
async def carry_out(control_plane: ControlPlane, bus: Bus) -> AsyncIterator[Calls]:
    kube = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    yield Calls(kube, bus, on_failure=lambda: None)
    await kube.close()


async def test_an_event_that_is_too_large_for_the_stream_is_refused_and_another_is_stored(
    bus: Bus, carry_out: Calls
) -> None:
    await ensure_stream(bus, runs_stream())
    conditions = [{"type": f"C{number}", "status": "True", "message": "x" * 1000} for number in range(1200)]
    gone = Topology(established=True, gone=Evidence("hub-condition", 1, "all streams have ended"))
    due = snapshot(
        uid="large", cancel_requested=True, topology=gone, conditions=Raw(msgspec.json.encode(conditions))
    )  # with which it would be written
    large = Publish(EventType.CANCEL_REQUESTED, due)
    small = Publish(EventType.CANCEL_REQUESTED, snapshot(uid="small"))
    assert [await carry_out.answer(each) for each in (large, small)] == [Refused(large), Stored(small, 1)]
    stored = [
        await last_message(bus, RUNS, event_subject(each.snapshot.run.cancellation, each.event_type))
        for each in (large, small)
    ]
    assert [each is not None for each in stored] == [False, True]


async def test_what_is_stored_is_found_again_by_its_run_and_by_its_sequence(bus: Bus, carry_out: Calls) -> None:
    await ensure_stream(bus, runs_stream())
    first, second = (snapshot(uid="twice", resource_version=version) for version in ("1", "2"))
    asked = Recall(EventType.CANCEL_REQUESTED, second)
    assert await carry_out.answer(asked) == Recalled(asked, None)
    await carry_out.answer(Publish(EventType.CANCEL_REQUESTED, first))
    again = Publish(EventType.CANCEL_REQUESTED, second)
    answer = await carry_out.answer(again)
    assert isinstance(answer, AlreadyStored)
    assert answer.asked is again
    stored = carried(EventType.CANCEL_REQUESTED, first)
    assert await carry_out.answer(asked) == Recalled(asked, stored)
    there, nowhere = MessageAt(answer.sequence, again), MessageAt(answer.sequence + 1, again)
    assert await carry_out.answer(there) == MessageRead(there, stored)
    assert await carry_out.answer(nowhere) == MessageRead(nowhere, None)


async def test_a_run_is_read_or_found_to_be_gone(carry_out: Calls, kubernetes: Kubernetes, namespace: str) -> None:
    await kubernetes.create(STORY_RUN, namespace, "call", {"storyRef": {"name": "talk"}})
    answer = await carry_out.answer(GetRun((namespace, "call"), "any"))
    assert isinstance(answer, RunRead)
    assert answer.run is not None
    assert answer.run.metadata.key == (namespace, "call")
    asked = GetRun((namespace, "nobody"), "any")
    assert await carry_out.answer(asked) == RunRead(asked, None)


async def test_what_nobody_can_follow_is_warned_about_once_for_each_stop(
    bus: Bus, carry_out: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sweep offers the cancel again, and every watcher: the stream has it, and the log has the warning."""
    await ensure_stream(bus, runs_stream())
    monkeypatch.setattr(calls, "log", structlog.get_logger())
    rejected = ShutdownTimeout("20s", DEFAULT, (Rejected(RUN_ANNOTATION, "soon", "no Go duration"),))
    run = story_run(uid="unclear", cancel_observed_at=CANCEL_OBSERVED_AT, annotations={bobrapet.ENABLED: "maybe"})
    unclear = replace(snapshot(run), shutdown=rejected)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await carry_out.answer(Publish(EventType.CANCEL_REQUESTED, unclear))
    warned = [(line["event"], line["rule"], line["value"]) for line in lines if line["log_level"] == "warning"]
    assert warned == [
        ("shutdown timeout not usable", "StoryRun annotation", "soon"),
        ("opt-out not readable", "StoryRun annotation", "maybe"),
    ]
