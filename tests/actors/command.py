"""Plays a person at a terminal who runs `exeunt`, and the one who looks whether that has changed anything."""

import asyncio
import json
import os
import sys
from typing import Any, NamedTuple

from nats.aio.client import Client

from exeunt_local.nats_server import NatsServer


class Ran(NamedTuple):
    """A command that has ended: its exit code, what it printed, and what it said on stderr."""

    code: int
    out: str
    err: str


async def exeunt(server: NatsServer, *arguments: str, stdin: bytes = b"", **env: str) -> Ran:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "EXEUNT_NATS_URL": server.url, "KUBECONFIG": "/nowhere", **env},
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def state_of(admin: Client) -> dict[str, Any]:
    """Everything that JetStream keeps: streams with their state, and every consumer."""
    state: dict[str, Any] = {}
    names = json.loads((await admin.request("$JS.API.STREAM.NAMES", b"", timeout=5)).data)["streams"] or ()
    for call in ("INFO", "STREAM.NAMES", "STREAM.LIST", *(f"CONSUMER.LIST.{name}" for name in names)):
        answer = json.loads((await admin.request(f"$JS.API.{call}", b"", timeout=5)).data)
        answer.pop("api", None)  # counts the questions, ours among them
        for each in (
            answer.get("streams", [])
            if call == "STREAM.LIST"
            else answer.get("consumers", ())
            if call[0] == "C"
            else ()
        ):
            each.pop("ts", None)  # when we asked
            each.pop("num_waiting", None)  # its readers' doing: a fetch that has expired and is made anew
        state[call] = answer
    return state
