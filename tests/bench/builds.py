"""Builds of Exeunt whose services take turns: this one, and a commit or another checkout beside it.

A commit gets a folder of its own in .cache/, in which its own `make install` installs what it needs. Nothing of it is
imported here: its services run on its own Python, under the rights that its own manifests give.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml  # type: ignore[import-untyped]

from exeunt.errors import ExeuntError

ROOT: Final = Path(__file__).parents[2]
_INSTALLED_WITHIN: Final = 600.0
"""Seconds."""


class BuildMissing(ExeuntError):
    """There is no such commit, or it cannot be installed; the message has what git or make said."""


class Build(NamedTuple):
    """A checkout, with the Python that its services run on."""

    folder: Path
    python: str

    def rights(self, namespace: str) -> Iterator[dict[str, Any]]:
        """The RBAC objects of its deploy/base, for ServiceAccounts in `namespace`: each build has its own."""
        for item in yaml.safe_load_all((self.folder / "deploy" / "base" / "rbac.yaml").read_text()):
            if item["kind"] == "ServiceAccount":
                item["metadata"]["namespace"] = namespace
            else:
                item["metadata"]["name"] += f"-{namespace}"
            if "roleRef" in item:
                item["roleRef"]["name"] += f"-{namespace}"
                for subject in item["subjects"]:
                    subject["namespace"] = namespace
            yield item


THIS: Final = Build(ROOT, sys.executable)


async def find(commit_or_folder: str) -> Build:
    """A checkout that is installed already, or a commit of this repository, installed now; raises BuildMissing."""
    folder = Path(commit_or_folder)
    if not await asyncio.to_thread(folder.is_dir):
        folder = await _checkout(commit_or_folder)
        await _run("make", "-C", str(folder), "install", f"PYTHON={sys.executable}")
    python = folder / ".venv" / "bin" / "python"
    if not python.exists():
        raise BuildMissing(f"{folder} has no .venv/: run `make install` there")
    return Build(folder.absolute(), str(python.absolute()))


async def _checkout(commit: str) -> Path:
    """The files of a commit, in .cache/."""
    name = (await _run("git", "-C", str(ROOT), "rev-parse", "--verify", "--short=12", f"{commit}^{{commit}}")).strip()
    folder = ROOT / ".cache" / "builds" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial, archive = folder.with_suffix(".part"), folder.with_suffix(".tar")
        partial.mkdir(exist_ok=True)
        await _run("git", "-C", str(ROOT), "archive", "--output", str(archive), name)
        await _run("tar", "-x", "-f", str(archive), "-C", str(partial))
        archive.unlink()
        partial.rename(folder)
    return folder


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    try:
        async with asyncio.timeout(_INSTALLED_WITHIN):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BuildMissing(f"{' '.join(command)} failed:\n{said.decode(errors='replace')}")
    return said.decode()
