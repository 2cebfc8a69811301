#!/usr/bin/env bash
# An idle TLS connection of Python's asyncio: guessed were 50 to 100 KB each (OpenSSL's buffers are 16 KB a direction).
# Seen are about 300 KB, and 256 KiB of them are one buffer: asyncio.sslproto gives every connection its own read buffer of
# SSLProtocol.max_size bytes, allocated and zeroed at once, however little is read. So a client that holds hundreds of quiet
# streams (watches on a kube-apiserver, say, through aiohttp) pays for its connections and not for what is on them; plain TCP
# costs a tenth or less. Seen with CPython 3.11.7 and aiohttp 3.14.5. Exit code 1: not so any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check aiohttp==3.14.5 trustme==1.2.1
cat > "$folder/server.py" <<'PYTHON'
import asyncio, ssl, sys
import trustme
from aiohttp import web

async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"hello\n")
    await asyncio.sleep(600)

async def main():
    ca = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    ca.cert_pem.write_to_path(sys.argv[1] + "/ca.pem")
    app = web.Application()
    app.router.add_get("/", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    print(*(address[1] for address in runner.addresses), flush=True)
    await asyncio.sleep(120)

asyncio.run(main())
PYTHON
cat > "$folder/client.py" <<'PYTHON'
import asyncio, asyncio.sslproto, platform, resource, ssl, sys
import aiohttp

STREAMS = 200

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

async def kilobytes_each(url, tls):
    connector = aiohttp.TCPConnector(limit=0, ssl=tls or True)
    async with aiohttp.ClientSession(connector=connector) as http:
        responses = [await http.get(url) for _ in range(3)]
        before = resident()
        responses += [await http.get(url) for _ in range(STREAMS)]
        for response in responses:
            await response.content.readline()
        used = (resident() - before) / STREAMS / 1000
        for response in responses:
            response.close()
        return used

async def main():
    folder, plain, encrypted = sys.argv[1:]
    tls = ssl.create_default_context(cafile=f"{folder}/ca.pem")
    found = {
        "plain": await kilobytes_each(f"http://127.0.0.1:{plain}/", None),
        "TLS": await kilobytes_each(f"https://127.0.0.1:{encrypted}/", tls),
    }
    print("Python", platform.python_version(), "aiohttp", aiohttp.__version__, ssl.OPENSSL_VERSION)
    print("asyncio.sslproto.SSLProtocol.max_size =", asyncio.sslproto.SSLProtocol.max_size)
    print({kind: f"{used:.0f} KB" for kind, used in found.items()}, f"for each of {STREAMS} idle streams")
    sys.exit(0 if found["TLS"] > 256 and found["plain"] < 100 else 1)

asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/server.py" "$folder" > "$folder/ports" &
server=$!
trap 'kill "$server"; rm -rf "$folder"' EXIT
until [ -s "$folder/ports" ]; do sleep 0.1; done
# shellcheck disable=SC2046
"$folder/venv/bin/python" "$folder/client.py" "$folder" $(cat "$folder/ports")
