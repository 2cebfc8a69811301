"""What the bridge says of rooms when LiveKit, NATS or the bridge itself is in trouble: processes and a real NATS, and a
LiveKit that is played, because faults are injected.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from actors.collector import Collector, tree
from actors.livekit_api import LiveKitApi
from actors.livekit_bridge import Bridge, Signals, event, signed, webhook
from actors.streams import subjects
from exeunt.bus.connection import Bus, connect
from exeunt.bus.publisher import publish
from exeunt.events.messages import Message
from exeunt.events.subjects import LIVEKIT, look_subject, trigger_token_subject
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer

SID, ROOM, BOT = "RM_1", "call-42", "bubu-agent-listen-1"


@pytest.fixture
async def nats(servers: Binaries, tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server) as server:
        yield server


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await connect(nats.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
    yield bus
    await bus.close(5)


@pytest.fixture
async def signals(bus: Bus) -> Signals:
    signals = Signals(bus)
    await signals.make_stream()
    return signals


@pytest.fixture
async def livekit() -> AsyncIterator[LiveKitApi]:
    async with LiveKitApi() as livekit:
        yield livekit


Start = Callable[..., Bridge]


@pytest.fixture
def bridge(nats: NatsServer, livekit: LiveKitApi, tmp_path: Path) -> Start:
    """A bridge that is not started yet; any number of them share NATS and LiveKit."""

    def bridge(name: str = "0", **env: str) -> Bridge:
        return Bridge(tmp_path / name, nats_url=nats.url, livekit_url=livekit.url, **env)

    return bridge


async def looks(bus: Bus) -> set[str]:
    return set(await subjects(bus, LIVEKIT))


async def until_no_look(bus: Bus) -> None:
    async with asyncio.timeout(30):
        while await looks(bus):  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.02)


async def test_a_call_from_its_first_to_its_last_word(
    bus: Bus, signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    async with bridge() as it:
        livekit.rooms[ROOM] = (SID, ["alice", "bob", BOT])
        await it.post(webhook("participant_joined", who="bob"))
        await it.until_looked(1)
        livekit.rooms[ROOM] = (SID, ["bob", BOT])
        await it.post(webhook("participant_left", who="alice"))
        await it.until_looked(2)
        livekit.rooms[ROOM] = (SID, [BOT])
        await it.post(webhook("participant_left", who="bob"))
        await it.until_looked(3)
        livekit.rooms[ROOM] = (SID, [BOT, "bob"])
        await it.post(webhook("participant_joined", who="bob"))
        await it.until_looked(4)
        del livekit.rooms[ROOM]
        await it.post(webhook("room_finished"))
        await signals.until(SID, gone=True)
        await until_no_look(bus)
        assert [signal.detail for signal in await signals.all()] == [
            "room call-42 (RM_1): participant_left bob; still there: bubu-agent-listen-1",
            "room call-42 (RM_1): participant_joined bob; there: bob",
            "room call-42 (RM_1): room_finished; the room is no more",
        ]
        metrics = await it.metrics()
        assert 'exeunt_livekit_looks_total{result="gone"} 2.0' in metrics
        assert 'exeunt_livekit_looks_total{result="up"} 1.0' in metrics
        assert 'exeunt_livekit_looks_total{result="known"} 2.0' in metrics
        assert "exeunt_livekit_signal_latency_seconds_count 3.0" in metrics


async def test_webhooks_late_twice_and_out_of_order_say_nothing_new(
    bus: Bus, signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    async with bridge() as it:
        livekit.rooms[ROOM] = (SID, [BOT])
        again = signed(event("participant_left", who="alice"))
        for _ in range(3):
            assert await it.post(again) == 200
        await signals.until(SID, gone=True)
        await it.post(webhook("participant_joined", who="alice"))  # it was late: she has left
        await it.post(webhook("room_started"))
        del livekit.rooms[ROOM]
        await it.post(webhook("room_finished"))
        await until_no_look(bus)
        await it.post(webhook("participant_left", who=BOT))
        await it.post(again)
        await until_no_look(bus)
        assert len(await signals.all()) == 1


async def test_another_room_of_the_same_name_is_another_call(
    signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    async with bridge() as it:
        livekit.rooms[ROOM] = ("RM_2", ["alice"])
        await it.post(webhook("participant_joined", "RM_2", who="alice"))
        await it.post(webhook("participant_left", "RM_1", who="alice"))
        signal = await signals.until("RM_1", gone=True)
        assert signal.detail == "room call-42 (RM_1): participant_left alice; the room is no more"
        assert await signals.last("RM_2") is None


async def test_a_room_made_anew_between_two_questions_does_not_lend_its_people(
    signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    async with bridge() as it:
        livekit.rooms[ROOM] = (SID, [])
        await it.post(webhook("participant_left", who="alice"))
        await signals.until(SID, gone=True)
        livekit.before_participants = lambda: livekit.rooms.update({ROOM: ("RM_2", ["bob"])})
        await it.post(webhook("participant_joined", who="bob"))
        await it.post(webhook("participant_joined", "RM_2", who="bob"))
        await it.post(webhook("room_finished", "RM_3", "another"))
        await signals.until("RM_3", gone=True)
        assert [(signal.message.subject.rpartition(".")[2], signal.gone) for signal in await signals.all()] == [
            ("RM_1", True),
            ("RM_3", True),
        ]


async def test_a_caller_who_rejoins_was_never_away(signals: Signals, livekit: LiveKitApi, bridge: Start) -> None:
    async with bridge() as it:
        livekit.rooms[ROOM] = (SID, [])

        def rejoin() -> None:
            if livekit.asked:  # nobody the first time, and then she is there
                livekit.rooms[ROOM] = (SID, ["alice"])

        livekit.before_participants = rejoin
        await it.post(webhook("participant_left", who="alice"))
        await it.post(webhook("room_finished", "RM_3", "another"))
        await signals.until("RM_3", gone=True)
        await it.until_looked(2)
        assert livekit.asked.count(ROOM) == 2
        assert await signals.last(SID) is None


async def test_without_webhooks_the_timer_finds_it(signals: Signals, livekit: LiveKitApi, bridge: Start) -> None:
    async with bridge(EXEUNT_LIVEKIT_LOOK_INTERVAL="200ms") as it:
        livekit.rooms[ROOM] = (SID, ["alice"])
        await it.post(webhook("participant_joined", who="alice"))
        await it.until_looked(1)
        livekit.rooms[ROOM] = (SID, [BOT])
        signal = await signals.until(SID, gone=True)
        assert signal.detail == (
            "room call-42 (RM_1): looked again some time after participant_joined alice;"
            " still there: bubu-agent-listen-1"
        )
        livekit.rooms[ROOM] = (SID, [BOT, "alice"])
        await signals.until(SID, gone=False)
        livekit.rooms[ROOM] = ("RM_2", ["alice"])  # as after a crash of the server: no webhook tells of the old one
        await signals.until(SID, gone=True)
        assert "exeunt_livekit_signal_latency_seconds_count 0.0" in await it.metrics()


async def test_a_call_that_began_before_the_bridge_is_found(
    signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    livekit.rooms[ROOM] = (SID, ["alice"])
    async with bridge(EXEUNT_LIVEKIT_LOOK_INTERVAL="200ms") as it:
        await it.until_looked(1)
        assert await signals.last(SID) is None
        livekit.rooms[ROOM] = (SID, [])
        signal = await signals.until(SID, gone=True)
        assert signal.detail == "room call-42 (RM_1): looked again some time after discovered; still there: nobody"


async def test_what_a_killed_bridge_knew_the_next_one_knows(
    bus: Bus, signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    livekit.rooms[ROOM] = (SID, [BOT])
    async with bridge("first") as first:
        await first.post(webhook("participant_left", who="alice"))
        await signals.until(SID, gone=True)
        await first.process.kill()
    del livekit.rooms[ROOM]
    livekit.rooms["another"] = ("RM_2", ["bob"])
    async with bridge("second", EXEUNT_LIVEKIT_LOOK_INTERVAL="200ms"):
        async with asyncio.timeout(60):
            while await looks(bus) != {look_subject("RM_2")}:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)
    assert [signal.message.subject.rpartition(".")[2] for signal in await signals.all()] == [SID]


async def test_two_bridges_say_everything_once(bus: Bus, signals: Signals, livekit: LiveKitApi, bridge: Start) -> None:
    quick = {"EXEUNT_LIVEKIT_LOOK_INTERVAL": "50ms"}
    async with bridge("a", **quick) as a, bridge("b", **quick) as b:
        sids = [f"RM_{number}" for number in range(20)]
        for step in range(3):
            there = [BOT] if step % 2 == 0 else ["alice"]
            for sid in sids:
                livekit.rooms[f"room-{sid}"] = (sid, there)
            posts = [
                it.post(webhook("participant_left", sid, f"room-{sid}", who=who))
                for sid in sids
                for it in (a, b)
                for who in ("alice", "bob")
            ]
            assert set(await asyncio.gather(*posts)) == {200}
            for sid in sids:
                await signals.until(sid, gone=step % 2 == 0)
        livekit.rooms.clear()
        await until_no_look(bus)
        reported = [(signal.message.subject, signal.gone) for signal in await signals.all()]
        for sid in sids:
            mine = [gone for subject, gone in reported if subject.endswith(f".{sid}")]
            assert mine == [True, False, True]


@pytest.mark.parametrize("fault", ["away", "slow", "503", "204", "not LiveKit"])
async def test_what_livekit_does_not_answer_is_asked_again(
    signals: Signals, livekit: LiveKitApi, bridge: Start, fault: str
) -> None:
    async with bridge() as it:
        match fault:
            case "away":
                await livekit.stop()
            case "slow":
                livekit.delay = 60.0
            case "not LiveKit":
                livekit.body = b"<html>"
            case status:
                livekit.status = int(status)
        livekit.rooms[ROOM] = (SID, [BOT])
        assert await it.post(webhook("participant_left", who="alice")) == 200
        async with asyncio.timeout(30):
            while "livekit" not in (unavailable_reasons := await it.ready()):  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)
        assert unavailable_reasons["livekit"].startswith(f"LiveKit at 127.0.0.1:{livekit.port} ")
        assert await signals.last(SID) is None
        livekit.delay, livekit.status, livekit.body = 0.0, 200, None
        if fault == "away":
            await livekit.start()
        await signals.until(SID, gone=True)
        assert "livekit" not in await it.ready()
        assert 'exeunt_livekit_looks_total{result="failed"} 0.0' not in await it.metrics()


async def test_while_nats_is_away_livekit_is_asked_to_come_again(
    nats: NatsServer, signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    async with bridge() as it:
        livekit.rooms[ROOM] = (SID, [BOT])
        await nats.kill()
        left = webhook("participant_left", who="alice")
        assert await it.post(left) == 503
        assert await it.post(webhook("track_published")) == 200  # of which nothing has to be stored
        await nats.start()
        async with asyncio.timeout(30):
            while await it.post(left) != 200:  # noqa: ASYNC110 - as LiveKit does
                await asyncio.sleep(0.2)
        await signals.until(SID, gone=True)


async def test_looks_wait_for_signals_to_have_a_stream(bus: Bus, livekit: LiveKitApi, bridge: Start) -> None:
    """It is not the bridge's: whoever installs it first gets what was missed."""
    async with bridge() as it:
        livekit.rooms[ROOM] = (SID, [BOT])
        assert await it.post(webhook("participant_left", who="alice")) == 200
        assert await looks(bus) == {look_subject(SID)}
        signals = Signals(bus)
        await signals.make_stream()
        await signals.until(SID, gone=True)


