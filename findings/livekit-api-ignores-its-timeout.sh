#!/usr/bin/env bash
# Guessed: LiveKitAPI(timeout=ClientTimeout(total=1)), "Request timeout (default: 10 seconds)" in its docstring, is the timeout
#   of every request that it makes, or at least that of the aiohttp session which it is given is.
# Seen (livekit-api 1.2.2, aiohttp 3.14.5): ListRooms and its like pass `timeout=None` on to session.post(), which aiohttp
#   takes for "no timeout at all", in place of both. asyncio.timeout() around the call is what works.
# Exits 1 when that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check livekit-api==1.2.2 aiohttp==3.14.5
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
from importlib.metadata import version

import aiohttp
from aiohttp import web
from livekit import api

timeouts = []


async def main():
    async def no_rooms(_request):
        return web.Response(body=b"", content_type="application/protobuf")

    app = web.Application()
    app.router.add_post("/{path:.*}", no_rooms)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = "http://127.0.0.1:%d" % runner.addresses[0][1]
    one_second = aiohttp.ClientTimeout(total=1)
    async with aiohttp.ClientSession(timeout=one_second) as session:
        post = session.post
        session.post = lambda *arguments, **options: timeouts.append(options.get("timeout", "unset")) or post(
            *arguments, **options
        )
        client = api.LiveKitAPI(url, "key", "s" * 32, timeout=one_second, session=session)
        await client.room.list_rooms(api.ListRoomsRequest())
    await runner.cleanup()
    print("livekit-api", version("livekit-api"), "aiohttp", version("aiohttp"))
    print("asked for a total of 1 s twice; session.post() was given timeout =", timeouts)
    return timeouts == [None]


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
