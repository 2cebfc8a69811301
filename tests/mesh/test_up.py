"""`exeunt up`, and a newcomer's way: each command of its page is run as printed, up to a stop that is explained."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import nats
import pytest

from actors.terminal import Terminal, commands
from exeunt_local.binaries import Binaries, PrometheusBinaries

ROOT = Path(__file__).parents[2]
# There is no proxy at this address, and nothing here may look for one.
BEHIND_A_PROXY = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")

pytestmark = [pytest.mark.usefixtures("servers"), pytest.mark.timeout(300)]


class Up(NamedTuple):
    """A running `exeunt up`: its page, and what it tells below it."""

    process: asyncio.subprocess.Process
    screen: asyncio.StreamReader
    page: str

    async def reported(self, words: str, within: float = 60) -> str:
        """What it has told up to these words, and the rest of their line."""
        async with asyncio.timeout(within):
            before = await self.screen.readuntil(words.encode())
            return (before + await self.screen.readline()).decode()


@asynccontextmanager
async def running(folder: Path, *options: str) -> AsyncIterator[Up]:
    """Ends it with SIGTERM, and nothing is left behind."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", "up", *options),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder), **BEHIND_A_PROXY},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            page = (await process.stdout.readuntil(b"Ctrl-C stops everything.\n")).decode()
        yield Up(process, process.stdout, page)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(40):
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert os.listdir(folder) == []  # noqa: PTH208 - pathlib is refused in async code


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """For what `up` keeps, and the home of who tries it."""
    kept, home = tmp_path / "kept", tmp_path / "home"
    kept.mkdir()
    home.mkdir()
    return kept, home


def test_make_up_is_what_is_tested_here() -> None:
    assert re.search(r"^up: install .*\n\t@\$\(BIN\)/exeunt up$", (ROOT / "Makefile").read_text(), re.MULTILINE)


CAUSES = {"bridge": r"topology-gone\s+\(signal\)", "hub": r"topology-gone\s+\(hub-condition\)", "nobody": "deadline"}


async def test_a_newcomer_sees_a_stop_and_has_it_explained(folders: tuple[Path, Path]) -> None:
    kept, home = folders
    async with running(kept) as up:
        terminal, page = Terminal(home), commands(up.page)
        exports, start, leave, cancel, look, again = page.values()
        pasted: list[str] = []

        async def paste(command: str) -> str:
            code, screen = await terminal.paste(command)
            assert code == 0, f"{command}\n{screen}"
            pasted.append(command)
            return screen

        for command in exports:
            await paste(command)
        for leaving, cause in zip([*([each] for each in leave), []], CAUSES.values(), strict=True):
            for command in (*start, *leaving, *cancel):
                await paste(command)
            _, runs, explained, timeline = [await paste(command) for command in look]
            assert re.search(r"^default +call .* finalized\b", runs, re.MULTILINE)
            assert "It was finalized" in explained
            assert re.search(cause, explained)
            assert "Outcome:       finalized" in timeline
            for command in again:
                await paste(command)
        assert set(pasted) == {command for each in page.values() for command in each}


async def test_a_real_call_is_over_when_its_caller_has_left(folders: tuple[Path, Path]) -> None:
    kept, home = folders
    async with running(kept, "--livekit") as up:
        terminal, page = Terminal(home), commands(up.page)
        exports, start, _, cancel, look, _, [alice_joins], [this_is_her_room] = page.values()
        for command in exports:
            await terminal.paste(command)
        code, screen = await terminal.paste(this_is_her_room)
        assert code != 0
        assert "nobody is in a room voice" in screen
        alice = await terminal.open(alice_joins)
        assert alice.stdout is not None
        async with asyncio.timeout(60):
            joined = json.loads(await alice.stdout.readline())
        assert joined["what"] == "joined"
        for command in (*start, this_is_her_room):
            code, screen = await terminal.paste(command)
            assert code == 0, screen
        async with asyncio.timeout(30):
            await alice.communicate(b"leave\n")
        for command in (*cancel, *look):
            code, screen = await terminal.paste(command)
            assert code == 0, screen
            if command == "exeunt explain call":
                assert re.search(rf"signal:\s+/livekit/bridge:\s+room\s+voice\s+\({joined['room']}\)", screen)


async def test_who_dies_and_which_alert_fires_is_reported(
    folders: tuple[Path, Path], prometheus_binaries: PrometheusBinaries
) -> None:
    assert prometheus_binaries.prometheus.is_file()
    kept, _ = folders
    async with running(kept, "--prometheus") as up:
        os.kill(child(up.process.pid, "exeunt_terminator"), signal.SIGKILL)
        await up.reported("terminator has died (SIGKILL); it is started again in 1 s.")
        await up.reported("terminator is back.")
        [nats_url] = re.findall(r"export EXEUNT_NATS_URL=(.*)", up.page)
        connection = await nats.connect(nats_url)
        await connection.jetstream().publish("exeunt.runs.default.nobody.uid.first.cancel-requested", b"nonsense")
        await connection.close()
        reported = await up.reported("ExeuntDeadLetters fires (warning):")
        assert "Messages of " in reported


def child(parent: int, module: str) -> int:
    """The process that a process has started for a module."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "stat").read_text().rpartition(")")[2].split()
            command = (path / "cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(status[1]) == parent and module in command:
            return int(path.name)
    raise AssertionError(f"{parent} has no child for {module}")


async def test_prepare_only_is_done_at_once_when_there_is_nothing_to_prepare(servers: Binaries) -> None:
    assert servers.etcd.is_file()
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", "up", "--livekit", "--prepare-only"), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(40):
        _, progress = await up.communicate()
    assert (up.returncode, progress) == (0, b"")
