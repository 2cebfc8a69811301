"""Leaving a server that does not serve us for another one; `unanswered` has the books and the rule.

`connection` tells it of connections and of what is asked in vain, `publisher`, `pull`, `acknowledge` and `lag` of what
is done. While something goes unanswered, the leaders of all groups that we know are asked whether they have a majority.
"""

import asyncio
import time
from collections.abc import Iterable
from math import inf
from typing import Any, Final

import msgspec
import nats.errors
import structlog
from nats.aio.client import Server

from exeunt.bus.client import NatsClient
from exeunt.bus.unanswered import MISSED, Unanswered, silence_of_majority

_PATIENCE: Final = 1.0  # seconds for an answer from a leader, and between two looks

log = structlog.get_logger(__name__)


class ServerChange:
    """Watches over the connection of `nc`, and moves it.

    `groups` are the JetStream API calls that tell of the streams and consumers that we know. `since` is the loop time
    from which the connection stands.
    """

    def __init__(self, nc: NatsClient) -> None:
        self.groups: set[str] = set()
        self.since = inf
        self._nc = nc
        self._unanswered = Unanswered()
        self._look: asyncio.TimerHandle | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lost: dict[str, float] = {}  # when the connection to the server of each address was lost last

    @property
    def unavailable_reason(self) -> str | None:
        """What JetStream leaves unanswered although the connection is up."""
        unanswered = self._unanswered.unavailable_reason(time.monotonic())  # metrics ask from a thread without a loop
        return f"JetStream does not serve us at {self._nc.server}: {unanswered}" if unanswered else None

    def connected(self) -> None:
        """The connection is a new one."""
        self.since = asyncio.get_running_loop().time()
        self._unanswered.connected()

    def lost(self) -> None:
        """There is no connection now."""
        self._lost[self._nc.address] = asyncio.get_running_loop().time()
        self.since = inf

    def answered(self, what: str) -> None:
        """JetStream has done `what` it was asked for, which may be any word."""
        self._unanswered.answered(what)

    def unanswered(self, what: str, why: str, *, since: float) -> None:
        """JetStream has been asked for `what` since that loop time, and does not do it."""
        now = asyncio.get_running_loop().time()
        if self.since < now:
            self._unanswered.unanswered(what, why, since=max(since, self.since), now=now)
            self._look_at_it(now)
            if "proof" not in self._tasks:
                self._own("proof", asyncio.create_task(self._look_for_proof(), name="nats-proof"))

    def proven(self) -> None:
        """A leader with a majority was reached through this server, so another one would serve us no better."""
        self._unanswered.proven(asyncio.get_running_loop().time())

    def choose(self, pool: Iterable[Server]) -> Server:
        """The server tried least, and where several are, one that we have not been at, or the one lost longest ago.
        nats-py has shuffled them, as at the start.
        """
        self._lost = {known.uri.netloc: self._lost.get(known.uri.netloc, -inf) for known in pool}
        return min(pool, key=lambda known: (known.reconnects, self._lost[known.uri.netloc]))

    async def close(self) -> None:
        """Leave no more."""
        self.lost()
        if self._look is not None:
            self._look.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _own(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    def _look_at_it(self, now: float) -> None:
        if self._look is not None:
            self._look.cancel()
        at = self._unanswered.leave_at(now, servers=self._nc.known)
        self._look = asyncio.get_running_loop().call_at(at, self._leave_if_due) if at < inf else None

    def _leave_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._unanswered.leave_at(now, servers=self._nc.known) > now:
            self._look_at_it(now)
        elif self.since < now and self._nc.has_others:
            log.warning("nats-server left", server=self._nc.server, trouble=self._unanswered.unavailable_reason(now))
            self._unanswered.leave(now)
            self._own("leave", asyncio.create_task(self._nc.leave(), name="nats-leave"))

    async def _look_for_proof(self) -> None:
        """Ask as long as something goes unanswered."""
        loop = asyncio.get_running_loop()
        while self.since < inf and self._unanswered.anything(loop.time()):
            began = loop.time()
            if any(await asyncio.gather(*(self._has_majority(call) for call in tuple(self.groups)))):
                self.proven()
            await asyncio.sleep(max(0.0, began + _PATIENCE - loop.time()))

    async def _has_majority(self, call: str) -> bool:
        try:
            reply = await self._nc.request(f"$JS.API.{call}", b"{}", timeout=_PATIENCE)
            answer: dict[str, Any] = msgspec.json.decode(reply.data)
        except (nats.errors.Error, TimeoutError, msgspec.DecodeError):
            return False
        replicas = answer.get("cluster", {}).get("replicas", [])
        return bool(replicas) and "leader" in answer["cluster"] and silence_of_majority(replicas) < MISSED
