"""Finds rooms that nobody has told of: calls that began before the bridge, or whose webhooks were all lost.

It also keeps an eye on LiveKit's API, so that /readyz knows while no room gives a reason to ask.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final, NoReturn

import structlog

from exeunt.back_off import BackOff, spread
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.publisher import Stored, publish
from exeunt_livekit_bridge.livekit import LiveKit, LiveKitUnavailable
from exeunt_livekit_bridge.look import DISCOVERED, look_message, new_look

INTERVAL: Final = 60.0
"""Seconds between two lists of all rooms."""
_BACK_OFF: Final = BackOff(0.5, 10)
_STORE_DEADLINE: Final = 5.0

log = structlog.get_logger()


class Discovery:
    """Asks for all rooms at the start and every minute. `last_progress` is the loop time of the last time."""

    def __init__(self, livekit: LiveKit, bus: Bus) -> None:
        self._livekit = livekit
        self._bus = bus
        self.last_progress = float("inf")

    async def run(self) -> NoReturn:
        failures = 0
        while True:
            self.last_progress = asyncio.get_running_loop().time()
            try:
                await self._discover()
                wait, failures = spread(INTERVAL), 0
            except (LiveKitUnavailable, BusUnavailable) as error:
                log.warning("rooms not listed", error=str(error))
                wait, failures = _BACK_OFF.wait(failures), failures + 1
            await asyncio.sleep(wait)

    async def _discover(self) -> None:
        found = 0
        for room in await self._livekit.rooms():
            look = new_look(room.sid, room.name, DISCOVERED, "", datetime.now(UTC))
            message = look_message(look, {}, unless_known=True)
            if isinstance(await publish(self._bus, message, deadline=_STORE_DEADLINE), Stored):
                found += 1
        if found:
            log.info("rooms found", rooms=found)
