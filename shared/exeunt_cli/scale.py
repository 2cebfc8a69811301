"""Room on a time axis: where an instant is drawn, where ticks stand, and how marks and labels keep apart. Pure.

Lengths are in the units of the picture, which are pixels as long as it is shown in its own size.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

_CHARACTER: Final = 6.7
"""Widest usual average of a character at 12 px. Nobody measures text here, so labels get a little more room."""


class Scale(NamedTuple):
    """Time to place, linear: from `start` to `end` (milliseconds) on `left` to `right`."""

    start: float
    end: float
    left: float
    right: float

    def x(self, milliseconds: float) -> float:
        share = (milliseconds - self.start) / ((self.end - self.start) or 1.0)
        return round(self.left + min(1.0, max(0.0, share)) * (self.right - self.left), 2)

    def holds(self, milliseconds: float) -> bool:
        return self.start <= milliseconds <= self.end

    def ticks(self, most: int) -> list[float]:
        """Round values (1, 2 or 5 times a power of ten; minutes above a minute), at most about `most` of them."""
        least = ((self.end - self.start) or 1.0) / most
        step = next(step for step in _STEPS if step >= least or step == _STEPS[-1])
        first = int(self.start // step) + (self.start % step > 0)
        return [n * step for n in range(first, int(self.end // step) + 1)][: 2 * most]


_DECADES: Final = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]
_STEPS: Final = [*(step for step in _DECADES if step < 60_000), *(60_000.0 * n for n in (1, 2, 5, 10, 30)),
                 *(3_600_000.0 * n for n in (1, 2, 6, 12, 24, 168, 1_680))]  # fmt: skip


def text_width(text: str) -> float:
    return len(text) * _CHARACTER


def apart(places: Sequence[float], gap: float, left: float, right: float) -> list[float]:
    """The places, moved as little as it takes to keep `gap` between neighbours; `places` are in order."""
    if not places:
        return []
    gap = min(gap, (right - left) / len(places))
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else max(place, left))
    limit = right
    for at in range(len(moved) - 1, -1, -1):
        moved[at] = round(min(moved[at], limit), 2)
        limit = moved[at] - gap
    return moved


class Placed(NamedTuple):
    """A label: where its text begins, and in which row from the top."""

    text: str
    at: float
    left: float
    row: int


def in_rows(labels: Iterable[tuple[float, str]], left: float, right: float) -> list[Placed]:
    """Labels centred on their places, in as many rows as it takes for none to cover another."""
    ends: list[float] = []
    placed = []
    for at, text in sorted(labels):
        width = text_width(text)
        begin = round(max(left, min(at - width / 2, right - width)), 2)
        row = next((row for row, end in enumerate(ends) if end <= begin), len(ends))
        ends[row : row + 1] = [begin + width + 8]
        placed.append(Placed(text, at, begin, row))
    return placed
