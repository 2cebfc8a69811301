"""Virtual time: what will happen and when, in one order that a seed decides.

Seconds are counted from the beginning of a simulation. Clocks that are wrong are so by their own `offset`.
"""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Final

EPOCH: Final = datetime(2026, 11, 24, 18, 13, 0, tzinfo=UTC)


def instant(seconds: float) -> datetime:
    """That many seconds after the beginning, by a clock."""
    return EPOCH + timedelta(microseconds=round(seconds * 1e6))


def seconds(moment: datetime) -> float:
    """The reverse of `instant`."""
    return (moment - EPOCH).total_seconds()


class Clockwork:
    """`chance` is the only source of randomness, `numbers` are for names that nobody else has, `happened` counts what a
    search must have seen, `trace` is told what happens when somebody reads it.
    """

    def __init__(self, seed: int | str, *, traced: bool = False) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self.numbers = count(1)
        self.happened: Counter[str] = Counter()
        self.trace: list[str] | None = [] if traced else None
        self._ahead: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    @property
    def at(self) -> datetime:
        return instant(self.now)

    def after(self, delay: float, act: Callable[[], None]) -> None:
        """Have it happen in `delay` seconds; what is to happen at the same moment keeps its order."""
        self._count += 1
        heappush(self._ahead, (self.now + delay, self._count, act))

    def run(self, until: float) -> None:
        """All that happens up to then."""
        ahead = self._ahead
        while ahead and ahead[0][0] <= until:
            self.now, _, act = heappop(ahead)
            act()
        self.now = until

    def note(self, who: str, what: object) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.3f}  {who:<14} {what}")

    def little(self, least: float, most: float) -> float:
        """Some seconds in between."""
        return least + (most - least) * self.chance.random()
