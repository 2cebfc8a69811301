"""How long to wait: before a retry, and between looks. The one place with jitter, so that nobody waits in step.

No library's loop: many of these waits are not ours to loop over (NATS reconnects, redeliveries, a watch that lived for
a while), and the deadlines of the others end within a wait, not after it.
"""

from random import uniform
from typing import NamedTuple

_MOST_DOUBLINGS = 16


class BackOff(NamedTuple):
    """Seconds: `first`, doubled by every failure in a row, `longest` at the most."""

    first: float
    longest: float

    def wait(self, failures: int, *, asked: float | None = None) -> float:
        """The seconds to wait after that many failures before this one: all of them, or down to half.

        Never less than what the other side has `asked` for (Retry-After), which is heard by all its clients at once.
        """
        most = min(self.longest, self.first * 2.0 ** min(failures, _MOST_DOUBLINGS))
        return max(uniform(0.5, 1) * most, uniform(1, 1.2) * (asked or 0))  # noqa: S311 - spread, not secrecy


def spread(seconds: float) -> float:
    """About as many, a fifth more or less: for what is done at intervals."""
    return uniform(0.8, 1.2) * seconds  # noqa: S311 - spread, not secrecy
