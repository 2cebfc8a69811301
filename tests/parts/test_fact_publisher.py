"""Facts of many runs on their way to the stream: one that cannot be said does not keep the others from it."""

from collections.abc import AsyncIterator

import msgspec
import pytest
import structlog
from msgspec import Raw
from msgspec.structs import replace

from core.objects import FENCE, snapshot, story_run
from exeunt import bobrapet
from exeunt.bus.connection import Bus
from exeunt.bus.publisher import last_message
from exeunt.bus.streams import ensure_stream
from exeunt.events import Fact
from exeunt.shutdown_timeout import DEFAULT, RUN_ANNOTATION, Rejected, ShutdownTimeout
from exeunt.streams import runs_stream
from exeunt.subjects import RUNS, fact_subject
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer
from exeunt_watcher import fact_publisher
from exeunt_watcher.fact_publisher import FactPublisher


@pytest.fixture
async def nats_server(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A server of this module's own: it has the stream RUNS."""
    async with NatsServer(tmp_path_factory.mktemp("nats"), binary=servers.nats_server) as nats_server:
        yield nats_server


async def test_a_fact_that_is_too_large_for_the_stream_is_its_own_runs_trouble(bus: Bus) -> None:
    await ensure_stream(bus, runs_stream())
    conditions = [{"type": f"C{number}", "status": "True", "message": "x" * 1000} for number in range(1200)]
    large = snapshot(uid="large", conditions=Raw(msgspec.json.encode(conditions)))
    small = snapshot(uid="small")
    async with FactPublisher(bus, on_failure=lambda: None) as facts:
        await facts.say(Fact.CANCEL_REQUESTED, large)
        await facts.say(Fact.CANCEL_REQUESTED, small)
    stored = [
        await last_message(bus, RUNS, fact_subject(each.run.episode, Fact.CANCEL_REQUESTED)) for each in (large, small)
    ]
    assert [each is not None for each in stored] == [False, True]


async def test_what_nobody_can_follow_is_warned_about_once_for_each_stop(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sweep offers the cancel again, and every watcher: the stream has it, and the log has the warning."""
    await ensure_stream(bus, runs_stream())
    monkeypatch.setattr(fact_publisher, "log", structlog.get_logger())
    rejected = ShutdownTimeout("20s", DEFAULT, (Rejected(RUN_ANNOTATION, "soon", "no Go duration"),))
    run = story_run(uid="unclear", fence=FENCE, annotations={bobrapet.ENABLED: "maybe"})
    unclear = replace(snapshot(run), shutdown=rejected)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            async with FactPublisher(bus, on_failure=lambda: None) as facts:
                await facts.say(Fact.CANCEL_REQUESTED, unclear)
    warned = [(line["event"], line["rule"], line["value"]) for line in lines if line["log_level"] == "warning"]
    assert warned == [
        ("shutdown timeout not usable", "StoryRun annotation", "soon"),
        ("opt-out not readable", "StoryRun annotation", "maybe"),
    ]
