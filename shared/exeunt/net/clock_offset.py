"""How far a clock is ahead of another one that is told in answers. Pure.

An answer says what the other clock showed at some moment of the round trip, cut to its resolution: that leaves a range.
The ranges of several answers have the truth in common, so what they agree on is narrower; one that disagrees with what
came after it was true before somebody set a clock.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple


class Range(NamedTuple):
    """Seconds that our clock is ahead, negative where it is behind: `least` at the least and `most` at the most."""

    least: float
    most: float


def range_of(reported: datetime, *, resolution: float, received: datetime, round_trip: float) -> Range:
    """By one answer. `told` is cut to `resolution`, `received` is by our clock; both durations are in seconds."""
    most = (received - reported).total_seconds()
    return Range(most - round_trip - resolution, most)


def agreed(ranges: Iterable[Range]) -> Range | None:
    """What the newest ranges have in common; the newest comes first."""
    found: Range | None = None
    for each in ranges:
        common = each if found is None else Range(max(found.least, each.least), min(found.most, each.most))
        if common.least > common.most:
            break
        found = common
    return found


def certain(ahead: Range) -> float:
    """As much of it as is beyond doubt: 0 where the two clocks may show the same."""
    return ahead.least if ahead.least > 0 else min(ahead.most, 0.0)


def worse(one: float, other: float) -> float:
    """The larger offset, whichever its direction."""
    return max(one, other, key=abs)
