"""StepRuns that live although their run has ended: to be looked after, once they have had time to go (ADR 15). Pure.

The terminator deletes what is left of a run in the moment in which it has ended it, so most are here for milliseconds.
The hub may make one later, and whoever should have deleted them may have died.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from exeunt_watcher.known import Key, Left

MOST_AT_ONCE: Final = 100
"""Runs that are looked after in one go: each is read, and a watcher that starts may find many."""


class _Stray(NamedTuple):
    since: datetime
    run_uid: str | None  # of the run that has ended; None where nobody has seen it
    seen: frozenset[str]  # the uids of its StepRuns, as it was looked after last


class Strays:
    """What is left of runs that are not known as unfinished, by their names. They are looked after when nothing new has
    come for `second_look`.
    """

    def __init__(self, second_look: timedelta) -> None:
        self._second_look = second_look
        self._strays: dict[Key, _Stray] = {}
        self._fresh: dict[Key, None] = {}  # those that are still to be looked after, the oldest first

    def run_uid(self, run: Key) -> str | None:
        """Of the run that had this name when it ended, where that was seen."""
        stray = self._strays.get(run)
        return stray.run_uid if stray else None

    def see(self, run: Key, left: Collection[Left], now: datetime, *, ended: str | None = None) -> None:
        """The run is not known, and so much is left of it; `ended` is its uid where it has just ended."""
        if not left:
            self.forget(run)
            return
        known = self._strays.get(run)
        if known is not None and ended in (None, known.run_uid) and _uids(left) <= known.seen:
            return
        self._strays[run] = _Stray(now, ended or (known.run_uid if known else None), _uids(left))
        self._fresh.pop(run, None)
        self._fresh[run] = None

    def forget(self, run: Key) -> None:
        """Nothing is left of it, or it is an unfinished run (again)."""
        self._strays.pop(run, None)
        self._fresh.pop(run, None)

    def due(self, now: datetime) -> list[Key]:
        """The runs of which something has been left for long enough. Each is told once, until something new comes."""
        found: list[Key] = []
        for run in self._fresh:
            if len(found) == MOST_AT_ONCE or now - self._strays[run].since < self._second_look:
                break
            found.append(run)
        for run in found:
            del self._fresh[run]
        return found


def _uids(left: Collection[Left]) -> frozenset[str]:
    return frozenset(each.step_run.uid for each in left)
