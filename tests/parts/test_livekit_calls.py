"""What the bridge says of real calls: a real LiveKit server with real people in its rooms, and its own webhooks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.livekit_bridge import SECRET, Bridge, Signals
from actors.livekit_room import LiveKitRoom
from actors.streams import subjects
from exeunt.bus.connection import Bus, connect
from exeunt.events.subjects import LIVEKIT
from exeunt_local import binaries
from exeunt_local.binaries import Binaries
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port

BOT = "bubu-agent-call-42-listen-1f3a"


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
def port() -> int:
    """Where the bridge takes webhooks."""
    return free_port()


@pytest.fixture
async def livekit(port: int, tmp_path: Path) -> AsyncIterator[LiveKitServer]:
    url = f"http://127.0.0.1:{port}/webhook"
    async with LiveKitServer(tmp_path / "livekit", binary=binaries.find_livekit(), webhook_urls=[url]) as server:
        yield server


@pytest.fixture
async def room(livekit: LiveKitServer) -> AsyncIterator[LiveKitRoom]:
    async with LiveKitRoom(livekit, "call-42") as room:
        yield room


def bridge_to(livekit: LiveKitServer, port: int, nats: NatsServer, folder: Path, **env: str) -> Bridge:
    given = {"EXEUNT_LIVEKIT_KEYS": str(livekit.keys_file), "EXEUNT_LIVEKIT_WEBHOOK_ADDR": f":{port}"}
    return Bridge(folder / "bridge", nats_url=nats.url, livekit_url=livekit.url, **(given | env))


@pytest.fixture
async def bridge(livekit: LiveKitServer, port: int, nats: NatsServer, tmp_path: Path) -> AsyncIterator[Bridge]:
    """Its timer looks every hour: what is published here follows from webhooks."""
    async with bridge_to(livekit, port, nats, tmp_path) as bridge:
        yield bridge


async def reported(signals: Signals) -> list[str]:
    return [f"{'gone' if signal.gone else 'up'}: {signal.detail.partition(': ')[2]}" for signal in await signals.all()]


async def until_counted(bridge: Bridge, series: str) -> None:
    """Wait until this series is there and not 0."""
    async with asyncio.timeout(30):
        while f"{series} 0.0" in (metrics := await bridge.metrics()) or series not in metrics:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_the_last_caller_ends_the_call(bridge: Bridge, signals: Signals, room: LiveKitRoom, bus: Bus) -> None:
    alice, bob = await room.join("alice"), await room.join("bob")
    await room.join(BOT)
    await room.join("supervisor", "--hidden")
    await room.join("helper", "--kind=agent")
    await alice.publish_microphone()
    await alice.unpublish_microphone()
    await bob.leave()
    await until_counted(bridge, 'exeunt_livekit_webhooks_total{answer="200",event="participant_left"}')
    assert await signals.last(alice.room_sid) is None
    await alice.leave()
    signal = await signals.until(alice.room_sid, gone=True)
    assert signal.detail.startswith(f"room call-42 ({alice.room_sid}): participant_left alice; still there: ")
    assert {BOT, "supervisor", "helper"} == set(signal.detail.partition("still there: ")[2].split(", "))
    alice = await room.join("alice")
    await signals.until(alice.room_sid, gone=False)
    await room.delete()
    await signals.until(alice.room_sid, gone=True)
    assert [line.partition(":")[0] for line in await reported(signals)] == ["gone", "up", "gone"]
    async with asyncio.timeout(30):
        while await subjects(bus, LIVEKIT):  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.05)


async def test_a_caller_who_comes_in_twice_has_not_left(bridge: Bridge, signals: Signals, room: LiveKitRoom) -> None:
    """LiveKit throws the first one out; nobody is listed for a moment."""
    await room.join("alice")
    await room.join(BOT)
    for _ in range(3):
        await room.join("alice")
    alice = await room.join("alice")
    await until_counted(bridge, 'exeunt_livekit_webhooks_total{answer="200",event="participant_left"}')
    await alice.leave()
    await signals.until(alice.room_sid, gone=True)
    (signal,) = await reported(signals)  # once, whichever of the looks was the first to see it
    assert signal.startswith("gone: ")
    assert signal.endswith(f"; still there: {BOT}")


async def test_a_server_killed_with_a_call_going_on(
    livekit: LiveKitServer, port: int, nats: NatsServer, signals: Signals, room: LiveKitRoom, tmp_path: Path
) -> None:
    """It never tells of the rooms that it had; who was in one is back in another, which is another call."""
    async with bridge_to(livekit, port, nats, tmp_path, EXEUNT_LIVEKIT_LOOK_INTERVAL="1s") as bridge:
        before = (await room.join("alice")).room_sid
        await bridge.until_looked(1)
        await livekit.restart()
        signal = await signals.until(before, gone=True)
        assert signal.detail.endswith("; the room is no more")
        async with asyncio.timeout(30):
            while await room.sid() in (None, before):  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.1)
        after = await room.sid()
        assert after is not None
        async with asyncio.timeout(30):
            while not await room.listed():  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.1)
        found = await signals.last(after)
        if found is not None and found.gone:  # it was looked at before she was in it
            await signals.until(after, gone=False)


async def test_livekit_repeats_what_nats_could_not_store(
    nats: NatsServer, bridge: Bridge, signals: Signals, room: LiveKitRoom
) -> None:
    alice = await room.join("alice")
    await room.join(BOT)
    await bridge.until_looked(1)
    await nats.kill()
    await alice.leave()
    await until_counted(bridge, 'exeunt_livekit_webhooks_total{answer="503",event="participant_left"}')
    await nats.start()
    await signals.until(alice.room_sid, gone=True)


async def test_a_call_of_which_no_webhook_ever_came(nats: NatsServer, signals: Signals, tmp_path: Path) -> None:
    """As when LiveKit has given them up: they wait for half a minute at the most."""
    async with (
        LiveKitServer(tmp_path / "livekit", binary=binaries.find_livekit()) as livekit,
        LiveKitRoom(livekit, "call-42") as room,
    ):
        alice = await room.join("alice")
        await room.join(BOT)
        async with bridge_to(livekit, free_port(), nats, tmp_path, EXEUNT_LIVEKIT_LOOK_INTERVAL="500ms") as bridge:
            await bridge.until_looked(1)
            await alice.leave()
            await signals.until(alice.room_sid, gone=True)
            assert await reported(signals) == [f"gone: looked again some time after discovered; still there: {BOT}"]


async def test_a_key_that_livekit_does_not_know(
    livekit: LiveKitServer, port: int, nats: NatsServer, signals: Signals, room: LiveKitRoom, tmp_path: Path
) -> None:
    keys = tmp_path / "changing-keys"
    keys.write_text(f"mistyped: {SECRET}\n{livekit.api_key}: {livekit.api_secret}\n")
    bridge = bridge_to(livekit, port, nats, tmp_path, EXEUNT_LIVEKIT_KEYS=str(keys))
    starting = asyncio.create_task(bridge.process.start())
    try:
        async with asyncio.timeout(60):
            while "refuses" not in (bridge.log.read_text() if bridge.log.exists() else ""):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await bridge.ready())["livekit"] == (
            f"LiveKit at {livekit.url.removeprefix('http://')} refuses the API key 'mistyped':"
            " key and secret in EXEUNT_LIVEKIT_KEYS have to be those of its config"
        )
        alice = await room.join("alice")  # her webhooks are signed with the other one
        await alice.leave()
        await until_counted(bridge, 'exeunt_livekit_webhooks_total{answer="200",event="participant_left"}')
        keys.write_text(f"{livekit.api_key}: {livekit.api_secret}\n")
        await starting  # now it is ready
        await signals.until(alice.room_sid, gone=True)
    finally:
        starting.cancel()
        await bridge.process.kill()
