"""Child processes that are owned: ready before a deadline, and gone when their owner is gone.

The control plane, the NATS server and the services of a local mesh are all a `Process`; `go_build` starts its
builds with `spawn`. A child gets a process group of its own, so that Ctrl-C reaches its owner, which then
stops everything in order. On Linux the kernel kills a child whose owner died without doing so
(PR_SET_PDEATHSIG).
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import aiohttp

from exeunt.errors import ExeuntError

_POLL_SECONDS = 0.02
_PORTS = range(20_000, 32_000)
_handed_out: set[int] = set()

# Runs in the child before the command replaces it. A preexec_fn would do, but is not safe beside threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    sys.exit("the owner of this process is already gone")
os.execv(command[0], command)
"""


class ProcessFailed(ExeuntError):
    """A child process ended or was not ready in time; the message ends with the tail of its log."""


class Process:
    """One server that can be started, stopped, killed and started again; its output is appended to `log`.

    It is ready when a GET of `ready_url` answers 200; `tls` is who to trust there. `env`, when given, is all
    of the child's environment.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        ready_url: str,
        ready_within: float = 30,
        tls: ssl.SSLContext | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self.log = log
        self._name = log.stem
        self._ready_url = ready_url
        self._ready_within = ready_within
        self._tls = tls
        self._env = env
        self._child: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child and self._child.returncode is None else None

    async def start(self) -> None:
        """Returns when the process is ready; ProcessFailed when it ends first, or after `ready_within` s."""
        if self.pid:
            raise RuntimeError(f"{self._name} is running already, as process {self.pid}")
        self._child = await spawn(self.command, log=self.log, env=self._env)
        try:
            async with asyncio.timeout(self._ready_within):
                await self._wait_until_ready(self._child)
        except TimeoutError:
            await self.kill()
            raise ProcessFailed(
                f"{self._name} was not ready after {self._ready_within:g} s.\n{tail(self.log)}"
            ) from None
        except BaseException:
            await self.kill()
            raise

    async def _wait_until_ready(self, child: asyncio.subprocess.Process) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            while child.returncode is None:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # nobody listens yet
                    async with http.get(self._ready_url, ssl=self._tls or True) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(_POLL_SECONDS)
        raise ProcessFailed(
            f"{self._name} ended with exit code {child.returncode} before it was ready.\n{tail(self.log)}"
        )

    async def stop(self, within: float = 10) -> int:
        """SIGTERM, and SIGKILL when that was not enough after `within` seconds. Returns the exit code."""
        if self._child is None:
            raise RuntimeError(f"{self._name} was never started")
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                return await self._child.wait()
        except TimeoutError:
            await self.kill()
            return await self._child.wait()

    async def ended(self) -> int:
        """Returns its exit code once it has ended, by itself or by somebody's signal (negative)."""
        if self._child is None:
            raise RuntimeError(f"{self._name} was never started")
        return await self._child.wait()

    async def kill(self) -> None:
        """SIGKILL; returns when the process is gone. Does nothing when it is already."""
        if self._child is not None:
            self._signal(signal.SIGKILL)
            await self._child.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._child and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it went a moment ago
                self._child.send_signal(number)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


async def spawn(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> asyncio.subprocess.Process:
    """Starts the command in a process group of its own, tied to the attempt of this process."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log for an error message, with where the rest is."""
    text = log.read_text(errors="replace").splitlines()
    return "\n".join([f"The last lines of {log}:", *(f"  {line}" for line in text[-lines:])])


def free_port() -> int:
    """A TCP port of the loopback interface on which nobody listens, another one at every call.

    Servers that start side by side, and those that are away for a moment, keep their ports to themselves. It lies below
    the ephemeral range, from which the kernel could lend a stopped server's port to a client.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        if port in _handed_out:
            continue
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise ProcessFailed(f"found no free TCP port from {_PORTS.start} to {_PORTS.stop - 1} on 127.0.0.1")
