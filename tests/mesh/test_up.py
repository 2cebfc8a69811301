import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from kubernetes_asyncio.client import CustomObjectsApi
from nats.js.errors import NotFoundError

from actors.admin import admin_client
from actors.history import Event, last_signal
from exeunt_local.binaries import Binaries

# There is no proxy at this address, and nothing here may look for one.
BEHIND_A_PROXY = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")


@pytest.mark.usefixtures("servers")
async def test_up_tells_how_to_reach_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", "up"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path), **BEHIND_A_PROXY},
    )
    assert up.stdout is not None
    async with asyncio.timeout(60):
        page = (await up.stdout.readuntil(b"Ctrl-C")).decode()
    kubeconfig = re.findall(r"export KUBECONFIG=(.*)", page)[0]
    async with admin_client(Path(kubeconfig)) as client:
        runs = await CustomObjectsApi(client).list_cluster_custom_object("runs.bubustack.io", "v1alpha1", "storyruns")
    assert runs["items"] == []

    up.send_signal(signal.SIGTERM)
    async with asyncio.timeout(40):
        await up.communicate()
    assert up.returncode == 0
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib is refused in async code


async def test_with_livekit_a_real_call_is_over_when_its_caller_has_left(tmp_path: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", "up", "--livekit"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert up.stdout is not None
    async with asyncio.timeout(90):
        page = (await up.stdout.readuntil(b"Ctrl-C")).decode()
    [alice_joins] = re.findall(r".* -m exeunt_local.livekit_participant .*", page)
    alice = await asyncio.create_subprocess_exec(
        *shlex.split(alice_joins), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert alice.stdout is not None
    async with asyncio.timeout(30):
        joined = json.loads(await alice.stdout.readline())
        await alice.communicate(b"leave\n")
    assert joined["what"] == "joined"
    [nats_url] = re.findall(r"export EXEUNT_NATS_URL=(.*)", page)
    async with asyncio.timeout(30):
        signal_of_the_bridge = await wait_for_signal(nats_url, joined["room"])
    assert signal_of_the_bridge.kind == "topology-gone"

    up.send_signal(signal.SIGTERM)
    async with asyncio.timeout(40):
        await up.communicate()
    assert up.returncode == 0
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib is refused in async code


async def wait_for_signal(nats_url: str, trigger_token: str) -> Event:
    """The last signal for that token, as soon as there is one."""
    while True:
        with contextlib.suppress(NotFoundError):
            return await last_signal(nats_url, trigger_token)
        await asyncio.sleep(0.1)


async def test_prepare_only_is_done_at_once_when_there_is_nothing_to_prepare(servers: Binaries) -> None:
    assert servers.etcd.is_file()
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", "up", "--livekit", "--prepare-only"), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(40):
        _, progress = await up.communicate()
    assert (up.returncode, progress) == (0, b"")
