"""What is not stored at the moment, by the word of those who try to. Pure.

Where the store is full, or a stream has lost its leader, consumers look well: a terminator hears nothing, as when there
is nothing to do. So whoever publishes an event, or arms a deadline, and has it not stored, says so at each try, and
once more when it is (ADR 25). `hearsay` passes the words on.
"""

from typing import Final

from msgspec import Struct

HOLDS: Final = 8.0
"""Seconds for which a word counts: longer than lies between two tries (`publisher`), as whoever has died says no more.
"""
_MOST: Final = 1_000
"""Subjects that are remembered: one is enough."""


class Word(Struct, frozen=True):
    """A message on `subject` is not stored, for that reason; without one it is stored after all."""

    subject: str
    why: str = ""


class Unstored:
    """Keeps the words. Times are seconds of one clock, whichever."""

    def __init__(self) -> None:
        self._words: dict[str, tuple[float, str]] = {}  # by subject; the latest is the last

    def hear(self, word: Word, now: float) -> None:
        self._words.pop(word.subject, None)
        if word.why:
            self._words[word.subject] = now, word.why
        if len(self._words) > _MOST:
            del self._words[next(iter(self._words))]

    def unavailable_reason(self, now: float) -> str | None:
        """Why something is not stored, if anything is not."""
        for heard_at, why in list(self._words.values())[-1:]:  # metrics ask from a thread of their own
            if now - heard_at <= HOLDS:
                return f"events are not stored: {why}"
        return None
