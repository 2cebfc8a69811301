#!/usr/bin/env bash
# A proxy answers aiohttp's CONNECT with 407: what does the repr of the error show, which programs put into their logs?
# Guessed: the status, its reason, and the URL that was asked for.
# Seen:    all headers of the CONNECT, too, with Proxy-Authorization in them: user and password, as base64 (aiohttp 3.14.5).
#          str() of the same error shows none of that.
# Exits 1 when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiohttp==3.14.5
cat > "$folder/ask.py" <<'PYTHON'
import asyncio
from base64 import b64encode

import aiohttp

SECRET = b64encode(b"user:example").decode()

async def refuse(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()

async def main():
    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        try:
            await session.get(
                "https://api.example",
                proxy=f"http://127.0.0.1:{port}",
                proxy_headers={"Proxy-Authorization": f"Basic {SECRET}"},
            )
        except aiohttp.ClientHttpProxyError as error:
            print("aiohttp", aiohttp.__version__)
            print("str: ", error)
            print("repr:", repr(error))
            raise SystemExit(0 if SECRET in repr(error) and SECRET not in str(error) else 1)

asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/ask.py"
