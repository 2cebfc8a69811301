"""The LiveKit bridge, composed."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from aiohttp import web

from exeunt.bus.mesh_streams import ensure_livekit_stream, ensure_stream_and_consumer
from exeunt.bus.pull import PullLoop
from exeunt.errors import UsageError
from exeunt.events.subjects import EVERY_LOOK, LIVEKIT, LIVEKIT_BRIDGE
from exeunt.process.health import Pulse
from exeunt.process.insist import insist
from exeunt.process.service import Connections, main
from exeunt.telemetry.metrics import expect_looks
from exeunt_livekit_bridge.discovery import INTERVAL, Discovery
from exeunt_livekit_bridge.keys import Keys
from exeunt_livekit_bridge.livekit import LiveKit
from exeunt_livekit_bridge.looker import Looker
from exeunt_livekit_bridge.webhooks import Webhooks

_SILENCE: Final = 30.0
"""Seconds: the pull loop beats every second, also while NATS is away."""
_NO_LIMIT: Final = 2**31
"""Deliveries: a look comes again for as long as its room lives."""


class LiveKitBridge:
    """Webhooks and `Discovery` store what to look at, one pull loop has a `Looker` look."""

    def __init__(self, connections: Connections) -> None:
        expect_looks()
        settings, bus = connections.settings, connections.bus
        for name in ("livekit_url", "livekit_keys"):
            if not getattr(settings, name):
                raise UsageError(f"EXEUNT_{name.upper()} is not set, and the LiveKit bridge cannot do without")
        keys = Keys(Path(settings.livekit_keys))
        self._addr = settings.livekit_webhook_addr
        self._livekit = LiveKit(settings.livekit_url, keys, strict=settings.tls_strict)
        self._webhooks = Webhooks(keys, bus)
        self._discovery = Discovery(self._livekit, bus)
        self._looker = Looker(self._livekit, bus, settings)
        ensure = partial(ensure_stream_and_consumer, bus, settings, ensure=ensure_livekit_stream)
        self._ensure = partial(ensure, LIVEKIT, LIVEKIT_BRIDGE, (EVERY_LOOK,))
        self._looks = PullLoop(
            bus,
            LIVEKIT,
            LIVEKIT_BRIDGE,
            max_in_flight=settings.max_in_flight,
            recreate=self._ensure,
            ack_wait=settings.ack_wait.total_seconds(),
            max_deliveries=_NO_LIMIT,
        )
        self._listening: web.AppRunner | None = None

    def health(self) -> tuple[dict[str, Callable[[], str | None]], dict[str, Pulse]]:
        return (
            {
                "livekit": lambda: self._livekit.unavailable_reason,
                "looks": lambda: self._looks.unavailable_reason,
                "signals": lambda: self._looker.unavailable_reason,
            },
            {
                "looks": Pulse(lambda: self._looks.last_progress, _SILENCE),
                "discovery": Pulse(lambda: self._discovery.last_progress, 2 * INTERVAL + _SILENCE),
            },
        )

    async def run(self) -> None:
        await insist("make or check the consumer", self._ensure)
        self._listening = await self._webhooks.listen_on(self._addr)
        try:
            async with self._livekit, asyncio.TaskGroup() as tasks:
                discovering = tasks.create_task(self._discovery.run())
                await self._looks.run(self._looker.handle)
                discovering.cancel()
        finally:
            await self._listening.cleanup()

    async def stop(self, budget: float) -> None:
        now = asyncio.get_running_loop().time
        end = now() + budget
        if self._listening is not None:  # LiveKit tries again, elsewhere or later, what comes from now on
            await self._listening.cleanup()
        await self._looks.stop(max(0.0, end - now()))


def compose(connections: Connections) -> LiveKitBridge:
    """The one place where the bridge's parts meet."""
    return LiveKitBridge(connections)


def serve() -> NoReturn:
    """Run it until SIGTERM."""
    main("exeunt-livekit-bridge", compose, ensure=ensure_livekit_stream, kubernetes=False)
