"""Starts the services under the settings that tests want: short waits, where a wait is not what is tested."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from exeunt_local.mesh import SERVICES, Mesh

QUICK: Final = {"EXEUNT_SECOND_LOOK": "2s", "EXEUNT_ACK_WAIT": "2s"}
"""The sweeps keep their 30 s: what it takes a sweep to mend fails a test. And StepRuns count as left after longer than
a busy machine takes to delete them.
"""


async def start_all(mesh: Mesh, instance: int = 0, **env: str) -> None:
    """Starts one of each service, side by side; `env` goes over QUICK."""
    await asyncio.gather(*(mesh.start(service, instance, **{**QUICK, **env}) for service in SERVICES))


@asynccontextmanager
async def without(mesh: Mesh, service: str, **env: str) -> AsyncIterator[None]:
    """Stops one service and starts it again afterwards: what is published meanwhile is answered then."""
    await mesh.stop(service)
    try:
        yield
    finally:
        await mesh.start(service, 0, **{**QUICK, **env})
