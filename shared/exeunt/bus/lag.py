"""How far a durable consumer is behind, asked of the server now and then; `pull` starts it beside its loop."""

import asyncio
import random
from typing import Final, NoReturn

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusError
from exeunt.metrics import CONSUMER_PENDING, CONSUMER_UNSETTLED

_INTERVAL: Final = 10.0  # seconds

log = structlog.get_logger(__name__)


async def report_lag(bus: Bus, stream: str, durable: str) -> NoReturn:
    """Ask for ever. What NATS does not answer is asked again next time; the pull loop says what is wrong."""
    while True:
        try:
            info = await bus.api(f"CONSUMER.INFO.{stream}.{durable}")
        except BusError as error:
            log.debug("bus.lag_unknown", consumer=durable, error=str(error))
        else:
            CONSUMER_PENDING.set(info["num_pending"], consumer=durable)
            CONSUMER_UNSETTLED.set(info["num_ack_pending"], consumer=durable)
        await asyncio.sleep(_INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311 - spread, not secrecy
