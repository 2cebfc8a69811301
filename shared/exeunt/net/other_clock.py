"""The clock of somebody who answers us, held against this machine's own.

One process cannot tell which of the two is wrong. It measures, says so, and does not end runs by a deadline on the word
of a clock that nobody shares (`EXEUNT_CLOCK_TOLERANCE`).
"""

from collections import deque
from datetime import UTC, datetime
from functools import reduce
from time import monotonic
from typing import Final

import structlog

from exeunt.net.clock_offset import Range, agreed, certain, range_of, worse

WARN_AT: Final = 1.0  # seconds: what a deadline may be early or late
_BETWEEN: Final = 1.0  # seconds: answers in quick succession tell the same
_REMEMBERED: Final = 8  # answers
_FRESH: Final = 60.0  # seconds; without an answer nobody knows

log = structlog.get_logger(__name__)


class OtherClock:
    """`whose` it is, for people, and the `resolution` of what it tells, in seconds.

    Behind one name there may be several servers, each with a clock of its own: the one that differs most counts.
    """

    def __init__(self, whose: str, *, resolution: float = 0.0) -> None:
        self._whose = whose
        self._resolution = resolution
        self._heard: dict[str, deque[tuple[float, Range]]] = {}
        self._ahead: float | None = None
        self._at = float("-inf")
        self._warned = False

    @property
    def ahead(self) -> float | None:
        """Seconds that our clock is ahead, as far as that is certain; None when nothing was heard for a minute."""
        return self._ahead if monotonic() - self._at < _FRESH else None

    def listens(self, server: str = "") -> bool:
        """Whether an answer of `server` would tell anything: those in quick succession tell the same."""
        heard = self._heard.get(server)
        return heard is None or monotonic() - heard[0][0] >= _BETWEEN

    def tells(self, reported: datetime, *, round_trip: float, server: str = "") -> None:
        """An answer that took `round_trip` seconds has just come, with the time of `server`."""
        if not self.listens(server):
            return
        now = monotonic()
        heard = self._heard.setdefault(server, deque(maxlen=_REMEMBERED))
        received = datetime.now(UTC)
        seen = range_of(reported, resolution=self._resolution, received=received, round_trip=round_trip)
        heard.appendleft((now, seen))
        self._heard = {name: ranges for name, ranges in self._heard.items() if now - ranges[0][0] < _FRESH}
        self._ahead, self._at = reduce(worse, map(_certain, self._heard.values())), now
        self._warn(self._ahead)

    def differs(self, most: float) -> str | None:
        """Why our clock is not to be gone by: it is off by more than `most` seconds. None if not, or if unknown."""
        ahead = self.ahead
        if ahead is None or abs(ahead) <= most:
            return None
        way = "ahead of" if ahead > 0 else "behind"
        return f"the clock of this machine is {abs(ahead):.1f} s {way} that of {self._whose}"

    def _warn(self, ahead: float) -> None:
        differs = abs(ahead) >= WARN_AT
        if differs != self._warned:
            render = log.warning if differs else log.info
            render("clocks differ" if differs else "clocks agree again", other=self._whose, ahead=round(ahead, 3))
        self._warned = differs


def _certain(heard: deque[tuple[float, Range]]) -> float:
    now = monotonic()
    common = agreed(seen for at, seen in heard if now - at < _FRESH)
    return 0.0 if common is None else certain(common)
