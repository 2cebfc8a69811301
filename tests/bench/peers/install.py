"""Installs the peers into .cache/, in a venv of their own: Exeunt needs none of their packages."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from hashlib import sha256
from pathlib import Path
from typing import Final

from bench.builds import ROOT
from exeunt.errors import ExeuntError

_LOCK: Final = Path(__file__).parent / "requirements.lock"
_WITHIN: Final = 180.0
"""Seconds."""


class PeersMissing(ExeuntError):
    """They cannot be installed; the message has what pip said last."""


async def python() -> str:
    """The Python on which peers run, installed if it is not there yet; raises PeersMissing."""
    locked = sha256(await asyncio.to_thread(_LOCK.read_bytes)).hexdigest()[:8]
    folder = ROOT / ".cache" / f"bench-peers-{sys.version_info.major}.{sys.version_info.minor}-{locked}"
    found, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        await _run(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = (str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1")
        await _run(*pip, "--require-hashes", "--requirement", str(_LOCK))
        done.touch()
    return str(found)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    try:
        async with asyncio.timeout(_WITHIN):
            said, _ = await process.communicate()
    except TimeoutError:
        raise PeersMissing(f"{' '.join(command)} took longer than {_WITHIN:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise PeersMissing(said.decode(errors="replace").strip().rpartition("\n")[2])
