"""Somebody whom LiveKit tells of its rooms: takes every webhook and keeps it, and refuses what it is to refuse."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import msgspec
from aiohttp import web

from exeunt_local.processes import free_port


@dataclass(frozen=True)
class Webhook:
    """One request, as it came; `answer` is the status that it got."""

    at: datetime
    headers: Mapping[str, str]
    body: bytes
    answer: int

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = msgspec.json.decode(self.body)
        return content

    @property
    def event(self) -> str:
        event: str = self.content["event"]
        return event

    @property
    def identity(self) -> str | None:
        identity: str | None = self.content.get("participant", {}).get("identity")
        return identity

    @property
    def sid(self) -> str:
        """Of the room."""
        sid: str = self.content["room"]["sid"]
        return sid


class Webhooks:
    """Entered as an async context manager; answers 200, but for rooms that are `refused`."""

    def __init__(self) -> None:
        self.received: list[Webhook] = []
        self.refused: dict[str, int] = {}
        """By a room's name, the status that is answered to what is told of it."""
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/webhook"
        self._changed = asyncio.Condition()

    def of(self, event: str, identity: str | None = None, sid: str | None = None) -> list[Webhook]:
        """What has come of one kind, in order; and only of somebody, or of a room, where these are given."""
        return [
            webhook
            for webhook in self.received
            if webhook.event == event and identity in (None, webhook.identity) and sid in (None, webhook.sid)
        ]

    async def wait_for(self, event: str, identity: str | None = None, sid: str | None = None) -> Webhook:
        """The first of these; raises AssertionError after half a minute, with what has come."""
        await self.wait_until(lambda: bool(self.of(event, identity, sid)))
        return self.of(event, identity, sid)[0]

    async def wait_until(self, holds: Callable[[], bool], within: float = 30) -> None:
        """Returns when it holds, asked at every request; raises AssertionError with what has come."""
        try:
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError:
            reported = [(webhook.event, webhook.identity, webhook.answer) for webhook in self.received]
            raise AssertionError(f"not within {within:g} s; LiveKit has told {reported}") from None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer = self.refused.get(msgspec.json.decode(body)["room"]["name"], 200)
        webhook = Webhook(datetime.now(UTC), dict(request.headers), body, answer)
        async with self._changed:
            self.received.append(webhook)
            self._changed.notify_all()
        return web.Response(status=answer)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/webhook", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
