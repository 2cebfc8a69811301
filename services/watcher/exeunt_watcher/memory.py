"""What the stream remembers of runs, for a watcher that has not seen it itself.

That a topology was established, which a list does not show once it is gone; and the shutdown timeout of a canceled run,
which was fixed at the cancel: an edit of its Story since then must not move its deadline (contract §4.1).
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from exeunt.events import Fact
from exeunt.snapshot import Topology
from exeunt_watcher.fact_publisher import FactPublisher
from exeunt_watcher.projection import Key, Projection

_AT_ONCE: Final = 64


async def recall(runs: Iterable[Key], projection: Projection, facts: FactPublisher) -> None:
    """Ask the stream for these runs, which are new to this process, and give the projection what it says."""
    slots = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.TaskGroup() as asking:
        for key in runs:
            asking.create_task(_recall(key, projection, facts, slots))


async def _recall(key: Key, projection: Projection, facts: FactPublisher, slots: asyncio.Semaphore) -> None:
    seen = projection.peek(key, datetime.now(UTC))
    if seen is None or not (seen.realtime or seen.story.resource_version is None):
        return
    async with slots:
        established = seen.topology.established or await facts.recall(Fact.TOPOLOGY_ESTABLISHED, seen) is not None
        canceled = await facts.recall(Fact.CANCEL_REQUESTED, seen) if seen.run.cancel_requested else None
    meanwhile = projection.peek(key, datetime.now(UTC))
    if meanwhile is None or meanwhile.run.life_episode != seen.run.life_episode:
        return
    if canceled is not None:
        projection.fix(canceled.run.episode, canceled.shutdown)
    if established:
        projection.remember(seen.run.uid, Topology(established=True, step_runs_seen=True))
