"""Word of what is not stored, from whoever publishes it to the terminators: over NATS without JetStream (`unstored`).

It is the message itself, with three headers more; without its body where that is large, which nobody can act on then. A
word that is lost costs little: the next try brings another.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import nats.errors
import structlog
from nats.aio.msg import Msg

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.unstored import Unstored, Word
from exeunt.events.messages import MAX_HEADERS, Message, header_size

_SUBJECT: Final = "exeunt.unstored"
_ABOUT, _WHY, _FOR = "Exeunt-Subject", "Exeunt-Reason", "Exeunt-Failing-For"
_PAUSE: Final = 0.1
"""Seconds between two tries to listen."""
_LONGEST_WHY: Final = 500
"""Characters."""

_LARGEST: Final = 32 * 1024
"""Bytes of a body, of which a terminator may have 1,000 at a time. Most have one or two thousand."""
_LONGEST: Final = 7 * 24 * 3600.0
"""Seconds: longer has nobody tried."""
_MOST_TOLD: Final = 10_000
"""Subjects of which it is remembered that they were told not to be stored."""

log = structlog.get_logger(__name__)


async def tell(bus: Bus, word: Word) -> None:
    """Without a connection there is nobody to tell."""
    if bus.unavailable_reason is not None:
        return
    message = word.message
    bus.unstored.pop(message.subject, None)
    if word.why:
        bus.unstored[message.subject] = None
        if len(bus.unstored) > _MOST_TOLD:
            del bus.unstored[next(iter(bus.unstored))]
    headers = {
        _ABOUT: message.subject,
        _WHY: " ".join(word.why[:_LONGEST_WHY].split()),
        _FOR: f"{word.failing_for:.3f}",
    }
    payload = b""
    size = header_size(whole := message.headers | headers)
    fits = len(message.payload) <= min(_LARGEST, bus.nc.max_payload - size)
    if word.why and size <= MAX_HEADERS and fits:
        headers, payload = whole, message.payload
    with suppress(nats.errors.Error):
        await bus.nc.publish(_SUBJECT, payload, headers=headers)


class Hearsay:
    """What others say, for as long as `run` runs. `on_unstored` is given each message that is not stored."""

    def __init__(self, bus: Bus) -> None:
        self.on_unstored: Callable[[Message], None] = lambda _: None
        self._bus = bus
        self._unstored = Unstored()

    # Metrics ask from a thread without a loop: it is the clock that loops have.

    @property
    def unavailable_reason(self) -> str | None:
        """Why something is not stored, if anything is not."""
        return self._unstored.unavailable_reason(time.monotonic())

    @property
    def since(self) -> float | None:
        """Since when (loop time), as far as it is known."""
        return self._unstored.since(time.monotonic())

    @property
    def unstored(self) -> list[Message]:
        """What is not stored."""
        return self._unstored.messages(time.monotonic())

    async def run(self) -> None:
        """From the first connection on, for ever."""
        subscription = None
        while subscription is None:
            with suppress(BusUnavailable, nats.errors.Error):
                await self._bus.wait_connected(1.0)
                subscription = await self._bus.nc.subscribe(_SUBJECT, cb=self._hear)
            await asyncio.sleep(_PAUSE)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _hear(self, heard: Msg) -> None:
        try:
            word = _read(heard)
        except (KeyError, ValueError) as error:
            log.warning("word of what is not stored not understood", error=repr(error))
            return
        self._unstored.hear(word, time.monotonic())
        if word.why:
            self.on_unstored(word.message)


def _read(heard: Msg) -> Word:
    """Raises KeyError and ValueError."""
    headers = {key.lower(): value for key, value in (heard.headers or {}).items()}
    subject, why, failing_for = (headers.pop(name.lower()) for name in (_ABOUT, _WHY, _FOR))
    seconds = float(failing_for)
    if len(heard.data) > _LARGEST or not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{len(heard.data)} bytes, for {failing_for} s")
    return Word(Message(subject=subject, payload=heard.data, headers=headers), why, seconds)
