"""What others have published about topologies, kept for runs that are there and for those that are not yet. Pure.

A signal may come before its run exists, before anybody cancels it, late, twice or in another order than it was said. So
nothing is decided when one comes: of each run's signals the newest by its own time counts, whenever it is asked for.
Every watcher hears the whole stream SIGNALS from its beginning, and so all of them know the same.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from exeunt.events.signals import Signal, newest
from exeunt.run.snapshot import Evidence, RunState

KEPT: Final = timedelta(days=1)
"""A signal this old is about no live call; the stream keeps none for longer either (`streams.signals_stream`)."""
_MOST: Final = 100_000
"""Signals kept at the most, the newest heard: about as many as the stream has room for."""

_About = tuple[tuple[str, str] | str | None, str | None]
"""A run by name or trigger token, and the uid where one was given."""


class SignalsHeard:
    """The newest signal about each run, or trigger token, that was named."""

    def __init__(self) -> None:
        self._newest: dict[_About, Signal] = {}

    def take(self, signal: Signal) -> bool:
        """Whether it is the newest about whom it names; of two of the same time the one heard last is."""
        about = (signal.run or signal.trigger_token, signal.uid)
        known = self._newest.get(about)
        if known is not None and known.at > signal.at:
            return False
        self._newest.pop(about, None)
        self._newest[about] = signal
        if len(self._newest) > _MOST:
            del self._newest[next(iter(self._newest))]
        return True

    def evidence(self, run: RunState) -> Evidence | None:
        """That the run's topology is gone, if that is the newest that was said of its present attempt."""
        signal = newest(self._about(run), run)
        return signal.evidence if signal else None

    def forget(self, now: datetime) -> list[Signal]:
        """Drop what is too old to count, and tell what that was."""
        old = [about for about, signal in self._newest.items() if signal.at < now - KEPT]
        return [self._newest.pop(about) for about in old]

    def _about(self, run: RunState) -> Iterator[Signal]:
        for name in ((run.namespace, run.name), run.trigger_token):
            for uid in (None, run.uid):
                if name is not None and (signal := self._newest.get((name, uid))) is not None:
                    yield signal
