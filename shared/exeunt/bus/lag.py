"""How a durable consumer stands, asked of the server now and then: how far it is behind, and what keeps messages from
it while its pulls look well. `pull` starts it beside its loop.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, NoReturn

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusError
from exeunt.metrics import CONSUMER_PENDING, CONSUMER_UNSETTLED

_INTERVAL: Final = 10.0  # seconds
_NEARLY_FULL: Final = 0.8

log = structlog.get_logger(__name__)


async def report_lag(bus: Bus, stream: str, durable: str, tell: Callable[[str | None], None]) -> NoReturn:
    """Ask for ever, and `tell` what is wrong, or None. What NATS does not answer is asked again next time; the pull
    loop says what is wrong then.
    """
    told: str | None = None
    while True:
        try:
            consumer = await bus.api(f"CONSUMER.INFO.{stream}.{durable}")
            CONSUMER_PENDING.set(consumer["num_pending"], consumer=durable)
            CONSUMER_UNSETTLED.set(consumer["num_ack_pending"], consumer=durable)
            trouble = _paused(consumer, stream, durable) or _full(await bus.api(f"STREAM.INFO.{stream}"), stream)
        except BusError as error:
            log.debug("bus.lag_unknown", consumer=durable, error=str(error))
        else:
            tell(trouble)
            if trouble != told:
                log.warning("bus.consumer_stands", consumer=durable, trouble=trouble)
            told = trouble
        await asyncio.sleep(_INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311 - spread, not secrecy


def _paused(consumer: dict[str, Any], stream: str, durable: str) -> str | None:
    """Its pulls are answered with heartbeats, as if there were no messages."""
    if not consumer.get("paused"):
        return None
    until = consumer["config"].get("pause_until", "somebody resumes it")
    return f"consumer {durable} is paused until {until}: run `nats consumer resume {stream} {durable}`"


def _full(info: dict[str, Any], stream: str) -> str | None:
    """Of a workqueue that is full the oldest messages go, although nobody has handled them."""
    size, room = info["state"]["bytes"], info["config"].get("max_bytes", -1)
    if info["config"]["retention"] != "workqueue" or room <= 0 or size < _NEARLY_FULL * room:
        return None
    return (
        f"stream {stream} holds {size} of {room} bytes; once it is full, its oldest messages are lost:"
        f" run `nats stream edit {stream} --max-bytes={2 * room}`"
    )
