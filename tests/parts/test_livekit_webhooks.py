"""What LiveKit gets to hear for its webhooks, and what comes of them: the bridge as a process, on a real NATS."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import NamedTuple

import aiohttp
import pytest
from livekit.api import AccessToken

from actors.livekit_api import LiveKitApi
from actors.livekit_bridge import KEY, SECRET, Bridge, Signals, Webhook, event, signed, unique, webhook
from exeunt.bus.connection import connect
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer


class Stage(NamedTuple):
    """A bridge between a played LiveKit and a real NATS."""

    livekit: LiveKitApi
    bridge: Bridge
    signals: Signals


@pytest.fixture(scope="module")
async def stage(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("livekit-webhooks")
    async with NatsServer(folder / "nats", binary=servers.nats_server) as nats, LiveKitApi() as livekit:
        bus = await connect(nats.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
        signals = Signals(bus)
        await signals.make_stream()
        async with Bridge(folder, nats_url=nats.url, livekit_url=livekit.url) as bridge:
            yield Stage(livekit, bridge, signals)
        await bus.close(5)


async def nothing_happened(stage: Stage, sid: str) -> None:
    """A webhook that comes after the one in question, and what it leads to, is there; of the other there is nothing."""
    later = unique("RM")
    assert await stage.bridge.post(webhook("room_finished", later)) == 200
    await stage.signals.until(later, gone=True)
    assert await stage.signals.last(sid) is None


@pytest.mark.parametrize(
    "happening",
    ["participant_left", "participant_connection_aborted", "participant_joined", "room_started", "room_finished"],
)
async def test_an_event_that_says_who_is_in_a_room_is_a_reason_to_look(stage: Stage, happening: str) -> None:
    sid, room = unique("RM"), unique("room")
    stage.livekit.rooms[room] = (sid, ["bubu-agent-listen-1"])
    assert await stage.bridge.post(webhook(happening, sid, room, "alice")) == 200
    signal = await stage.signals.until(sid, gone=True)
    assert signal.detail == f"room {room} ({sid}): {happening} alice; still there: bubu-agent-listen-1"


@pytest.mark.parametrize(
    "body",
    [
        event("track_published", "RM_track", who="alice"),
        event("track_unpublished", "RM_track", who="alice"),
        event("egress_ended", "RM_egress"),
        event("invented_tomorrow", "RM_invented"),
        event("participant_left", "RM_nameless", room=""),
        event("participant_left", ""),
        event("participant_left", "RM_" + "x" * 5000),  # no subject of NATS is so long
        b'{"event": "participant_left"}',
        b'{"event": "participant_left", "room": {"sid": 7}}',
        b'{"event": "participant_left", "room": []}',
        b"[]",
        b"{",
        b"",
        "öffnet".encode(),
    ],
)
async def test_anything_else_that_livekit_signed_is_taken_note_of(stage: Stage, body: bytes) -> None:
    """A 4xx, and LiveKit would never send it again; a 5xx, and later ones of the room would wait."""
    assert await stage.bridge.post(signed(body)) == 200


async def test_fields_of_a_newer_livekit_are_no_fault(stage: Stage) -> None:
    sid = unique("RM")
    newer = webhook("room_finished", sid, roomEndReason="ROOM_END_OF_THE_WORLD", invented={"tomorrow": [1]})
    assert await stage.bridge.post(newer) == 200
    await stage.signals.until(sid, gone=True)


BODY = event("participant_left", "RM_forged", who="mallory")
FORGED: dict[str, Callable[[Webhook], Webhook]] = {
    "no header": lambda real: Webhook(real.body, {}),
    "an empty token": lambda real: Webhook(real.body, {"Authorization": ""}),
    "no token": lambda real: Webhook(real.body, {"Authorization": "no.token.atall"}),
    "bearer": lambda real: Webhook(real.body, {"Authorization": f"Bearer {real.headers['Authorization']}"}),
    "another body": lambda real: Webhook(real.body + b" ", real.headers),
    "another format": lambda real: Webhook(json.dumps(json.loads(real.body), indent=1).encode(), real.headers),
    "another encoding": lambda real: Webhook(b"\xff" + real.body, real.headers),
    "another secret": lambda real: signed(real.body, secret="another secret of more than 32 characters"),
    "an unknown key": lambda real: signed(real.body, key="unknown"),
    "expired": lambda real: signed(real.body, lifetime=timedelta(seconds=-75)),
    "no hash": lambda real: Webhook(real.body, {"Authorization": AccessToken(KEY, SECRET).to_jwt()}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_what_livekit_did_not_sign_is_refused_and_nothing_happens(
    stage: Stage, forge: Callable[[Webhook], Webhook]
) -> None:
    assert await stage.bridge.post(forge(signed(BODY))) == 401
    await nothing_happened(stage, "RM_forged")


async def test_clocks_may_be_half_a_minute_apart(stage: Stage) -> None:
    sid = unique("RM")
    assert await stage.bridge.post(signed(event("room_finished", sid), lifetime=timedelta(seconds=-30))) == 200
    await stage.signals.until(sid, gone=True)


async def test_a_body_too_large_is_refused(stage: Stage) -> None:
    assert await stage.bridge.post(signed(b" " * (1024 * 1024 + 1))) == 413
    sid = unique("RM")
    large = webhook("room_finished", sid, padding="x" * 1_000_000)
    assert await stage.bridge.post(large) == 200
    await stage.signals.until(sid, gone=True)


async def test_nobody_fills_the_memory_who_is_not_livekit(stage: Stage) -> None:
    """Refused by its token, before its body is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.bridge.webhook_port)
    writer.write(b"POST /webhook HTTP/1.1\r\nHost: bridge\r\nContent-Length: 1000000\r\nAuthorization: a.b.c\r\n\r\n{")
    async with asyncio.timeout(30):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_no_secret_is_in_the_log(stage: Stage) -> None:
    await stage.bridge.post(webhook("participant_left", unique("RM"), who="alice"))
    await stage.bridge.post(signed(BODY, secret="another secret of more than 32 characters"))
    await stage.bridge.post(
        signed(b'{"room": {"turnPassword": "a-turn-password", "maxParticipants": "a-turn-password"}}')
    )
    await nothing_happened(stage, "RM_forged")
    log = stage.bridge.log.read_text()
    assert '"event":"webhook refused"' in log  # it does tell what happens
    for secret in ("a-turn-password", "some-metadata", SECRET, signed(BODY).headers["Authorization"].partition(".")[0]):
        assert secret not in log


async def test_webhooks_are_counted_by_event_and_answer(stage: Stage) -> None:
    await stage.bridge.post(webhook("room_finished", unique("RM")))
    await stage.bridge.post(webhook("invented_tomorrow", unique("RM")))
    await stage.bridge.post(signed(BODY, key="unknown"))
    metrics = await stage.bridge.metrics()
    counted = {
        line.partition(" ")[0] for line in metrics.splitlines() if line.startswith("exeunt_livekit_webhooks_total")
    }
    for name, answer in (("room_finished", 200), ("other", 200), ("unverified", 401)):
        assert f'exeunt_livekit_webhooks_total{{answer="{answer}",event="{name}"}}' in counted
    assert "invented_tomorrow" not in metrics


async def test_what_is_no_webhook_is_not_found(stage: Stage) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(stage.bridge.webhook_url) as response:
            assert response.status == 405
        async with http.post(stage.bridge.webhook_url.removesuffix("webhook") + "metrics") as response:
            assert response.status == 404
