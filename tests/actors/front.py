"""Plays what stands before a kube-apiserver, or a kube-apiserver that is not well: it answers watches itself.

Everything else is the real one's: lists, and watches too once it is well again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import web

from exeunt_local.control_plane import ControlPlane

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refusing(status: int, **headers: str) -> Answer:
    """Every watch is answered with this status."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "code": status}, status=status, headers=headers)

    return answer


def accepting(*lines: bytes, stay: bool) -> Answer:
    """Every watch is accepted, gets these lines, and then stays open and silent, or ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        writer = await response.prepare(request)
        assert writer is not None
        writer.send_headers()  # or they would wait for a first line
        for line in lines:
            await response.write(line)
        if stay:
            await asyncio.get_running_loop().create_future()
        return response

    return answer


class Front:
    """Listens on `url`, plain HTTP. `watches` and `lists` are how those are answered, None as the real one does.

    Nobody is reported a token without TLS, so whoever comes is taken for the admin.
    """

    def __init__(self, url: str, real: str, token: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.watches: Answer | None = None
        self.lists: Answer | None = None
        self.asked = 0
        """Watches that were asked for."""
        self._real = real
        self._authorization = {"Authorization": f"Bearer {token}"}
        self._http = http

    async def answer(self, request: web.Request) -> web.StreamResponse:
        watch = "watch" in request.query
        self.asked += watch
        played = self.watches if watch else self.lists
        if played is not None:
            return await played(request)
        async with self._http.get(f"{self._real}{request.rel_url}", headers=self._authorization) as real:
            response = web.StreamResponse(status=real.status)
            writer = await response.prepare(request)
            assert writer is not None
            writer.send_headers()
            async for chunk in real.content.iter_any():
                await response.write(chunk)
            return response


_UNLIMITED: Final = aiohttp.ClientTimeout(total=None)


@asynccontextmanager
async def standing_before(control_plane: ControlPlane) -> AsyncIterator[Front]:
    """One that is well, until told otherwise."""
    connector = aiohttp.TCPConnector(ssl=False, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=_UNLIMITED) as http:
        app = web.Application()
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        token = json.loads(control_plane.kubeconfig.read_text())["users"][0]["user"]["token"]
        front = Front("", control_plane.url, token, http)
        app.router.add_route("*", "/{path:.*}", front.answer)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        front.url = f"http://{host}:{port}"
        try:
            yield front
        finally:
            await runner.cleanup()
