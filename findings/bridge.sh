#!/bin/sh
# livekit-api 1.2.2: the timeout that LiveKitAPI takes is never applied to ListRooms and its like.
#
# Guessed: LiveKitAPI(timeout=ClientTimeout(total=1)), "Request timeout (default: 10 seconds)" in its docstring, gives up
# on a server that takes the connection and never answers after 1 s, with TimeoutError.
# Seen: it waits for ever. The client passes `timeout=None` on to aiohttp's session.post(), which aiohttp 3 takes for "no
# timeout at all", also in place of the session's own. asyncio.timeout() around the call is what works.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check livekit-api==1.2.2 aiohttp==3.14.5
"$folder/venv/bin/python" - <<'EOF'
import asyncio
import sys
import time
from importlib.metadata import version

import aiohttp
from livekit import api

TIMEOUT, PATIENCE = 1, 8  # seconds


async def waited(call):
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            await call
    except TimeoutError:
        pass
    return time.monotonic() - began


async def main():
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)  # it never answers
    url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        plain = await waited(session.post(url))
    async with api.LiveKitAPI(url, "key", "a secret of at least thirty-two characters", timeout=timeout) as livekit:
        sdk = await waited(livekit.room.list_rooms(api.ListRoomsRequest()))
    server.close()
    print(f"livekit-api {version('livekit-api')}, aiohttp {version('aiohttp')}, Python {sys.version.split()[0]}")
    print(f"timeout {TIMEOUT} s; a plain aiohttp session gave up after {plain:.1f} s")
    print(f"timeout {TIMEOUT} s; LiveKitAPI still waited after {sdk:.1f} s, when we gave up")
    changed = plain > PATIENCE / 2 or sdk < PATIENCE - 0.5
    print("this has changed" if changed else "as seen before")
    sys.exit(changed)


asyncio.run(main())
EOF
