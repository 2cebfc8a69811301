#!/usr/bin/env bash
# A kubeconfig with `auth-provider: oidc` and an expired id-token: what is in it after kubernetes_asyncio has renewed that?
# Guessed: the new id-token and the new refresh token, since load_kube_config says of persist_config, its default: "config
#          file will be updated when changed".
# Seen:    kubernetes_asyncio 36.1.0 renews at the issuer, which takes the refresh token out of use, and ends with
#          "KubeConfigMerger.save_changes() takes 1 positional argument but 2 were given". The file keeps the spent
#          refresh token. When the issuer's answer has no refresh token, as OAuth allows, it is a KeyError.
# Exits 1 when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes_asyncio==36.1.0 aiohttp==3.14.5
cat > "$folder/ask.py" <<'PYTHON'
import asyncio, json, sys
from aiohttp import web
from kubernetes_asyncio import client, config

rotates, path = sys.argv[1] == "rotating", sys.argv[2]
ID_TOKEN = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDB9.c2lnbmF0dXJl"  # expired in 2023
asked = []

async def discover(request):
    return web.json_response({"token_endpoint": f"http://{request.host}/token"})

async def token(request):
    asked.append((await request.post())["refresh_token"])
    answer = {"token_type": "Bearer", "access_token": "a", "id_token": "new.id.token"}
    return web.json_response(answer | ({"refresh_token": "second"} if rotates else {}))

async def main():
    app = web.Application()
    app.add_routes([web.get("/.well-known/openid-configuration", discover), web.post("/token", token)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    provider = {"idp-issuer-url": issuer, "client-id": "c", "client-secret": "s", "id-token": ID_TOKEN,
                "refresh-token": "first"}
    with open(path, "w") as file:
        json.dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": "https://server.example"}}],
            "users": [{"name": "x", "user": {"auth-provider": {"name": "oidc", "config": provider}}}],
        }, file)
    try:
        await config.load_kube_config(path, client_configuration=client.Configuration())
        said = "no error"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        print(said, file=sys.stderr)
    with open(path) as file:
        kept = "first" if '"refresh-token": "first"' in file.read() else "another"
    print("asked with", *asked, "-", said.partition(":")[0], "-", kept, "kept")
    await runner.cleanup()

asyncio.run(main())
PYTHON
"$folder/venv/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -iE 'kubernetes|aiohttp '
rotating=$("$folder/venv/bin/python" -W ignore "$folder/ask.py" rotating "$folder/config")
lasting=$("$folder/venv/bin/python" -W ignore "$folder/ask.py" lasting "$folder/config")
echo "with a new refresh token in the answer: $rotating"
echo "without:                                $lasting"
[ "$rotating" = "asked with first - TypeError - first kept" ] && [ "$lasting" = "asked with first - KeyError - first kept" ]
