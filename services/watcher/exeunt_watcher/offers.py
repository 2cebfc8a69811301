"""Which stops have to be offered to the stream again, because it is not known that it has all of their events. Pure.

A stop whose events are in the stream stays settled for as long as the stream is the same and nothing of it is lost. So
that is asked once at each sweep, whatever the number of stops, and only what is not settled, or lost, is offered.
"""

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple

from msgspec import Struct

from exeunt.events.event_types import EventType
from exeunt_watcher.known import Key

AT_ONCE: Final = 500
"""Events that are published in one step: more would keep what is urgent waiting."""


class StreamState(Struct, frozen=True):
    """A stream at one moment. `made`: the time of its making, by which one that was made anew is told from it.

    `deleted`: how many messages between its first and its last are no more.
    """

    made: str
    first: int
    last: int
    deleted: int


class _Round(NamedTuple):
    """What of a stop was published since the last sweep, or offered at it, and is not answered yet; the lowest sequence
    of what is.
    """

    open: frozenset[EventType]
    lowest: float = inf


class Offers:
    """The unfinished stops, settled and unsettled."""

    def __init__(self) -> None:
        self.sweep = 0
        """The number of the last sweep: answers from before it may be about a stream that is no more. The first is that
        of the start.
        """
        self._stream: StreamState | None = None
        self._unsettled: dict[Key, None] = {}
        self._settled: dict[Key, float] = {}  # the lowest sequence of its events
        self._rounds: dict[Key, _Round] = {}
        self._waiting: deque[Key] = deque()  # to be offered at this sweep, if they are stops still

    def __bool__(self) -> bool:
        """Whether there is any stop."""
        return bool(self._unsettled or self._settled)

    def begun(self, run: Key, begun: Iterable[EventType], standing: Iterable[EventType]) -> None:
        """`begun` has begun to hold of the stop, and is published; `standing` is all that holds of it. When the stream
        has all of that, the stop is settled: a topology that was up was published before the cancel.
        """
        lowest = self._settled.get(run)
        self._unsettle(run)
        published = {*begun, EventType.TOPOLOGY_ESTABLISHED}
        if lowest is not None or published.issuperset(standing):
            self._rounds[run] = _Round(frozenset(begun), inf if lowest is None else lowest)

    def _unsettle(self, run: Key) -> None:
        self.forget(run)
        self._unsettled[run] = None

    def forget(self, run: Key) -> None:
        """It is none any more."""
        self._unsettled.pop(run, None)
        self._settled.pop(run, None)
        self._rounds.pop(run, None)

    def look(self, stream: StreamState | None) -> None:
        """A sweep begins; `stream` is None when there is none."""
        before, self._stream = self._stream, stream
        self.sweep += 1
        self._rounds.clear()
        if stream is None or before is None or _differ(before, stream):
            lost: Iterable[Key] = list(self._settled)
        else:
            lost = [run for run, lowest in self._settled.items() if lowest < stream.first]
        for run in lost:
            self._unsettle(run)
        self._waiting = deque(self._unsettled)

    def some(self) -> list[Key]:
        """The next stops to be offered at this sweep: not so many that others wait for them."""
        return [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]

    def offered(self, run: Key, events: Iterable[EventType]) -> None:
        """These were offered of it at this sweep: all that holds. None of a stop that is over, or not begun yet."""
        if found := frozenset(events):
            self._rounds[run] = _Round(found)
        else:
            self.forget(run)

    def stored(self, run: Key, event_type: EventType, sequence: int) -> None:
        """What was offered at this sweep is in the stream; 0: a message that was there, and is deleted."""
        if (asked := self._rounds.get(run)) is None or sequence == 0:
            return
        left = _Round(asked.open - {event_type}, min(asked.lowest, sequence))
        if left.open:
            self._rounds[run] = left
        else:
            self.forget(run)
            self._settled[run] = left.lowest


def _differ(before: StreamState, now: StreamState) -> bool:
    """Whether messages may be lost, but for the oldest."""
    return now.made != before.made or now.last < before.last or now.deleted != before.deleted
