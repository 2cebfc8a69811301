"""How a service ends that cannot go on: by its exit code and by what it says."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import nats
import pytest
from nats.aio.msg import Msg

from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.mesh_streams import runs_stream
from exeunt.bus.streams import ensure_stream
from exeunt.events.subjects import RUNS
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import Process, free_port

KUBECONFIG: Final = """
apiVersion: v1
kind: Config
current-context: nobody
contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]
clusters: [{name: nobody, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: nobody, user: {token: none}}]
"""
"""Of a cluster that is away: it is waited for, and NATS is asked meanwhile."""


@pytest.fixture
async def server(servers: Binaries, tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server) as server:
        yield server


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    bus = await connect(server.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
    yield bus
    await bus.close(5)


async def run_to_its_end(
    url: str, folder: Path, service: str = "timeout_scheduler", **more: str
) -> tuple[int | None, str, str]:
    """Exit code, log and stderr of a service."""
    (folder / "kubeconfig").write_text(KUBECONFIG)
    settings = {"EXEUNT_NATS_URL": url, "EXEUNT_HTTP_ADDR": "127.0.0.1:0", **more}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"exeunt_{service}"),
        env={**os.environ, **settings, "KUBECONFIG": str(folder / "kubeconfig")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        log, stderr = await process.communicate()
    return process.returncode, log.decode(), stderr.decode()


async def test_a_stream_to_be_set_otherwise_is_one_line(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    await bus.api(f"STREAM.CREATE.{RUNS}", runs_stream().config() | {"max_msgs": 1})
    code, log, stderr = await run_to_its_end(server.url, tmp_path)
    assert code == 2
    assert stderr.startswith("exeunt-timeout-scheduler: stream RUNS has max_msgs 1, wanted no limit: ")
    assert stderr.count("\n") == 1
    assert "Traceback" not in log


async def test_what_no_setting_mends_leaves_its_traceback_in_the_log(servers: Binaries, tmp_path: Path) -> None:
    """As when JetStream declines a call for a reason that is new to us: here it is played by another client."""
    refused = {"error": {"code": 400, "err_code": 1, "description": "a new reason"}}
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, jetstream=False) as server:
        played = await nats.connect(server.url)

        async def decline(message: Msg) -> None:
            await message.respond(json.dumps(refused).encode())

        await played.subscribe("$JS.API.STREAM.INFO.RUNS", cb=decline)
        code, log, stderr = await run_to_its_end(server.url, tmp_path)
        await played.close()
    assert (code, stderr) == (1, "")
    last = json.loads(log.splitlines()[-1])
    assert (last["level"], last["event"]) == ("critical", "ended by an error")
    assert "JetStream refused STREAM.INFO.RUNS: a new reason" in last["error"]
    assert "Traceback" in last["exception"]


async def test_a_consumer_too_many_is_one_line(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    await bus.api(f"STREAM.CREATE.{RUNS}", runs_stream().config() | {"max_consumers": 1})
    await ensure_stream(bus, runs_stream())
    await ensure_consumer(bus, RUNS, "anothers", ["exeunt.runs.>"], ack_wait=10, max_ack_pending=1)
    code, log, stderr = await run_to_its_end(server.url, tmp_path)
    assert code == 2
    assert "consumer timeout-scheduler of stream RUNS cannot be made or adjusted: maximum consumers" in stderr
    assert stderr.count("\n") == 1
    assert "Traceback" not in log


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("-h", 0), ("now", 2)])
async def test_an_argument_is_answered_with_where_the_settings_are(argument: str, code: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_timeout_scheduler", argument), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        _, stderr = await process.communicate()
    assert process.returncode == code
    assert stderr.startswith(b"exeunt-timeout-scheduler runs until SIGTERM and takes no arguments.")


LIVEKIT: Final = {"EXEUNT_LIVEKIT_URL": "http://livekit:7880", "EXEUNT_LIVEKIT_KEYS": "keys"}
"""Of the LiveKit bridge; `keys` lies in the test's folder."""


@pytest.mark.parametrize(
    ("setting", "value", "reported"),
    [
        ("EXEUNT_LIVEKIT_URL", "", "EXEUNT_LIVEKIT_URL is not set, and the LiveKit bridge cannot do without"),
        ("EXEUNT_LIVEKIT_KEYS", "", "EXEUNT_LIVEKIT_KEYS is not set, and the LiveKit bridge cannot do without"),
        ("EXEUNT_LIVEKIT_URL", "livekit:7880", "EXEUNT_LIVEKIT_URL='livekit:7880' cannot be used: it has to be like"),
        ("EXEUNT_LIVEKIT_URL", "redis://livekit", "EXEUNT_LIVEKIT_URL='redis://livekit' cannot be used: it has to be"),
        ("EXEUNT_LIVEKIT_KEYS", "missing", "cannot be used: No such file or directory"),
        ("EXEUNT_LIVEKIT_KEYS", "nothing", "cannot be used: it has to hold one or more lines of `key: secret`"),
        ("EXEUNT_LIVEKIT_KEYS", "list", "cannot be used: it has to hold one or more lines of `key: secret`"),
        ("EXEUNT_LIVEKIT_KEYS", "no-yaml", "cannot be used: it is no YAML"),
        ("EXEUNT_LIVEKIT_WEBHOOK_ADDR", "nowhere", "EXEUNT_LIVEKIT_WEBHOOK_ADDR='nowhere' cannot be listened on: "),
    ],
)
async def test_what_the_livekit_bridge_cannot_do_without_is_one_line(
    server: NatsServer, tmp_path: Path, setting: str, value: str, reported: str
) -> None:
    for name, text in (("keys", "key: 0123456789"), ("nothing", ""), ("list", "- hush"), ("no-yaml", "hush: [")):
        (tmp_path / name).write_text(text)
    given = LIVEKIT | {setting: value}
    keys = given["EXEUNT_LIVEKIT_KEYS"]
    given["EXEUNT_LIVEKIT_KEYS"] = str(tmp_path / keys) if keys else ""
    code, log, stderr = await run_to_its_end(server.url, tmp_path, "livekit_bridge", **given)
    assert code == 2
    assert stderr.startswith("exeunt-livekit-bridge: ")
    assert reported in stderr
    assert stderr.count("\n") == 1
    assert "hush" not in stderr + log


