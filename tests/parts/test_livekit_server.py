"""What Exeunt relies on in LiveKit: the real server, real people in its rooms, and its webhooks."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from actors.livekit_room import LiveKitRoom
from actors.livekit_webhooks import Webhooks
from exeunt_local import binaries
from exeunt_local.livekit_server import LiveKitServer

ACTIVE = api.ParticipantInfo.State.ACTIVE

Serve = Callable[..., Awaitable[LiveKitServer]]


@pytest.fixture
async def webhooks() -> AsyncIterator[Webhooks]:
    async with Webhooks() as webhooks:
        yield webhooks


@pytest.fixture
async def serve(webhooks: Webhooks, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a server with settings of one's own, which tells `webhooks`."""
    async with AsyncExitStack() as stack:

        async def serve(**settings: Any) -> LiveKitServer:
            server = LiveKitServer(
                tmp_path, binary=binaries.find_livekit(), **{"webhook_urls": [webhooks.url], **settings}
            )
            return await stack.enter_async_context(server)

        yield serve


@pytest.fixture
async def server(serve: Serve) -> LiveKitServer:
    return await serve()


@pytest.fixture
async def room(server: LiveKitServer) -> AsyncIterator[LiveKitRoom]:
    async with LiveKitRoom(server, "call") as room:
        yield room


def test_its_key_is_long_enough_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    server = LiveKitServer(tmp_path, binary=Path("livekit-server"))
    assert server.keys_file.read_text() == f"{server.api_key}: {server.api_secret}\n"
    assert server.keys_file.stat().st_mode & 0o777 == 0o600
    assert len(server.api_secret) >= 32


async def test_webhooks_are_signed_on_their_very_bytes(
    server: LiveKitServer, room: LiveKitRoom, webhooks: Webhooks
) -> None:
    await room.join("alice")
    webhook = await webhooks.wait_for("participant_joined", "alice")
    assert webhook.headers["Content-Type"] == "application/webhook+json"
    token, body = webhook.headers["Authorization"], webhook.body.decode()
    receiver = api.WebhookReceiver(api.TokenVerifier(server.api_key, server.api_secret))
    event = receiver.receive(body, token)
    assert (event.room.sid, event.participant.identity) == (await room.sid(), "alice")
    reformatted = json.dumps(json.loads(body))
    assert reformatted != body
    with pytest.raises(Exception, match="hash mismatch"):
        receiver.receive(reformatted, token)
    # What they say: an id, the time as text, and more of the room than may be logged.
    assert webhook.content["id"].startswith("EV_")
    assert webhook.content["createdAt"].isdecimal()
    assert webhook.content["room"]["turnPassword"]


async def test_each_url_gets_each_event(serve: Serve, webhooks: Webhooks) -> None:
    async with Webhooks() as others:
        server = await serve(webhook_urls=[webhooks.url, others.url])
        async with LiveKitRoom(server, "call") as room:
            await (await room.join("alice")).leave()
            for each in (webhooks, others):
                await each.wait_for("participant_left", "alice")
    assert [webhook.body for webhook in webhooks.received] == [webhook.body for webhook in others.received]


async def test_who_leaves_is_reported_and_no_longer_listed(room: LiveKitRoom, webhooks: Webhooks) -> None:
    alice = await room.join("alice")
    await room.join("bob")
    await alice.publish_microphone()
    await webhooks.wait_for("track_published", "alice")
    await alice.leave()
    left = await webhooks.wait_for("participant_left", "alice")
    assert {identity: person.state for identity, person in (await room.listed()).items()} == {"bob": ACTIVE}
    assert left.content["participant"]["disconnectReason"] == "CLIENT_INITIATED"
    # The microphone is taken down first, for which the impulse cancels; and there is no count of who is left.
    events = [webhook.event for webhook in webhooks.received if webhook.identity == "alice"]
    assert events == ["participant_joined", "track_published", "track_unpublished", "participant_left"]
    assert "numParticipants" not in left.content["room"]


async def test_a_microphone_is_unpublished_without_leaving(room: LiveKitRoom, webhooks: Webhooks) -> None:
    alice = await room.join("alice")
    await alice.publish_microphone()
    await alice.unpublish_microphone()
    await webhooks.wait_for("track_unpublished", "alice")
    assert list(await room.listed()) == ["alice"]
    assert webhooks.of("participant_left") == []


async def test_everybody_is_listed_with_what_they_are(room: LiveKitRoom) -> None:
    await room.join("caller")
    await room.join("phone", "--kind=sip")
    await room.join("worker", "--kind=agent")
    await room.join("bot", "--agent")
    await room.join("listener", "--hidden")
    await room.join("archive", "--recorder", "--hidden")
    people = await room.listed()
    kinds = {identity: api.ParticipantInfo.Kind.Name(person.kind) for identity, person in people.items()}
    assert kinds == {
        "caller": "STANDARD",
        "phone": "SIP",
        "worker": "AGENT",
        "bot": "STANDARD",
        "listener": "STANDARD",
        "archive": "STANDARD",
    }
    grants = {identity: person.permission for identity, person in people.items()}
    assert [identity for identity, permission in grants.items() if permission.agent] == ["bot"]
    assert sorted(identity for identity, permission in grants.items() if permission.hidden) == ["archive", "listener"]
    assert [identity for identity, permission in grants.items() if permission.recorder] == ["archive"]


