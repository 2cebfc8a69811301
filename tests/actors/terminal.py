"""Plays somebody who pastes commands into a shell, as a page or a document prints them."""

import asyncio
import re
from pathlib import Path
from typing import NamedTuple


class Ran(NamedTuple):
    """A command that has ended: its exit code, and what was on the screen."""

    code: int | None
    screen: str


class Terminal:
    """A shell in `folder` with hardly any environment of its own: what a page exports is what there is."""

    def __init__(self, folder: Path, **env: str) -> None:
        self._folder = folder
        self._env = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "COLUMNS": "120", **env}
        self._exports: list[str] = []

    async def paste(self, command: str, within: float = 60) -> Ran:
        """Runs it to its end; an `export` or a variable holds for what comes after."""
        script = "\n".join([*self._exports, command])
        process = await asyncio.create_subprocess_exec(
            *("/bin/bash", "-c", script),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._folder,
            env=self._env,
        )
        async with asyncio.timeout(within):
            screen, _ = await process.communicate()
        if re.match(r"export |\w+=", command):
            self._exports.append(command)
        return Ran(process.returncode, screen.decode())

    async def open(self, command: str) -> asyncio.subprocess.Process:
        """Runs it on, for whoever types into it and reads its lines."""
        return await asyncio.create_subprocess_exec(
            *("/bin/bash", "-c", "\n".join([*self._exports, f"exec {command}"])),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=self._folder,
            env=self._env,
        )


def commands(page: str) -> dict[str, list[str]]:
    """Under the first words of each paragraph, its commands: lines that stand two columns in, with those that go on."""
    found: dict[str, list[str]] = {}
    about = ""
    for before, line in zip(["", *page.splitlines()], page.splitlines(), strict=False):
        if line.startswith("   "):
            found[about][-1] += f"\n{line}"
        elif line.startswith("  "):
            found.setdefault(about, []).append(line.strip())
        elif line and not before:
            about = " ".join(line.split()[:3])
    return found