async def test_the_livekit_bridge_has_one_stream_and_no_kubernetes(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("key: 0123456789")
    http = f"127.0.0.1:{free_port()}"
    env = LIVEKIT | {
        "EXEUNT_NATS_URL": server.url,
        "EXEUNT_HTTP_ADDR": http,
        "EXEUNT_LIVEKIT_URL": f"ws://127.0.0.1:{free_port()}",
        "EXEUNT_LIVEKIT_KEYS": str(tmp_path / "keys"),
        "EXEUNT_LIVEKIT_WEBHOOK_ADDR": "127.0.0.1:0",
        "KUBECONFIG": str(tmp_path / "missing"),
    }
    command = (sys.executable, "-m", "exeunt_livekit_bridge")
    process = Process(command, log=tmp_path / "log", ready_url=f"http://{http}/livez", env={**os.environ, **env})
    async with process, aiohttp.ClientSession() as client:
        async with asyncio.timeout(30):
            while True:
                async with client.get(f"http://{http}/readyz") as response:
                    unavailable_reasons = (await response.json())["troubles"]
                if "livekit" in unavailable_reasons and "cannot be asked" in unavailable_reasons["livekit"]:
                    break
                await asyncio.sleep(0.05)
        assert "kubernetes" not in unavailable_reasons
        streams = (await bus.api("STREAM.NAMES"))["streams"]
        assert streams == ["LIVEKIT"]
        assert await process.stop() == 0


@pytest.mark.parametrize(
    ("url", "files", "line"),
    [
        ("tls://me:secret@a,ws://b", (), "EXEUNT_NATS_URL: cannot use NATS at ws://b: Exeunt speaks no WebSocket"),
        ("nats://me:sec/ret@a", (), "EXEUNT_NATS_URL: cannot use NATS at nats://a: write / ? # % @ :"),
        (
            "a",
            {"EXEUNT_NATS_CREDENTIALS": "{file}"},
            "EXEUNT_NATS_CREDENTIALS='{file}' cannot be used: it has a JWT and no",
        ),
        ("a", ("EXEUNT_NATS_TLS_CA",), "EXEUNT_NATS_TLS_CA='{file}' cannot be used: "),
        ("a", ("EXEUNT_NATS_TLS_KEY",), "EXEUNT_NATS_TLS_CERT needs its key"),
    ],
)
async def test_nats_settings_of_no_use_are_one_line(
    tmp_path: Path, url: str, files: tuple[str, ...], line: str
) -> None:
    file = str(tmp_path / "file")
    await asyncio.to_thread(Path(file).write_text, "eyJsecret.eyJsecret.secret")
    code, log, stderr = await run_to_its_end(url, tmp_path, **dict.fromkeys(files, file))
    assert code == 2
    assert stderr.startswith(f"exeunt-timeout-scheduler: {line.format(file=file)}")
    assert len(stderr.splitlines()) == 1
    assert "secret" not in log + stderr
    assert "Traceback" not in log


async def test_an_account_that_allows_too_little_is_one_line(servers: Binaries, tmp_path: Path) -> None:
    limits = "max_bytes_required: true, max_streams: 9"
    config = f"accounts {{ A {{ jetstream: {{ {limits} }}, users: [ {{ user: a, password: a }} ] }} }}"
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, config=config) as server:
        code, log, stderr = await run_to_its_end(server.url.replace("//", "//a:a@"), tmp_path)
    assert code == 2
    assert len(stderr.splitlines()) == 1
    assert "set EXEUNT_HISTORY_BYTES" in stderr
    assert "set EXEUNT_DEADLINES_BYTES" in stderr
    assert "Traceback" not in log


async def test_a_server_that_takes_small_messages_only_is_one_line(servers: Binaries, tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, config="max_payload: 32KB") as server:
        code, log, stderr = await run_to_its_end(server.url, tmp_path)
    assert code == 2
    assert stderr.startswith("exeunt-timeout-scheduler: NATS takes messages of 32768 bytes at the most: have its ")
    assert len(stderr.splitlines()) == 1
    assert "Traceback" not in log
