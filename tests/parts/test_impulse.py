"""The played impulse starts and cancels calls as livekit-webhook-impulse does, told by the real LiveKit server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.call import Call, create_story
from actors.impulse import END_EVENTS, Impulse
from actors.kubernetes import STORY_RUN, Kubernetes
from actors.livekit_room import LiveKitRoom
from actors.livekit_webhooks import Webhooks
from exeunt_local import binaries
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.processes import free_port

BOT = "bubu-agent-call-listen-3f2a"
PORT = free_port()


@pytest.fixture
async def webhooks() -> AsyncIterator[Webhooks]:
    """Hears what the impulse hears."""
    async with Webhooks() as webhooks:
        yield webhooks


@pytest.fixture
async def server(webhooks: Webhooks, tmp_path: Path) -> AsyncIterator[LiveKitServer]:
    urls = [Impulse.url_at(PORT), webhooks.url]
    async with LiveKitServer(tmp_path, binary=binaries.find_livekit(), webhook_urls=urls) as server:
        yield server


@pytest.fixture
async def room(server: LiveKitServer) -> AsyncIterator[LiveKitRoom]:
    async with LiveKitRoom(server, "call") as room:
        yield room


@pytest.fixture
async def impulse(
    request: pytest.FixtureRequest, kubernetes: Kubernetes, namespace: str, server: LiveKitServer
) -> AsyncIterator[Impulse]:
    """With the real defaults, or what a test is parametrized with."""
    settings: dict[str, Any] = getattr(request, "param", {})
    await create_story(kubernetes, namespace, "voice")
    async with Impulse(kubernetes, namespace, "voice", livekit=server, port=PORT, **settings) as impulse:
        yield impulse


async def canceled_by(call: Call) -> str | None:
    """The field manager that asked for the end; None while nobody has."""
    fields = (await call.get())["metadata"]["managedFields"]
    return next((each["manager"] for each in fields if "f:cancelRequested" in each["fieldsV1"].get("f:spec", {})), None)


async def test_the_first_who_joins_starts_a_call_and_the_first_who_leaves_cancels_it(
    kubernetes: Kubernetes, namespace: str, impulse: Impulse, room: LiveKitRoom, webhooks: Webhooks
) -> None:
    alice = await room.join("alice")
    call = await impulse.call(alice.room_sid)
    run = await call.get()
    assert run["metadata"]["annotations"]["storyrun.bubustack.io/trigger-token"] == alice.room_sid
    assert run["metadata"]["name"].startswith(f"voice-{alice.room_sid.lower().replace('_', '-')}-")
    assert run["spec"]["inputs"]["room"] == {"name": "call", "sid": alice.room_sid}
    assert run["spec"]["inputs"]["participant"]["identity"] == "alice"
    assert run["status"]["phase"] == "Running"

    bob = await room.join("bob")
    await webhooks.wait_for("participant_joined", "bob")
    await bob.leave()
    cancel = await impulse.cancel(alice.room_sid)
    assert (cancel.event, cancel.identity) == ("participant_left", "bob")
    assert impulse.refused == 0
    assert await canceled_by(call) == "bubu-sdk-go"
    assert len(await kubernetes.list(STORY_RUN, namespace)) == 1


async def test_a_microphone_that_is_unpublished_cancels_the_call(impulse: Impulse, room: LiveKitRoom) -> None:
    alice = await room.join("alice")
    await impulse.call(alice.room_sid)
    await alice.publish_microphone()
    await alice.unpublish_microphone()
    assert (await impulse.cancel(alice.room_sid)).event == "track_unpublished"


@pytest.mark.parametrize(
    "impulse", [{"end_events": set(END_EVENTS) - {"track_unpublished"}}], indirect=True, ids=["without its event"]
)
async def test_unless_it_is_reported_to_leave_that_alone(
    impulse: Impulse, room: LiveKitRoom, webhooks: Webhooks
) -> None:
    alice = await room.join("alice")
    call = await impulse.call(alice.room_sid)
    await alice.publish_microphone()
    await alice.unpublish_microphone()
    await webhooks.wait_for("track_unpublished", "alice")
    assert await canceled_by(call) is None
    await alice.leave()
    assert (await impulse.cancel(alice.room_sid)).event == "participant_left"


async def test_the_default_takes_the_bot_for_a_caller(impulse: Impulse, room: LiveKitRoom) -> None:
    bot = await room.join(BOT)
    call = await impulse.call(bot.room_sid)
    await bot.leave()
    assert (await impulse.cancel(bot.room_sid)).identity == BOT
    assert await canceled_by(call) == "bubu-sdk-go"


KNOWS_THE_BOT = pytest.mark.parametrize(
    "impulse", [{"self_identities": ["bubu-agent*"]}], indirect=True, ids=["knows the bot"]
)


@KNOWS_THE_BOT
async def test_a_pattern_tells_it_the_bot(
    kubernetes: Kubernetes, namespace: str, impulse: Impulse, room: LiveKitRoom
) -> None:
    await (await room.join(BOT)).leave()
    alice = await room.join("alice")
    call = await impulse.call(alice.room_sid)
    assert [run["metadata"]["name"] for run in await kubernetes.list(STORY_RUN, namespace)] == [call.name]
    await (await room.join(BOT)).leave()
    await alice.leave()
    assert (await impulse.cancel(alice.room_sid)).identity == "alice"


@KNOWS_THE_BOT
async def test_but_not_when_the_bot_unpublishes_its_microphone(impulse: Impulse, room: LiveKitRoom) -> None:
    alice = await room.join("alice")
    await impulse.call(alice.room_sid)
    bot = await room.join(BOT)
    await bot.publish_microphone()
    await bot.unpublish_microphone()
    cancel = await impulse.cancel(alice.room_sid)
    assert (cancel.event, cancel.identity) == ("track_unpublished", BOT)


async def test_who_comes_back_to_the_same_room_is_refused(
    kubernetes: Kubernetes, namespace: str, impulse: Impulse, room: LiveKitRoom
) -> None:
    alice = await room.join("alice")
    await impulse.call(alice.room_sid)
    await alice.leave()
    await impulse.cancel(alice.room_sid)
    again = await room.join("alice")
    assert again.room_sid == alice.room_sid
    await impulse.repeatedly_refused()
    assert len(await kubernetes.list(STORY_RUN, namespace)) == 1


async def test_strangers_are_refused(impulse: Impulse) -> None:
    assert impulse.calls == {}
    async with aiohttp.ClientSession() as http:
        for content_type, status in (("application/json", 415), ("application/webhook+json", 400)):
            headers = {"Content-Type": content_type, "Authorization": "nobody"}
            async with http.post(Impulse.url_at(PORT), data=b"{}", headers=headers) as response:
                assert response.status == status