async def test_each_opening_of_a_room_has_a_sid_of_its_own(room: LiveKitRoom, webhooks: Webhooks) -> None:
    alice = await room.join("alice")
    first = await room.sid()
    assert first == alice.room_sid
    await room.delete()
    finished = await webhooks.wait_for("room_finished")
    assert finished.sid == first
    assert (await alice.hear("disconnected"))["reason"] == "ROOM_DELETED"
    assert await room.sid() is None
    second = (await room.join("alice")).room_sid
    assert second not in (None, first)
    assert await room.sid() == second


async def test_a_room_that_nobody_knows_is_an_empty_one(server: LiveKitServer, room: LiveKitRoom) -> None:
    assert await room.listed() == {}
    sid = (await room.join("alice")).room_sid
    async with LiveKitRoom(server, sid) as asked_by_sid:
        assert await asked_by_sid.listed() == {}


async def test_the_bot_keeps_a_room_open_and_an_agent_does_not(serve: Serve, webhooks: Webhooks) -> None:
    server = await serve(departure_timeout=1)
    async with LiveKitRoom(server, "bot") as with_bot, LiveKitRoom(server, "agent") as with_agent:
        await with_bot.join("bubu-agent-call-listen-3f2a")
        await with_agent.join("worker", "--kind=agent")
        for room in (with_bot, with_agent):
            await (await room.join("alice")).leave()
        closed = (await webhooks.wait_for("room_finished")).sid
        # It is one and the same round of the server that looks for rooms to close: both were due.
        assert closed != await with_bot.sid()
        assert await with_agent.sid() is None
        assert list(await with_bot.listed()) == ["bubu-agent-call-listen-3f2a"]
        assert len(webhooks.of("room_finished")) == 1


async def test_a_deleted_room_is_reported_person_by_person_and_then_as_finished(
    room: LiveKitRoom, webhooks: Webhooks
) -> None:
    for identity in ("alice", "bubu-agent-x"):
        await room.join(identity)
        await webhooks.wait_for("participant_joined", identity)
    before = len(webhooks.received)
    await room.delete()
    await webhooks.wait_for("room_finished")
    reported = [(webhook.event, webhook.identity) for webhook in webhooks.received[before:]]
    assert sorted(reported[:-1]) == [("participant_left", "alice"), ("participant_left", "bubu-agent-x")]
    assert reported[-1] == ("room_finished", None)


async def test_a_killed_client_is_listed_for_a_while_and_then_has_left(room: LiveKitRoom, webhooks: Webhooks) -> None:
    alice = await room.join("alice")
    await webhooks.wait_for("participant_joined", "alice")
    await alice.kill()
    await asyncio.sleep(5)  # measured: 20 s
    assert [person.state for person in (await room.listed()).values()] == [ACTIVE]
    await webhooks.wait_until(lambda: bool(webhooks.of("participant_left", "alice")), within=60)
    assert await room.listed() == {}


async def test_a_server_that_was_killed_never_tells_of_its_rooms_again(
    server: LiveKitServer, room: LiveKitRoom, webhooks: Webhooks
) -> None:
    before = (await room.join("alice")).room_sid
    await webhooks.wait_for("participant_joined", "alice")
    known = len(webhooks.received)
    await server.restart()
    # The SDK comes back by itself, into a new opening of the room.
    await webhooks.wait_until(lambda: len(webhooks.of("participant_joined", "alice")) == 2)
    after = await room.sid()
    assert after not in (None, before)
    assert {webhook.sid for webhook in webhooks.received[known:]} == {after}


async def test_what_was_not_taken_comes_again_and_holds_up_its_own_room_only(
    server: LiveKitServer, room: LiveKitRoom, webhooks: Webhooks
) -> None:
    webhooks.refused[room.name] = 503
    sid = (await room.join("alice")).room_sid
    async with LiveKitRoom(server, "another") as another:
        await another.join("bob")
        await webhooks.wait_for("participant_joined", "bob")
    await webhooks.wait_until(lambda: len(webhooks.of("room_started", sid=sid)) >= 2)
    webhooks.refused.clear()
    await webhooks.wait_for("participant_joined", "alice")
    *refused, taken, joined = [webhook for webhook in webhooks.received if webhook.sid == sid]
    assert [(webhook.event, webhook.answer) for webhook in (taken, joined)] == [
        ("room_started", 200),
        ("participant_joined", 200),
    ]
    # Each try is the same, token and all.
    tries = {(webhook.body, webhook.headers["Authorization"]) for webhook in (*refused, taken)}
    assert len(tries) == 1


async def test_what_was_refused_as_wrong_never_comes_again(room: LiveKitRoom, webhooks: Webhooks) -> None:
    webhooks.refused[room.name] = 401
    alice = await room.join("alice")
    await webhooks.wait_for("participant_joined", "alice")
    webhooks.refused.clear()
    await alice.leave()
    await webhooks.wait_for("participant_left", "alice")
    assert [(webhook.event, webhook.answer) for webhook in webhooks.received] == [
        ("room_started", 401),
        ("participant_joined", 401),
        ("participant_left", 200),
    ]


async def test_a_stop_waits_for_who_is_there(server: LiveKitServer, room: LiveKitRoom, webhooks: Webhooks) -> None:
    alice = await room.join("alice")
    stopping = asyncio.create_task(server.stop(within=60))
    done, _ = await asyncio.wait([stopping], timeout=2)
    assert not done
    await alice.leave()
    await stopping
    assert server.pid is None
    assert len(webhooks.of("participant_left", "alice")) == 1
