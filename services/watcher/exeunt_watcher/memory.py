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

    async def recall(self, keys: Iterable[Key]) -> None:
        """Ask for each of these runs."""
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as recalling:
            for key in keys:
                recalling.create_task(self._recall(key, slots))

    async def recall_canceled(self, canceled: Iterable[Key]) -> list[Key]:
        """Ask once for each of all the canceled runs that still have a topology; the answer is those asked for.

        A signal before the cancel may have been another watcher's, which is no more.
        """
        snapshots = {key: snapshot for key in canceled if (snapshot := self._projection.snapshot(key)) is not None}
        self._asked &= {snapshot.run.episode for snapshot in snapshots.values()}
        waiting = [
            key
            for key, snapshot in snapshots.items()
            if snapshot.realtime and snapshot.topology.gone is None and snapshot.run.episode not in self._asked
        ]
        self._asked |= {snapshots[key].run.episode for key in waiting}
        await self.recall(waiting)
        return waiting

    async def _recall(self, key: Key, slots: asyncio.Semaphore) -> None:
        seen = self._projection.peek(key, datetime.now(UTC))
        if seen is None or not (seen.realtime or seen.story.resource_version is None):
            return
        async with slots:
            established = seen.topology.established or await self._facts.recall(Fact.TOPOLOGY_ESTABLISHED, seen)
            terminated = await self._facts.recall(Fact.TOPOLOGY_TERMINATED, seen)
        signal = terminated.topology.signal if terminated else None
        meanwhile = self._projection.peek(key, datetime.now(UTC))
        if meanwhile is None or meanwhile.run.life_episode != seen.run.life_episode:
            return
        if established or signal:
            was_up = bool(established)
            self._projection.remember(seen.run.uid, Topology(established=was_up, step_runs_seen=was_up, signal=signal))
