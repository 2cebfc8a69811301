"""The watcher, composed."""

import asyncio
from collections.abc import Callable

from exeunt.health import Pulse
from exeunt.service import Connections
from exeunt_watcher.watcher import Watcher

NAME = "exeunt-watcher"
_SILENCE = 150.0
"""Seconds: a watch shows a line a minute, its idle timeout is 90 s, its longest back-off 30 s."""


class WatcherService:
    """Runs one `Watcher`."""

    def __init__(self, connections: Connections) -> None:
        self._watcher = Watcher(connections.kube, connections.bus, connections.settings)

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        now = asyncio.get_running_loop().time

        def last_progress() -> float:
            # Watches that wait for NATS are not stuck: /readyz names NATS.
            return now() if self._watcher.blocked else min(w.last_progress or now() for w in self._watcher.watches)

        return (
            {"watches": lambda: self._watcher.trouble},
            {"watches": Pulse(last_progress, _SILENCE)},
        )

    async def run(self) -> None:
        await self._watcher.run()

    async def stop(self, budget: float) -> None:
        await self._watcher.drain(budget)


def compose(connections: Connections) -> WatcherService:
    """The one place where the watcher's parts meet."""
    return WatcherService(connections)
