"""Real calls, from the room of a real LiveKit server to the end of the StoryRun: the bridge and all services at work.

The impulse and the operator are played. Drain and shutdown timeout are far away: what ends in time ended because its
room was told to be over.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest

from actors.bystander import Bystander
from actors.call import Call, create_story
from actors.command import exeunt
from actors.history import last_signal
from actors.impulse import Impulse
from actors.kubernetes import Kubernetes
from actors.livekit_room import LiveKitRoom
from actors.recorder import State
from exeunt_local import binaries
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port

pytestmark = pytest.mark.usefixtures("operator", "running_mesh", "bridge")

Stopped = Callable[..., Awaitable[State]]

BRIDGE, IMPULSE = free_port(), free_port()
BOT = "bubu-agent-call-listen-3f2a"


@pytest.fixture(scope="module")
async def livekit(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveKitServer]:
    """Tells the bridge and the impulse."""
    urls = [f"http://127.0.0.1:{BRIDGE}/webhook", Impulse.url_at(IMPULSE)]
    folder = tmp_path_factory.mktemp("livekit")
    async with LiveKitServer(folder, binary=binaries.find_livekit(), webhook_urls=urls) as livekit:
        yield livekit


@pytest.fixture(scope="module")
async def bridge(running_mesh: Mesh, livekit: LiveKitServer) -> None:
    """Its timer is out of the way: what it says follows from webhooks."""
    await running_mesh.start_livekit_bridge(livekit, BRIDGE, EXEUNT_LIVEKIT_LOOK_INTERVAL="1h")


@pytest.fixture
async def room(livekit: LiveKitServer, namespace: str) -> AsyncIterator[LiveKitRoom]:
    async with LiveKitRoom(livekit, namespace) as room:
        yield room


@pytest.fixture
async def impulse(kubernetes: Kubernetes, namespace: str, livekit: LiveKitServer) -> AsyncIterator[Impulse]:
    """As it comes, but that it knows the bot."""
    await create_story(kubernetes, namespace, "voice", shutdown_timeout="100s")
    async with Impulse(
        kubernetes, namespace, "voice", livekit=livekit, port=IMPULSE, self_identities=["bubu-agent*"]
    ) as impulse:
        yield impulse


async def was_left_alone(bystander: Bystander, call: Call) -> None:
    """Returns when the terminator has heard of the cancel, and let the run live on."""
    assert await bystander.waits(call.uid, within=30)


async def ended_after(left: datetime, stopped: Awaitable[State]) -> None:
    end = await stopped
    assert end.written_by == "exeunt-terminator"
    assert end.at > left


async def test_everybody_leaves_and_the_bot_stays(impulse: Impulse, room: LiveKitRoom, stopped: Stopped) -> None:
    alice = await room.join("alice")
    call = await impulse.call(alice.room_sid)
    await room.join(BOT)
    await alice.publish_microphone()
    left = await alice.leave()
    await ended_after(left, stopped(call, within=30))
    assert list(await room.listed()) == [BOT]


def documented() -> list[str]:
    """What docs/livekit.md shows of `exeunt explain`, a pattern for each sentence: times, ids and names are its own."""
    page = (Path(__file__).parents[2] / "docs" / "livekit.md").read_text()
    block = re.search(r"^\$ exeunt explain .*\n\.\.\.\n((?:.+\n)+?)```$", page, re.MULTILINE)
    assert block is not None
    sentences = re.split(r"\s(?=\+\d|It was )", " ".join(block[1].split()))
    other = r"(?<!\w)(20s \(default\)|\d[\d.]*m?s|RM_\w+|support-7|\w+ alice|bubu-agent-\S+(?=\.)|call-42-\w+)"
    return [re.escape(re.sub(other, "@", sentence)).replace("@", ".+?") for sentence in sentences]


async def test_the_page_about_livekit_shows_what_explain_says(
    impulse: Impulse, room: LiveKitRoom, nats_server: NatsServer, stopped: Stopped
) -> None:
    alice = await room.join("alice")
    call = await impulse.call(alice.room_sid)
    await room.join(BOT)
    await alice.publish_microphone()
    await alice.leave()
    await stopped(call, within=30)
    run, ended = f"{call.namespace}/{call.name}", "It was finalized"
    async with asyncio.timeout(30):
        while ended not in (explained := (await exeunt(nats_server, "explain", run, "--no-live")).out):  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.2)
    said = " ".join(explained.split())
    assert [sentence for sentence in documented() if re.search(sentence, said) is None] == []


async def test_of_two_callers_the_second_ends_it(
    impulse: Impulse, room: LiveKitRoom, bystander: Bystander, stopped: Stopped
) -> None:
    alice, bob = await room.join("alice"), await room.join("bob")
    call = await impulse.call(alice.room_sid)
    await alice.leave()
    await impulse.cancel(alice.room_sid)
    await was_left_alone(bystander, call)
    await ended_after(await bob.leave(), stopped(call, within=30))


async def test_a_microphone_is_not_a_caller(
    impulse: Impulse, room: LiveKitRoom, bystander: Bystander, stopped: Stopped
) -> None:
    alice = await room.join("alice")
    call = await impulse.call(alice.room_sid)
    await alice.publish_microphone()
    await alice.unpublish_microphone()
    assert (await impulse.cancel(alice.room_sid)).event == "track_unpublished"
    await was_left_alone(bystander, call)
    await ended_after(await alice.leave(), stopped(call, within=30))


async def test_a_deleted_room_is_over(impulse: Impulse, room: LiveKitRoom, stopped: Stopped) -> None:
    alice = await room.join("alice")
    call = await impulse.call(alice.room_sid)
    await room.join(BOT)
    await ended_after(await room.delete(), stopped(call, within=30))


async def test_who_comes_back_before_the_cancel_goes_on_talking(
    kubernetes: Kubernetes,
    namespace: str,
    livekit: LiveKitServer,
    nats_server: NatsServer,
    room: LiveKitRoom,
    bystander: Bystander,
    stopped: Stopped,
) -> None:
    await create_story(kubernetes, namespace, "voice", shutdown_timeout="100s")
    async with Impulse(kubernetes, namespace, "voice", livekit=livekit, port=IMPULSE, end_events=()) as impulse:
        alice = await room.join("alice")
        sid = alice.room_sid
        call = await impulse.call(sid)
        await alice.leave()
        await signaled(nats_server.url, sid, "topology-gone")
        again = await room.join("alice")
        assert again.room_sid == sid
        await signaled(nats_server.url, sid, "topology-up")
    await call.cancel()
    await was_left_alone(bystander, call)
    await ended_after(await again.leave(), stopped(call, within=30))


async def signaled(nats_url: str, sid: str, kind: str) -> None:
    """Returns when this is the last that was said of the room."""
    async with asyncio.timeout(30):
        while (await last_signal(nats_url, sid)).kind != kind:  # noqa: ASYNC110 - it has no end of its own
            await asyncio.sleep(0.05)
