"""Waiting out a dependency that is away: what must be done is tried until it is done, visibly and with back-off."""

from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from exeunt.back_off import BackOff
from exeunt.bus.errors import BusUnavailable
from exeunt.kube.errors import ApiUnavailable

_BACK_OFF: Final = BackOff(0.1, 10)

T = TypeVar("T")
log = structlog.get_logger()


async def insist(what: str, call: Callable[[], Awaitable[T]], *, on_failure: Callable[[], None] = lambda: None) -> T:
    """Call until it answers. Only a dependency that is unavailable is waited for; any other error is the caller's.

    Each call brings its own deadline and retries; between calls lies a jittered back-off of at most 10 seconds. The
    wait ends with the task that waits. `on_failure` hears of every call that failed so: whoever waits so is not stuck.
    """
    failures = 0
    while True:
        try:
            return await call()
        except (BusUnavailable, ApiUnavailable) as error:
            log.warning("still trying", what=what, error=str(error))
            on_failure()
        await sleep(_BACK_OFF.wait(failures))
        failures += 1
