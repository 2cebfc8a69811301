"""What JetStream leaves unanswered over a connection that stands, and when another server is to be tried. Pure.

A server that is cut off from the others, or frozen, keeps its clients: their connections stand, and an isolated one
even answers pings. Only what needs the others tells: publishes, pulls, acks and calls of the API are answered by nobody
or with "not now". One of these that goes unanswered for some seconds is enough, because the rest may look well for
long: an isolated leader sends heartbeats, and answers for its group, for 17 s more (measured, nats-server 2.15.1).

An election looks the same to those who wait for it, and there is no better server then. So nobody leaves one through
which a leader has just answered that the majority of its group hears. All times are loop times, in seconds.
"""

from collections.abc import Sequence
from math import inf
from typing import Any, Final, NamedTuple

MISSED: Final = 1.5
"""Seconds of silence: the members of a group say something to their leader every second."""
_PATIENCE: Final = 3.0
"""Seconds: longer than a pull may be silent (2 s), and shorter than the shortest election (4 s)."""
_PROVEN: Final = 2.5
"""Seconds for which an answer by a leader with a majority counts; one is asked for every second."""
_LONGEST: Final = 24.0
_OVER: Final = 60.0
"""Seconds after which what went unanswered then, or the last change of servers, tells nothing any more."""
_FULL: Final = "(503/10023)"
"""What a full store answers once, of three replicas; from then on streams have no leader, and nobody answers."""


class _Silence(NamedTuple):
    since: float
    latest: float
    why: str


class Unanswered:
    """Keeps the books for one connection after another."""

    def __init__(self) -> None:
        self._silences: dict[str, _Silence] = {}
        self._proven_at = -inf
        self._left_at = -inf
        self._left = 0  # servers in a row
        self._full = False

    def answered(self, what: str) -> None:
        """JetStream has done `what` it was asked for."""
        self._silences.pop(what, None)
        if not what.startswith("$"):  # a publish
            self._full = False

    def unanswered(self, what: str, why: str, *, since: float, now: float) -> None:
        """It has not, and was asked at `since`."""
        self._full = self._full or _FULL in why
        before = self._silences.get(what)
        if before is not None and now - before.latest < _OVER:
            since = min(since, before.since)
        self._silences[what] = _Silence(since, now, why)

    def proven(self, now: float) -> None:
        """A leader that has a majority was reached through this server: it is not cut off."""
        self._proven_at = now

    def anything(self, now: float) -> bool:
        """Whether something goes unanswered."""
        return bool(self._standing(now))

    def leave_at(self, now: float, *, servers: int) -> float:
        """When to leave this server for another, if nothing changes until then; inf when there is no reason to.

        Once all `servers` have been tried, each is given twice as long as the last time.
        """
        laps = self._left // servers if now - self._left_at < _OVER else 0
        patience = min(_LONGEST, _PATIENCE * 2.0**laps)
        since = min((silence.since for silence in self._standing(now)), default=inf)
        return max(since + patience, self._proven_at + _PROVEN)

    def leave(self, now: float) -> None:
        """The server is left: what is known of it tells nothing of the next."""
        self._left = min(self._left + 1, 100) if now - self._left_at < _OVER else 1
        self._left_at = now
        self.connected()

    def connected(self) -> None:
        """A connection is new."""
        self._silences.clear()
        self._proven_at = -inf

    def unavailable_reason(self, now: float) -> str | None:
        """What has gone unanswered for so long that nobody may rely on it."""
        oldest = min(self._standing(now), default=None)
        if oldest is None or now - oldest.since < _PATIENCE:
            return None
        full = f", since the JetStream store was full {_FULL}: see ExeuntStopStuck" if self._full else ""
        return f"{oldest.why}, for {now - oldest.since:.0f} s{full}"

    def _standing(self, now: float) -> list[_Silence]:
        """Metrics ask from a thread of their own, and the silences may change meanwhile."""
        return [silence for silence in list(self._silences.values()) if now - silence.latest < _OVER]


def silence_of_majority(replicas: Sequence[dict[str, Any]]) -> float:
    """Seconds since a leader, which told of its `replicas`, has heard of as many as make a majority with it."""
    others = sorted(replica["active"] for replica in replicas)
    return float(others[(len(others) - 1) // 2]) / 1e9


def asked_of(subject: str) -> str:
    """What a request on `subject` asks for, as one word for all that the same of JetStream's groups serves."""
    tokens = subject.split(".")
    return ".".join(tokens[: _TOKENS.get(".".join(tokens[:2]), 2)])


_TOKENS: Final = {"$JS.API": 5, "$JS.ACK": 4}
"""How many tokens of a subject name what is asked, and of which stream or consumer."""
