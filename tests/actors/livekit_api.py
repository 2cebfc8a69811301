"""LiveKit's API where faults have to be injected: the two questions of the bridge over twirp, and nothing else.

It answers as the real server does: by name alone, an unknown name with nothing and without an error.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Self

from aiohttp import web
from livekit.api import ListParticipantsRequest, ListParticipantsResponse, ListRoomsRequest, ListRoomsResponse
from livekit.protocol.models import ParticipantInfo, Room

from exeunt_local.processes import free_port


class LiveKitApi:
    """Entered as an async context manager. `rooms` is what it tells: sid and identities by name. With `tls`: HTTPS."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.rooms: dict[str, tuple[str, list[str]]] = {}
        self.status = 200
        self.body: bytes | None = None
        """In place of its own answers."""
        self.delay = 0.0
        self.asked: list[str] = []
        """The names of the rooms whose participants were asked for."""
        self.before_participants: Callable[[], None] = lambda: None
        """Called before each list of participants: the world changes between two questions."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/twirp/livekit.RoomService/{method}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()

    async def stop(self) -> None:
        """Nobody listens any more; what it tells is kept."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body, method = await request.read(), request.match_info["method"]
        await asyncio.sleep(self.delay)
        if self.status != 200:
            return web.json_response({"code": "internal", "msg": "told to"}, status=self.status)
        if self.body is not None:
            return web.Response(body=self.body)
        answer = self._rooms(body) if method == "ListRooms" else self._participants(body)
        return web.Response(body=answer, content_type="application/protobuf")

    def _rooms(self, body: bytes) -> bytes:
        names = ListRoomsRequest.FromString(body).names
        found = [Room(sid=sid, name=name) for name, (sid, _) in self.rooms.items() if name in names or not names]
        return ListRoomsResponse(rooms=found).SerializeToString()

    def _participants(self, body: bytes) -> bytes:
        name = ListParticipantsRequest.FromString(body).room
        self.before_participants()
        self.asked.append(name)
        _, identities = self.rooms.get(name, ("", []))
        active = [ParticipantInfo(identity=who, state=ParticipantInfo.State.ACTIVE) for who in identities]
        return ListParticipantsResponse(participants=active).SerializeToString()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
