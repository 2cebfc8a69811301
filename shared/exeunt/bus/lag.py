"""How far a consumer is behind, asked of the server: now and then, beside the loop of `pull`; or until it is not."""

import asyncio
import random
from typing import Final, NoReturn

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusError
from exeunt.metrics import CONSUMER_PENDING, CONSUMER_UNSETTLED

_INTERVAL: Final = 10.0  # seconds
_LOOK: Final = 0.05  # seconds

log = structlog.get_logger(__name__)


async def report_lag(bus: Bus, stream: str, consumer: str, label: str) -> NoReturn:
    """Ask for ever, and measure it as `label`. What NATS does not answer is asked again next time; the pull loop says
    what is wrong.
    """
    while True:
        try:
            info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}")
        except BusError as error:
            log.debug("bus.lag_unknown", consumer=label, error=str(error))
        else:
            CONSUMER_PENDING.set(info["num_pending"], consumer=label)
            CONSUMER_UNSETTLED.set(info["num_ack_pending"], consumer=label)
        await asyncio.sleep(_INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311 - spread, not secrecy


async def caught_up(bus: Bus, stream: str, consumer: str) -> None:
    """Return once the consumer has settled all that was in the stream when this began, however long that takes.

    Raises ApiRefused when there is no such stream or consumer (any more), BusUnavailable, PermissionDenied.
    """
    last = (await bus.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    while True:
        info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}")
        if info["ack_floor"]["stream_seq"] >= last or not (info["num_pending"] or info["num_ack_pending"]):
            return
        await asyncio.sleep(_LOOK)
