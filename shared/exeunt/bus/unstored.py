"""What is not stored at the moment, by the word of those who try to. Pure.

Where the store is full, or a stream has lost its leader, consumers look well: a terminator hears nothing, as when there
is nothing to do. So whoever publishes an event, or arms a deadline, and has it not stored, says so at each try, and
once more when it is (ADR 25). `hearsay` passes the words on.
"""

from typing import Final

from msgspec import Struct

from exeunt.events.messages import Message

HOLDS: Final = 15.0
"""Seconds for which a word counts: longer than lies between two tries (`publisher`, `insist`). Whoever has died says no
more.
"""
_MOST: Final = 1_000
"""Words that are remembered: of some 2 KB each, and 32 KB at the most (`hearsay`)."""


class Word(Struct, frozen=True):
    """The message is not stored, `why`, and has not been for so many seconds; without a reason it is after all."""

    message: Message
    why: str = ""
    failing_for: float = 0.0


class Unstored:
    """Keeps the words. Times are seconds of one clock, whichever."""

    def __init__(self) -> None:
        self._words: dict[str, tuple[float, Word]] = {}  # by subject; the latest is the last

    def hear(self, word: Word, now: float) -> None:
        self._words.pop(word.message.subject, None)
        if word.why:
            self._words[word.message.subject] = now, word
        if len(self._words) > _MOST:
            del self._words[next(iter(self._words))]

    def unavailable_reason(self, now: float) -> str | None:
        """Why something is not stored, if anything is not."""
        standing = self._standing(now)
        return f"events are not stored: {standing[-1][1].why}" if standing else None

    def since(self, now: float) -> float | None:
        """Since when, as far as it is known."""
        return min((heard_at - word.failing_for for heard_at, word in self._standing(now)), default=None)

    def messages(self, now: float) -> list[Message]:
        """What is not stored."""
        return [word.message for _, word in self._standing(now)]

    def _standing(self, now: float) -> list[tuple[float, Word]]:
        """Metrics ask from a thread of their own."""
        return [(heard_at, word) for heard_at, word in list(self._words.values()) if now - heard_at <= HOLDS]
