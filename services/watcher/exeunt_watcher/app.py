"""The watcher, composed."""

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from exeunt.bus.errors import ApiRefused, BusUnavailable
from exeunt.bus.lag import caught_up
from exeunt.bus.mesh_streams import ensure_stream_and_consumer
from exeunt.bus.pull import PullLoop
from exeunt.events.subjects import EVERY_SIGNAL, SIGNALS, WATCHER_SIGNALS
from exeunt.process.health import Pulse
from exeunt.process.insist import insist
from exeunt.process.service import Connections, main
from exeunt.telemetry.metrics import expect_events
from exeunt_watcher.watcher import Watcher, check_signal

SIGNALS_FOLLOWER: Final = "watcher-signals-follower"
"""The consumers that give every signal to every watcher; each has one of its own, of this name and something more."""
_FOLLOWER_KEPT: Final = 300.0
"""Seconds for which NATS keeps the consumer of a watcher that is no more, or cut off."""
_PULL_SILENCE = 30.0
"""Seconds: the pull loop beats every second, also while NATS is away."""
_SILENCE = 150.0
"""Seconds: a watch shows a line a minute, its idle timeout is 68 s, its longest back-off 30 s."""


class WatcherService:
    """One `Watcher`, which hears every signal of others, and a pull loop in which each signal is checked once."""

    def __init__(self, connections: Connections) -> None:
        settings, bus = connections.settings, connections.bus
        self._watcher = Watcher(connections.kube, bus, settings)
        expect_events()
        self._bus = bus
        self._follower = f"{SIGNALS_FOLLOWER}-{secrets.token_hex(4)}"
        ensure = partial(ensure_stream_and_consumer, bus, settings, SIGNALS)
        self._ensure = partial(ensure, WATCHER_SIGNALS, (EVERY_SIGNAL,))
        self._ensure_follower = partial(ensure, self._follower, (EVERY_SIGNAL,), inactive_after=_FOLLOWER_KEPT)
        pull = partial(
            PullLoop,
            bus,
            SIGNALS,
            max_in_flight=settings.max_in_flight,
            ack_wait=settings.ack_wait.total_seconds(),
            max_deliveries=settings.max_deliveries,
        )
        self._signals = pull(SIGNALS_FOLLOWER, consumer=self._follower, recreate=self._ensure_follower)
        self._check = pull(WATCHER_SIGNALS, recreate=self._ensure)

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        now = asyncio.get_running_loop().time

        def last_progress() -> float:
            # Watches that wait for a dependency are not stuck: /readyz names it.
            watches = self._watcher.coverage.watches
            return max(self._watcher.last_waited, min(watch.last_progress or now() for watch in watches))

        return (
            {
                "watches": lambda: self._watcher.coverage.unavailable_reason,
                "namespaces": lambda: self._watcher.coverage.closed,
                "signals": lambda: self._signals.unavailable_reason or self._check.unavailable_reason,
            },
            {
                "watches": Pulse(last_progress, _SILENCE),
                "signals": Pulse(lambda: min(self._signals.last_progress, self._check.last_progress), _PULL_SILENCE),
            },
        )

    async def run(self) -> None:
        await insist("make or check the consumers", self._ensure)
        await insist("make or check the consumers", self._ensure_follower)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watcher.run())
            tasks.create_task(self._check.run(check_signal))
            tasks.create_task(self._signals.run(self._watcher.on_signal))
            await insist("hear the signals", self._hear_all)
            await self._watcher.signals_heard()

    async def _hear_all(self) -> None:
        try:
            await caught_up(self._bus, SIGNALS, self._follower)
        except ApiRefused as error:  # the loop makes stream and consumer anew
            raise BusUnavailable(str(error)) from error

    async def stop(self, budget: float) -> None:
        now = asyncio.get_running_loop().time
        end = now() + budget
        await asyncio.gather(self._signals.stop(budget), self._check.stop(budget))
        await self._watcher.drain(max(0, end - now()))


def compose(connections: Connections) -> WatcherService:
    """The one place where the watcher's parts meet."""
    return WatcherService(connections)


def serve() -> NoReturn:
    """Run it until SIGTERM."""
    main("exeunt-watcher", compose)
