"""What it costs to see thousands of calls: memory of each, processor time to begin, and that of stops that wait.

Of a build it is a watcher that sees them, of others the whole loop: one more process each, which ends nothing.
"""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from bench.accounts import Account
from bench.report import Row, compared
from bench.sides import EXEUNT, Services, Side
from bench.stage import Stage

_EMPTY: Final = "empty"
_LIVE: Final = "live"
_WAITING: Final = "waiting"
"""Namespaces: without calls, with calls that go on, and with canceled ones that have an hour to stop."""
_SETTLED: Final = 5.0
"""Seconds in which a process that has published everything comes to rest."""


class Seen(NamedTuple):
    """A process: when it was ready, when it had come to rest, and its processor time in each second from then on."""

    ready: Account
    rested: Account
    per_second: float


async def measure(stage: Stage, *, calls: int, waiting: int, seconds: float) -> list[Row]:
    """With so many `calls` that go on, and with so many that are canceled, those for `seconds`."""
    for namespace in (_EMPTY, _LIVE, _WAITING):
        await stage.add_namespace(namespace)
    await stage.start(_LIVE, "call", calls)
    await stage.start_canceled(_WAITING, "call", waiting)
    memory: defaultdict[str, list[float]] = defaultdict(list)
    ready: defaultdict[str, list[float]] = defaultdict(list)
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for side in (stage.floor, *stage.builds, *stage.peers):
        idle = await _see(side, _EMPTY)
        live = await _see(side, _LIVE, records=calls)
        memory[side.name].append((live.rested.resident - idle.rested.resident) / calls / 1000)
        if isinstance(side, Services):  # of the others nobody can tell when they are ready
            ready[side.name].append(live.ready.cpu)
            stops = await _see(side, _WAITING, records=2 * waiting, seconds=seconds)
            spent[side.name].append(1000 * stops.per_second)
    assert EXEUNT in ready
    return [
        compared(f"watcher, each of {calls} live calls", "KB", memory, at_most=5),
        compared(f"watcher, CPU from start to ready, {calls} calls", "s", ready, at_most=0.9),
        compared(f"watcher, CPU a second, {waiting} stops waiting", "ms", spent, at_most=5),
    ]


async def _see(side: Side, namespace: str, *, records: int = 0, seconds: float = 0) -> Seen:
    """A new process, until it has stored so many records and has come to rest, and for `seconds` more."""
    async with AsyncExitStack() as stack:
        before, _ = await side.stored() if isinstance(side, Services) else (0, 0)
        pid = await stack.enter_async_context(side.watching(namespace))
        ready = Account.of(pid)
        if isinstance(side, Services):
            await side.stores(before + records)
        await asyncio.sleep(_SETTLED)
        rested = Account.of(pid)
        await asyncio.sleep(seconds)
        used = Account.of(pid).cpu - rested.cpu
        return Seen(ready, rested, used / seconds if seconds else 0)
