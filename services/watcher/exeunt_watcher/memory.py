"""What the stream remembers of runs, for a watcher that has not seen it itself.

That a topology was established, which a list does not show once it is gone; and what a signal said, which only one
watcher was given.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from exeunt.episodes import Episode
from exeunt.events import Fact
from exeunt.snapshot import Topology
from exeunt_watcher.fact_publisher import FactPublisher
from exeunt_watcher.projection import Key, Projection

_AT_ONCE: Final = 64


class Memory:
    """Asks the stream, and gives the projection what it says."""

    def __init__(self, projection: Projection, facts: FactPublisher) -> None:
        self._projection = projection
        self._facts = facts
        self._asked: set[Episode] = set()

    async def recall(self, runs: Iterable[Key]) -> None:
        """Ask for these runs, which are new to this process."""
        await self._ask(runs, signals_only=False)

    async def recall_signals(self, canceled: Iterable[Key]) -> list[Key]:
        """Ask once for each of all the canceled runs that still have a topology; the answer is those asked for.

        A signal before the cancel may have been another watcher's, which is no more. Nothing else is believed of a run
        that this process has followed: what others have seen, its own watches may yet have to show.
        """
        snapshots = {key: snapshot for key in canceled if (snapshot := self._projection.snapshot(key)) is not None}
        self._asked &= {snapshot.run.episode for snapshot in snapshots.values()}
        waiting = [
            key
            for key, snapshot in snapshots.items()
            if snapshot.realtime and snapshot.topology.gone is None and snapshot.run.episode not in self._asked
        ]
        self._asked |= {snapshots[key].run.episode for key in waiting}
        await self._ask(waiting, signals_only=True)
        return waiting

    async def _ask(self, runs: Iterable[Key], *, signals_only: bool) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as asking:
            for key in runs:
                asking.create_task(self._recall(key, slots, signals_only=signals_only))

    async def _recall(self, key: Key, slots: asyncio.Semaphore, *, signals_only: bool) -> None:
        seen = self._projection.peek(key, datetime.now(UTC))
        if seen is None or not (seen.realtime or seen.story.resource_version is None):
            return
        async with slots:
            terminated = await self._facts.recall(Fact.TOPOLOGY_TERMINATED, seen)
            established = not signals_only and (
                seen.topology.established or await self._facts.recall(Fact.TOPOLOGY_ESTABLISHED, seen) is not None
            )
        signal = terminated.topology.signal if terminated else None
        meanwhile = self._projection.peek(key, datetime.now(UTC))
        if meanwhile is None or meanwhile.run.life_episode != seen.run.life_episode:
            return
        if established or signal:
            memory = Topology(established=established, step_runs_seen=established, signal=signal)
            self._projection.remember(seen.run.uid, memory)
