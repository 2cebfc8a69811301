"""Plays the kubelet: starts a service whatever its dependencies do, and asks it whether it lives and is ready."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from exeunt_local.processes import spawn, tail

_POLL = 0.05


@dataclass(frozen=True)
class Container:
    """One running service, ready or not; `url` is where it answers the probes."""

    process: Process
    url: str

    async def end(self, within: float) -> int:
        """SIGTERM; the exit code. TimeoutError when it takes longer."""
        self.process.terminate()
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def running(service: str, log: Path, **env: str) -> AsyncIterator[Container]:
    """Starts a service on a port that it takes itself and tells in its log; one that still runs is killed then."""
    command = [sys.executable, "-m", f"exeunt_{service.replace('-', '_')}"]
    settings = {**os.environ, "EXEUNT_HTTP_ADDR": "127.0.0.1:0", "EXEUNT_LOG_FORMAT": "json", **env}
    process = await spawn(command, log=log, env=settings)
    try:
        yield Container(process, f"http://{await _address(process, log)}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _address(process: Process, log: Path) -> str:
    try:
        async with asyncio.timeout(20):
            while process.returncode is None:
                if (address := _rendered(log)) is not None:
                    return address
                await asyncio.sleep(_POLL)
    except TimeoutError:
        pass
    raise AssertionError(f"it does not listen; exit code {process.returncode}\n{tail(log)}")


def _rendered(log: Path) -> str | None:
    for line in log.read_text().splitlines():
        with contextlib.suppress(msgspec.DecodeError):  # half written yet
            message = msgspec.json.decode(line)
            if message["event"] == "listening":
                return str(message["addresses"][0])
    return None


async def attempts(url: str) -> bool:
    """Whether a restart is not what it needs."""
    return not await _unavailable_reasons(f"{url}/livez")


async def wait_until_ready(url: str, within: float = 20) -> None:
    """AssertionError with what it says is missing."""
    await _wait_until(lambda unavailable_reasons: not unavailable_reasons, url, within)


async def wait_until_missing(url: str, dependency: str, because: str = "", within: float = 20) -> None:
    """Waits until it is not ready for want of `dependency` and says so, with a reason that holds `because`."""
    await _wait_until(
        lambda unavailable_reasons: dependency in unavailable_reasons and because in unavailable_reasons[dependency],
        url,
        within,
    )


async def _wait_until(holds: Callable[[dict[str, str]], bool], url: str, within: float) -> None:
    unavailable_reasons: dict[str, str] = {}
    try:
        async with asyncio.timeout(within):
            while True:
                unavailable_reasons = await _unavailable_reasons(f"{url}/readyz")
                if holds(unavailable_reasons):
                    return
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s; /readyz says {unavailable_reasons or 'ok'}") from None


async def _unavailable_reasons(url: str) -> dict[str, str]:
    """What a probe complains about; nothing where it is answered 200."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        if response.status == 200:
            return {}
        unavailable_reasons: dict[str, str] = (await response.json())["troubles"]
        return unavailable_reasons
