"""When time alone changes what is known of a run, so that at a tick the others are left alone. Pure."""

from datetime import datetime
from heapq import heappop, heappush

from exeunt_watcher.known import Key


class Agenda:
    """The next such instant of each run that has one."""

    def __init__(self) -> None:
        self._next: dict[Key, datetime] = {}
        self._heap: list[tuple[datetime, Key]] = []  # with what was set before, too; that is passed over

    def set(self, run: Key, at: datetime | None) -> None:
        """None: only what happens will change it."""
        if at is None:
            self._next.pop(run, None)
        elif self._next.get(run) != at:
            self._next[run] = at
            heappush(self._heap, (at, run))

    def due(self, now: datetime) -> list[Key]:
        """The runs whose instant has come, each once."""
        runs = []
        while self._heap and self._heap[0][0] <= now:
            at, run = heappop(self._heap)
            if self._next.get(run) == at:
                del self._next[run]
                runs.append(run)
        return runs
