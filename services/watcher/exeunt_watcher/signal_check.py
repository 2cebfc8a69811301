"""One look at each signal, for all watchers together: what is none is set aside, and what cannot count is logged."""

import structlog

from exeunt.bus.delivery import Ack, Delivery
from exeunt.events.signals import read_signal

log = structlog.get_logger()


async def check_signal(delivery: Delivery) -> Ack:
    """Raises PoisonEvent for what is no signal."""
    signal = read_signal(delivery.subject, delivery.headers, delivery.data)
    if signal.is_ahead_of(delivery.timestamp):
        log.warning(
            "signal ignored", subject=delivery.subject, why="it lies in the future", time=str(signal.at),
            detail=signal.detail,
        )  # fmt: skip
    return Ack()
