"""The watcher, composed."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from exeunt.bus.pull import PullLoop
from exeunt.health import Pulse
from exeunt.insist import insist
from exeunt.metrics import expect_facts
from exeunt.service import Connections
from exeunt.streams import ensure_stream_and_consumer
from exeunt.subjects import EVERY_SIGNAL, SIGNALS
from exeunt_watcher.watcher import Watcher

SIGNALS_DURABLE: Final = "watcher-signals"
_PULL_SILENCE = 30.0
"""Seconds: the pull loop beats every second, also while NATS is away."""
_SILENCE = 150.0
"""Seconds: a watch shows a line a minute, its idle timeout is 90 s, its longest back-off 30 s."""


class WatcherService:
    """One `Watcher`, and a pull loop for the signals of others."""

    def __init__(self, connections: Connections) -> None:
        settings, bus = connections.settings, connections.bus
        self._watcher = Watcher(connections.kube, bus, settings)
        expect_facts()
        self._ensure = partial(ensure_stream_and_consumer, bus, settings, SIGNALS, SIGNALS_DURABLE, (EVERY_SIGNAL,))
        self._signals = PullLoop(
            bus,
            SIGNALS,
            SIGNALS_DURABLE,
            max_in_flight=settings.max_in_flight,
            recreate=self._ensure,
            ack_wait=settings.ack_wait.total_seconds(),
            max_deliveries=settings.max_deliveries,
        )

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        now = asyncio.get_running_loop().time

        def last_progress() -> float:
            # Watches that wait for a dependency are not stuck: /readyz names it.
            return max(self._watcher.last_waited, min(w.last_progress or now() for w in self._watcher.watches))

        return (
            {"watches": lambda: self._watcher.trouble, "signals": lambda: self._signals.trouble},
            {
                "watches": Pulse(last_progress, _SILENCE),
                "signals": Pulse(lambda: self._signals.last_progress, _PULL_SILENCE),
            },
        )

    async def run(self) -> None:
        await insist("make or check the consumer", self._ensure)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watcher.run())
            tasks.create_task(self._listen())

    async def _listen(self) -> None:
        await self._watcher.live.wait()  # or no run would be known
        await self._signals.run(self._watcher.on_signal)

    async def stop(self, budget: float) -> None:
        now = asyncio.get_running_loop().time
        end = now() + budget
        await self._signals.stop(budget)  # first: what a signal leads to is said by the watcher
        await self._watcher.drain(max(0, end - now()))


def compose(connections: Connections) -> WatcherService:
    """The one place where the watcher's parts meet."""
    return WatcherService(connections)