async def test_what_nobody_can_read_stops_nothing(
    bus: Bus, signals: Signals, livekit: LiveKitApi, bridge: Start
) -> None:
    livekit.rooms[ROOM] = (SID, ["alice"])
    anybodys = Message(
        subject=trigger_token_subject(SID), payload=b'{"trigger_token": "RM_1", "detail": ""}', headers={}
    )
    await publish(bus, replace(anybodys, headers={"ce-type": "no signal"}), deadline=10)
    async with bridge() as it:
        await publish(bus, Message(subject=look_subject("RM_0"), payload=b"{", headers={}), deadline=10)
        await it.post(webhook("participant_left", who="bob"))
        await it.until_looked(1)
        assert len(await signals.all()) == 1
        livekit.rooms[ROOM] = (SID, [])
        await it.post(webhook("participant_left", who="alice"))
        await signals.until(SID, gone=True)
        assert look_subject("RM_0") not in await looks(bus)


async def test_a_signal_is_traced_from_its_webhook_on(signals: Signals, livekit: LiveKitApi, bridge: Start) -> None:
    async with Collector() as collector, bridge(**collector.env) as it:
        livekit.rooms[ROOM] = (SID, [BOT])
        await it.post(webhook("participant_left", who="alice"))
        signal = await signals.until(SID, gone=True)
        _, trace_id, span_id, _ = signal.message.headers["traceparent"].split("-")
        await collector.wait_for(lambda: len(collector.trace(trace_id)) >= 8, within=30)
        assert tree(collector.trace(trace_id)) == [
            "livekit-bridge: POST /webhook",
            "  livekit-bridge: look",
            *["    livekit-bridge: POST /twirp/livekit.RoomService/ListParticipants"] * 3,
            *["    livekit-bridge: POST /twirp/livekit.RoomService/ListRooms"] * 3,
        ]
        (look,) = [span for span in collector.trace(trace_id) if span.name == "look"]
        assert look.span_id == span_id
        assert look.events == (("gone", {"exeunt.why": signal.detail}),)
