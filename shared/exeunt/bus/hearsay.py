"""Word of what is not stored, from whoever publishes it to the terminators: over NATS without JetStream (`unstored`).

A word that is lost costs little: the next try brings another.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.unstored import Unstored, Word

_SUBJECT: Final = "exeunt.unstored"
_LONGEST_WHY: Final = 500
"""Characters."""

log = structlog.get_logger(__name__)


async def tell(bus: Bus, subject: str, why: str = "") -> None:
    """That a message on that subject is not stored, and why; or that it is after all. Without a connection there is
    nobody to tell.
    """
    if bus.unavailable_reason is None:
        with suppress(nats.errors.Error):
            await bus.nc.publish(_SUBJECT, msgspec.json.encode(Word(subject, why[:_LONGEST_WHY])))


class Hearsay:
    """What others say, for as long as `run` runs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._unstored = Unstored()

    @property
    def unavailable_reason(self) -> str | None:
        """Why something is not stored, if anything is not."""
        return self._unstored.unavailable_reason(time.monotonic())  # metrics ask from a thread without a loop

    async def run(self) -> None:
        """From the first connection on, for ever."""
        while True:
            with suppress(BusUnavailable):
                await self._bus.wait_connected(1.0)
                break
        subscription = await self._bus.nc.subscribe(_SUBJECT, cb=self._hear)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _hear(self, message: Msg) -> None:
        try:
            self._unstored.hear(msgspec.json.decode(message.data, type=Word), time.monotonic())
        except msgspec.DecodeError as error:
            log.warning("bus.hearsay_not_understood", error=str(error))
