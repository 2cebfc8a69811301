"""Reads the streams of Exeunt as anyone may who is let in: what was said of a run, and whether all of it is answered.

It writes nothing and takes nothing away. What it reads are the events that the services publish; it uses their types
(`exeunt.codec`), because those are the interface.
"""

import asyncio
from dataclasses import dataclass
from typing import Self

import msgspec
import nats
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from exeunt.codec import read_fact
from exeunt.events import Fact, Outcome
from exeunt.snapshot import Snapshot

# In the order in which work is passed on: what one had when it was asked is with a later one, or done, when all were.
CONSUMERS = (("RUNS", "timeout-scheduler"), ("DEADLINES", "timeout-scheduler-due"), ("RUNS", "terminator"))
_POLL = 0.01


@dataclass(frozen=True)
class Said:
    """One event of RUNS: a fact with its snapshot, or (`fact` was answered by it) an outcome."""

    sequence: int
    subject: str
    episode: str
    fact: Fact
    snapshot: Snapshot | None = None
    outcome: Outcome | None = None


class Bystander:
    """Entered as an async context manager."""

    def __init__(self, nats_url: str) -> None:
        self._nats_url = nats_url
        self._connection: Client | None = None

    @property
    def streams(self) -> JetStreamContext:
        assert self._connection is not None
        return self._connection.jetstream()

    async def __aenter__(self) -> Self:
        self._connection = await nats.connect(self._nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        await self._connection.close()

    async def history(self, uid: str) -> list[Said]:
        """What RUNS holds of one run, in order; nothing where there is no such stream."""
        said: list[Said] = []
        sequence = 1
        while True:
            try:
                message = await self.streams.get_msg("RUNS", seq=sequence, subject=_of(uid), next=True, direct=True)
            except (NotFoundError, NatsTimeoutError):
                return said
            assert message.seq is not None
            assert message.subject is not None
            sequence = message.seq + 1
            said.append(_read(message.seq, message.subject, message.headers or {}, message.data or b""))

    async def facts(self, uid: str) -> list[Fact]:
        """The facts that were said of one run, in order, outcomes left out."""
        return [said.fact for said in await self.history(uid) if said.outcome is None]

    async def outcomes(self, uid: str) -> list[tuple[Fact, str]]:
        """Each fact that was answered, with the rule that decided, in order."""
        return [(said.fact, said.outcome.rule) for said in await self.history(uid) if said.outcome is not None]

    async def wait_for_fact(self, uid: str, fact: Fact, within: float = 10, *, fence: str | None = None) -> Said:
        """The first event that says `fact`, in the episode of `fence` where that is given.

        AssertionError tells what was said instead.
        """
        return await self._wait_for(uid, fact, within, fence, outcome=False)

    async def wait_for_outcome(self, uid: str, fact: Fact, within: float = 10, *, fence: str | None = None) -> Said:
        """The first outcome of `fact`, as `wait_for_fact` does it for the fact itself."""
        return await self._wait_for(uid, fact, within, fence, outcome=True)

    async def _wait_for(self, uid: str, fact: Fact, within: float, fence: str | None, *, outcome: bool) -> Said:
        history: list[Said] = []
        episode = fence and fence.replace(".", "_")
        try:
            async with asyncio.timeout(within):
                while True:
                    history = await self.history(uid)
                    for said in history:
                        about = said.fact is fact and episode in (None, said.episode)
                        if about and (said.outcome is not None) == outcome:
                            return said
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            heard = ", ".join(f"{'outcome of ' if said.outcome else ''}{said.fact}" for said in history)
            kind = "outcome of " if outcome else ""
            raise AssertionError(f"no {kind}{fact} within {within:g} s; said: {heard or 'nothing'}") from None

    async def wait_until_idle(self, within: float = 10) -> None:
        """Returns when every event so far has been answered for good: second looks are done, too.

        A schedule that is armed for later is not waited for. Raises AssertionError with what is left.
        """
        left: list[str] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    left = [name for stream, name in CONSUMERS if not await self._is_idle(stream, name)]
                    if not left:
                        return
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"still at work after {within:g} s: {', '.join(left)}") from None

    async def _is_idle(self, stream: str, consumer: str) -> bool:
        try:
            info = await self.streams.consumer_info(stream, consumer)
        except (JetStreamError, NatsTimeoutError):
            return False  # it is being made anew
        return not info.num_pending and not info.num_ack_pending

    async def armed(self, uid: str) -> int:
        """How many schedules are pending for a run."""
        subject = f"exeunt.deadlines.armed.*.*.{uid}.*"
        info = await self.streams.stream_info("DEADLINES", subjects_filter=subject)
        return sum((info.state.subjects or {}).values())

    async def wait_until_none_armed(self, uid: str, within: float = 10) -> None:
        """Returns when no schedule is pending for a run: it was disarmed, or it has fired."""
        try:
            async with asyncio.timeout(within):
                while await self.armed(uid):  # noqa: ASYNC110 - the world
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"a schedule still after {within:g} s") from None

    async def wait_until_armed(self, uid: str, within: float = 10) -> None:
        """Returns when a schedule is pending for a run; AssertionError when there is none in time."""
        try:
            async with asyncio.timeout(within):
                while not await self.armed(uid):  # noqa: ASYNC110 - the world
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"no schedule within {within:g} s") from None


def _of(uid: str) -> str:
    return f"exeunt.runs.*.*.{uid}.>"


def _read(sequence: int, subject: str, headers: dict[str, str], data: bytes) -> Said:
    episode, *what = subject.split(".")[5:]
    if what[0] == "outcome":
        outcome = msgspec.json.decode(data, type=Outcome)
        return Said(sequence, subject, episode, Fact(what[1]), outcome=outcome)
    event = read_fact(headers, data)
    return Said(sequence, subject, episode, event.fact, snapshot=event.snapshot)
