"""Those who take turns on the same parts, each in a namespace of its own: the floor, builds of Exeunt, and peers.

They can hold their writes back: then a storm begins for all of its runs at once.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import aiohttp

from actors.bystander import Bystander
from exeunt.clock import parse_duration
from exeunt.settings import Settings
from exeunt_local.mesh import SERVICES, Mesh

FLOOR: Final = "floor"
LOOKING: Final = "looking"
EXEUNT: Final = "exeunt"
AGAINST: Final = "against"
KOPF: Final = "kopf"
WATCH: Final = "watch"
"""Names of sides, and of their namespaces."""
PATIENCE: Final = 120.0
"""Seconds after which a measurement is given up; a machine that has more to do needs a minute for a storm."""
_POLL: Final = 0.02
_QUIET: Final = 0.3
"""Seconds in which nothing is stored when everybody is done."""
_STORES_WITHIN: Final = 15.0
"""Seconds; a build that remembers topologies otherwise has seen them by then."""
_LATEST_LOOK: Final = 1.0
"""Seconds by which a second look may be late."""

T = TypeVar("T")


async def within(waiting: Awaitable[T]) -> T:
    """Waits, but not for ever; raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        return await waiting


class Side:
    """One loop in one process: the floor, or a peer; `run` starts another one for a namespace."""

    def __init__(self, name: str, process: Process, run: Callable[[str], AbstractAsyncContextManager[Process]]) -> None:
        self.name = name
        self._process = process
        self._run = run

    @asynccontextmanager
    async def watching(self, namespace: str) -> AsyncIterator[int]:
        """The process id of one more that sees that namespace: of a build, a watcher, as soon as it is ready."""
        async with self._run(namespace) as process:
            yield process.pid

    @property
    def pids(self) -> dict[str, int]:
        """Of its processes, by what they do."""
        return {"loop": self._process.pid}

    def hold(self) -> None:
        """No write from now on."""
        self._process.send_signal(signal.SIGUSR1)

    def release(self) -> None:
        """It goes on."""
        self._process.send_signal(signal.SIGUSR2)

    async def heard(self, stops: int) -> None:
        """Until all that is left to do for so many stops is held back; a loop hears as fast as the observer."""

    async def rest(self, since: float) -> None:
        """Until nothing is left to do after stops that were over at `since` (time.monotonic)."""


class Services(Side):
    """The three services of a build, with a NATS of their own."""

    def __init__(
        self, name: str, mesh: Mesh, bystander: Bystander, monitor_url: str, settings: Mapping[str, str]
    ) -> None:
        self.name = name
        self.mesh = mesh
        self.bystander = bystander
        self.settings = {"EXEUNT_NAMESPACES": name, "EXEUNT_LOG_LEVEL": "warning", **settings}
        self._monitor_url = monitor_url

    @property
    def pids(self) -> dict[str, int]:
        return {service: self.mesh.pid(service) for service in SERVICES}

    def hold(self) -> None:
        os.kill(self.mesh.pid("terminator"), signal.SIGSTOP)

    def release(self) -> None:
        os.kill(self.mesh.pid("terminator"), signal.SIGCONT)

    async def start(self, **settings: str) -> None:
        """The services, under settings that go over those of this side."""
        await asyncio.gather(*(self.mesh.start(service, 0, **{**self.settings, **settings}) for service in SERVICES))

    async def stop(self) -> None:
        await asyncio.gather(*map(self.mesh.stop, SERVICES))

    async def restart(self, **settings: str) -> None:
        """Stops and starts them."""
        await self.stop()
        await self.start(**settings)

    async def heard(self, stops: int) -> None:
        await within(self._waiting(stops))

    async def _waiting(self, stops: int) -> None:
        waiting = 0
        while waiting < stops:
            info = await self.bystander.streams.consumer_info("RUNS", "terminator")
            waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)
            await asyncio.sleep(_POLL)

    async def stores(self, records: int) -> None:
        """Until RUNS has had that many records, as when so many more topologies exist; or for some seconds, if it does
        not store that.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_STORES_WITHIN):
                while (await self.stored())[0] < records:  # noqa: ASYNC110 - asked for
                    await asyncio.sleep(_POLL)

    async def settled(self) -> None:
        """Until everything is answered and nothing more comes."""
        async with asyncio.timeout(PATIENCE):
            while True:
                await self.bystander.wait_until_idle(PATIENCE)
                before = await self.stored()
                await asyncio.sleep(_QUIET)
                if await self.stored() == before:
                    return

    async def rest(self, since: float) -> None:
        """Second looks are over, however a build does them."""
        looked = self.settings.get("EXEUNT_SECOND_LOOK")
        pause = (parse_duration(looked) if looked else Settings().second_look).total_seconds() + _LATEST_LOOK
        await asyncio.sleep(max(0.0, since + pause - time.monotonic()))
        await self.settled()

    @asynccontextmanager
    async def watching(self, namespace: str) -> AsyncIterator[int]:
        await self.mesh.start("watcher", 1, **{**self.settings, "EXEUNT_NAMESPACES": namespace})
        yield self.mesh.pid("watcher", 1)
        await self.mesh.stop("watcher", 1)

    async def stored(self) -> tuple[int, int]:
        """Records of RUNS ever stored, and bytes that it holds."""
        state = (await self.bystander.streams.stream_info("RUNS")).state
        return state.last_seq, state.bytes

    async def messages(self) -> int:
        """Messages that the services have sent to nats-server so far, acks and pulls among them."""
        async with aiohttp.ClientSession() as http, http.get(f"{self._monitor_url}/connz") as answer:
            connections = (await answer.json())["connections"]
        return sum(each["in_msgs"] for each in connections if "exeunt" in each.get("name", ""))


@asynccontextmanager
async def running(
    module: str, namespace: str, kubeconfig: Path, *arguments: str, python: str = sys.executable
) -> AsyncIterator[Process]:
    """A module of the bench as a process for its namespace, watching. What it complains about goes to our stderr."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", f"bench.{module}", namespace, *arguments),
        cwd=Path(__file__).parents[1],
        stdin=DEVNULL,
        stdout=PIPE,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        start_new_session=True,  # Ctrl-C is for us, who then stop everything in order
    )
    try:
        await within(_first_word(module, process))
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _first_word(module: str, process: Process) -> None:
    assert process.stdout is not None
    if not await process.stdout.readline():
        raise RuntimeError(f"{module} has ended before it began")
