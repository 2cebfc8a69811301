"""The LiveKit bridge as a process, webhooks as LiveKit signs them, and what came of them on NATS."""

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import aiohttp
import msgspec
from livekit.api import AccessToken

from exeunt.bus.connection import Bus
from exeunt.bus.mesh_streams import signals_stream
from exeunt.bus.publisher import StoredMessage, last_message, message_at
from exeunt.bus.streams import ensure_stream
from exeunt.events.subjects import SIGNALS, trigger_token_subject
from exeunt_local.processes import Process, free_port

KEY: Final = "devkey"
SECRET: Final = "a secret of at least thirty-two characters"
"""Throw-away, and of no server."""
_LOOKS: Final = re.compile(r"^exeunt_livekit_looks_total\{.*\} ([0-9.]+)", re.MULTILINE)
_PATIENCE: Final = 30.0
"""Seconds, on a machine that has more to do."""


def unique(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


class Webhook(NamedTuple):
    """One request as LiveKit would send it."""

    body: bytes
    headers: dict[str, str]


def event(name: str, sid: str = "RM_1", room: str = "call-42", who: str = "", **more: Any) -> bytes:
    """The body of a webhook; `more` goes over its own fields."""
    body: dict[str, Any] = {
        "event": name,
        "room": {"sid": sid, "name": room, "turnPassword": "a-turn-password", "creationTime": "1796032141"},
        "id": f"EV_{sid}",
        "createdAt": "1796032142",
    }
    if who:
        body["participant"] = {"sid": "PA_1", "identity": who, "state": "DISCONNECTED", "metadata": "some-metadata"}
    return json.dumps(body | more).encode()


def webhook(name: str, sid: str = "RM_1", room: str = "call-42", who: str = "", **more: Any) -> Webhook:
    """An `event`, signed now."""
    return signed(event(name, sid, room, who, **more))


def signed(body: bytes, *, key: str = KEY, secret: str = SECRET, lifetime: timedelta = timedelta(minutes=5)) -> Webhook:
    """A body with the token for it: a bare JWT whose claim `sha256` is the body's hash."""
    token = AccessToken(key, secret).with_ttl(lifetime)
    token.with_sha256(base64.b64encode(hashlib.sha256(body).digest()).decode())
    return Webhook(body, {"Authorization": token.to_jwt(), "Content-Type": "application/webhook+json"})


class Bridge:
    """The service as a process; entered as an async context manager it is ready, left it is killed."""

    def __init__(self, folder: Path, *, nats_url: str, livekit_url: str, **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.keys_file = folder / "keys"
        self.keys_file.write_text(f"{KEY}: {SECRET}\n")
        self.webhook_port, http_port = free_port(), free_port()
        self.webhook_url = f"http://127.0.0.1:{self.webhook_port}/webhook"
        self.url = f"http://127.0.0.1:{http_port}"
        self.log = folder / "livekit-bridge.log"
        self.process = Process(
            [sys.executable, "-m", "exeunt_livekit_bridge"],
            log=self.log,
            ready_url=f"{self.url}/readyz",
            ready_within=60,
            env={
                **{name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
                "HOME": str(folder),  # where no kubeconfig is
                "EXEUNT_NATS_URL": nats_url,
                "EXEUNT_HTTP_ADDR": f"127.0.0.1:{http_port}",
                "EXEUNT_LIVEKIT_URL": livekit_url,
                "EXEUNT_LIVEKIT_KEYS": str(self.keys_file),
                "EXEUNT_LIVEKIT_WEBHOOK_ADDR": f"127.0.0.1:{self.webhook_port}",
                "EXEUNT_LIVEKIT_LOOK_INTERVAL": "1h",  # unless the timer is what is tested
                "EXEUNT_ACK_WAIT": "2s",
                "EXEUNT_LOG_LEVEL": "debug",
                **env,
            },
        )

    async def post(self, webhook: Webhook) -> int:
        """The status that LiveKit would get."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE)) as http,
            http.post(self.webhook_url, data=io.BytesIO(webhook.body), headers=webhook.headers) as response,
        ):
            return response.status

    async def ready(self) -> dict[str, str]:
        """The troubles that /readyz tells; none when all is well."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/readyz") as response:
            found: dict[str, str] = (await response.json()).get("troubles", {})
            return found

    async def metrics(self) -> str:
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/metrics") as response:
            return await response.text()

    async def until_looked(self, times: int) -> None:
        """Wait until it has looked so often at rooms, since it was started."""
        async with asyncio.timeout(_PATIENCE):
            while sum(map(float, _LOOKS.findall(await self.metrics()))) < times:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)

    async def __aenter__(self) -> Self:
        await self.process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.kill()


class Heard(NamedTuple):
    """One signal."""

    gone: bool
    detail: str
    message: StoredMessage


class Signals:
    """What was published about rooms, as it is in the stream SIGNALS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def make_stream(self) -> None:
        """As a watcher does."""
        await ensure_stream(self._bus, signals_stream())

    async def all(self) -> list[Heard]:
        """All of them, the oldest first."""
        state = (await self._bus.api(f"STREAM.INFO.{SIGNALS}"))["state"]
        found = [await message_at(self._bus, SIGNALS, at) for at in range(state["first_seq"], state["last_seq"] + 1)]
        return [_heard(message) for message in found if message is not None]

    async def last(self, sid: str) -> Heard | None:
        found = await last_message(self._bus, SIGNALS, trigger_token_subject(sid))
        return None if found is None else _heard(found)

    async def until(self, sid: str, *, gone: bool) -> Heard:
        """The last one of that sid, once it says so."""
        async with asyncio.timeout(_PATIENCE):
            while (heard := await self.last(sid)) is None or heard.gone != gone:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.01)
        return heard


def _heard(message: StoredMessage) -> Heard:
    body = msgspec.json.decode(message.data)
    assert message.subject == trigger_token_subject(body["trigger_token"])
    return Heard(message.headers["ce-type"] == "io.bubustack.exeunt.topology-gone.v1", body["detail"], message)
