"""How a service ends that cannot go on: by its exit code and by what it says."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.streams import ensure_stream
from exeunt.streams import runs_stream
from exeunt.subjects import RUNS
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer

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


async def run_to_its_end(server: NatsServer, folder: Path) -> tuple[int | None, str, str]:
    """Exit code, log and stderr of a timeout-scheduler."""
    (folder / "kubeconfig").write_text(KUBECONFIG)
    settings = {"EXEUNT_NATS_URL": server.url, "EXEUNT_HTTP_ADDR": "127.0.0.1:0"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_timeout_scheduler"),
        env={**os.environ, **settings, "KUBECONFIG": str(folder / "kubeconfig")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        log, stderr = await process.communicate()
    return process.returncode, log.decode(), stderr.decode()


async def test_a_stream_to_be_set_otherwise_is_one_line(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    await bus.api(f"STREAM.CREATE.{RUNS}", runs_stream().config() | {"max_msgs": 1})
    code, log, stderr = await run_to_its_end(server, tmp_path)
    assert code == 2
    assert stderr.startswith("exeunt-timeout-scheduler: stream RUNS has max_msgs 1, wanted no limit: ")
    assert stderr.count("\n") == 1
    assert "Traceback" not in log


async def test_what_no_setting_mends_leaves_its_traceback_in_the_log(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    """As when JetStream declines a call: here a second consumer, where the stream may have one."""
    await bus.api(f"STREAM.CREATE.{RUNS}", runs_stream().config() | {"max_consumers": 1})
    await ensure_stream(bus, runs_stream())
    await ensure_consumer(bus, RUNS, "anothers", ["exeunt.runs.>"], ack_wait=10, max_ack_pending=1)
    code, log, stderr = await run_to_its_end(server, tmp_path)
    assert (code, stderr) == (1, "")
    last = json.loads(log.splitlines()[-1])
    assert (last["level"], last["event"]) == ("critical", "ended by an error")
    assert "JetStream refused CONSUMER.CREATE.RUNS.timeout-scheduler: maximum consumers limit reached" in last["error"]
    assert "Traceback" in last["exception"]


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("-h", 0), ("now", 2)])
async def test_an_argument_is_answered_with_where_the_settings_are(argument: str, code: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_timeout_scheduler", argument), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        _, stderr = await process.communicate()
    assert process.returncode == code
    assert stderr.startswith(b"exeunt-timeout-scheduler runs until SIGTERM and takes no arguments.")
