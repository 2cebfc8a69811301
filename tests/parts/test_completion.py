"""Completion as shells and kubectl ask for it, with the names of runs that are in the stream."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.terminal import Terminal
from exeunt.bus.connection import connect
from exeunt.bus.mesh_streams import runs_stream
from exeunt.bus.publisher import publish
from exeunt.bus.streams import ensure_stream
from exeunt.events.messages import Message
from exeunt_cli.__main__ import app
from exeunt_cli.completion import candidates
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer

BIN = Path(sys.executable).parent


@pytest.fixture
async def terminal(servers: Binaries, tmp_path: Path) -> AsyncIterator[Terminal]:
    """Of somebody who has NATS, in which two calls have been canceled, one of them twice."""
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server) as server:
        bus = await connect(server.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
        await ensure_stream(bus, runs_stream())
        for subject in ("voice.call_7.uid-1.first", "voice.call_7.uid-1.second", "video.call-8.uid-2.first"):
            message = Message(subject=f"exeunt.runs.{subject}.cancel-requested", payload=b"{}", headers={})
            await publish(bus, message, deadline=5)
        await bus.close(5)
        yield Terminal(tmp_path, PATH=f"{BIN}:/usr/bin:/bin", EXEUNT_NATS_URL=server.url)


@pytest.mark.parametrize(
    ("words", "found", "directive"),
    [
        (["time"], ["timeline"], 4),
        (["deadletters", ""], ["drop", "list", "republish", "show"], 4),
        (["explain", "--out"], ["--output"], 4),
        (["explain", "-o", ""], ["json", "jsonl", "text", "yaml"], 4),
        (["explain", "v"], ["voice/call"], 4),
        (["explain", "-n", "voice", "c"], ["call of voice"], 4),
        (["explain", "-A", "v"], ["voice/call"], 4),
        (["runs", "--since", ""], [], 0),
        (["no-such", "x"], [], 4),
    ],
)
def test_the_last_word_is_completed(words: list[str], found: list[str], directive: int) -> None:
    assert candidates(app, words, lambda namespace: [f"call of {namespace}" if namespace else "voice/call"]) == (
        found,
        directive,
    )


async def test_a_run_is_completed_from_the_stream(terminal: Terminal) -> None:
    for asked, answer in {
        "timeline ''": "@latest\nvideo/call-8\nvoice/call.7\n:4\n",
        "timeline -n voice ''": "@latest\ncall.7\n:4\n",
    }.items():
        assert await terminal.paste(f"kubectl_complete-exeunt {asked}") == (0, answer)


async def test_without_nats_there_is_no_run_and_no_error(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, PATH=f"{BIN}:/usr/bin:/bin", EXEUNT_NATS_URL="nats://127.0.0.1:9")
    assert await terminal.paste("kubectl_complete-exeunt explain ''") == (0, "@latest\n:4\n")


async def test_kubectl_asks_for_its_plugin(terminal: Terminal) -> None:
    code, screen = await terminal.paste("kubectl __complete exeunt explain vo 2>/dev/null")
    assert (code, screen) == (0, "voice/call.7\n:4\n")


async def test_bash_asks_with_the_script(terminal: Terminal) -> None:
    script = """
        source <(exeunt completion bash)
        COMP_WORDS=(exeunt explain vo) COMP_CWORD=2
        _exeunt
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert await terminal.paste(script) == (0, "voice/call.7\n")
