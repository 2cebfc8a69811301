"""How far every consumer of the mesh is behind, told by whoever is alive: a service that is dead tells nothing."""

import asyncio
from collections.abc import Mapping
from typing import Final, NoReturn

import structlog

from exeunt.back_off import spread
from exeunt.bus.connection import Bus
from exeunt.bus.errors import ApiRefused, BusError, PermissionDenied
from exeunt.bus.lag import measure_lag
from exeunt.events.subjects import (
    DEADLINES,
    LIVEKIT,
    LIVEKIT_BRIDGE,
    RUNS,
    SIGNALS,
    TERMINATOR,
    TIMEOUT_SCHEDULER,
    TIMEOUT_SCHEDULER_DUE,
    WATCHER_SIGNALS,
)

CONSUMERS: Final[Mapping[str, str]] = {
    WATCHER_SIGNALS: SIGNALS,
    TERMINATOR: RUNS,
    TIMEOUT_SCHEDULER: RUNS,
    TIMEOUT_SCHEDULER_DUE: DEADLINES,
    LIVEKIT_BRIDGE: LIVEKIT,
}
"""The stream of each consumer that the instances of a service share."""

_INTERVAL: Final = 10.0
"""Seconds between two rounds; Prometheus scrapes less often."""

log = structlog.get_logger(__name__)


async def report_backlogs(bus: Bus) -> NoReturn:
    """Ask for ever, and measure it. What is not answered stays as it was told last.

    Those that this process takes from are measured by their pull loops already. One that this NATS user may not ask for
    is left out: the permissions of an older release lack it.
    """
    asked = dict(CONSUMERS)
    while True:
        for consumer, stream in list(asked.items()):
            call = f"CONSUMER.INFO.{stream}.{consumer}"
            if call in bus.change.groups:
                continue
            try:
                measure_lag(await bus.api(call), consumer)
            except PermissionDenied as error:
                log.warning("backlog not measured", consumer=consumer, error=str(error))
                del asked[consumer]
            except ApiRefused as error:  # not installed, or not yet
                log.debug("backlog unknown", consumer=consumer, error=str(error))
            except BusError as error:  # nor will the next one be answered
                log.debug("backlog unknown", consumer=consumer, error=str(error))
                break
        await asyncio.sleep(spread(_INTERVAL))
