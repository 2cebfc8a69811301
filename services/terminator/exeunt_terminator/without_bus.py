"""NATS is the fast path and the memory, never a condition: tells when JetStream is away, and has somebody stand in.

`patience` judges, `stand_in` ends runs meanwhile, and `unpublished` keeps what it did until JetStream is back (ADR 25).
"""

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Final, NoReturn

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.hearsay import Hearsay
from exeunt.bus.pull import PullLoop
from exeunt.clock import format_instant
from exeunt.events.messages import Message
from exeunt.kube.client import KubeClient
from exeunt.settings import Settings
from exeunt.telemetry.metrics import UNPUBLISHED, UNPUBLISHED_LOST, WITHOUT_BUS
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.patience import Patience
from exeunt_terminator.remembered import Remembered
from exeunt_terminator.stand_in import StandIn
from exeunt_terminator.unpublished import Unpublished

_LOOK: Final = 0.1
"""Seconds between two looks at JetStream."""

log = structlog.get_logger()


class WithoutBus:
    """Looks at the connection, at what is heard of the consumer, and listens to others."""

    def __init__(
        self,
        kube: KubeClient,
        bus: Bus,
        settings: Settings,
        *,
        events: KubernetesEvents,
        remembered: Remembered,
        hearsay: Hearsay,
        pull: PullLoop,
    ) -> None:
        self._bus = bus
        self._pull = pull
        self._hearsay = hearsay
        self._patience = settings.bus_patience.total_seconds()
        self._unpublished = unpublished = Unpublished(bus)
        self._new_stand_in = partial(
            StandIn, kube, bus, settings, events=events, remembered=remembered, unpublished=unpublished
        )
        self._stand_in: StandIn | None = None
        self._standing_in: asyncio.Task[None] | None = None
        self._since: datetime | None = None
        WITHOUT_BUS.observe(lambda: {(): float(self._since is not None)})
        UNPUBLISHED.observe(lambda: {(): float(len(unpublished))})
        UNPUBLISHED_LOST.expect()

    def reported(self, unavailable_reason: str | None) -> str | None:
        """For /readyz: that trouble, and what is done about it. An outage is one although runs go on ending."""
        stand_in, since = self._stand_in, self._since
        if stand_in is None or since is None:
            return unavailable_reason
        how = stand_in.unavailable_reason or "runs are ended from here"
        return (
            f"{unavailable_reason or 'JetStream is coming back'}; without the bus since {format_instant(since)}: {how}"
        )

    async def run(self) -> None:
        """Until it is cancelled; at once, where this is switched off."""
        if not self._patience:
            return
        self._hearsay.on_unstored = self._pass_on
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._unpublished.publish(lambda: self._since is None and self._lost() is None))
                await self._look(tasks)
        finally:
            if self._unpublished:
                log.error("outcomes not recorded", number=len(self._unpublished))

    async def stop(self, budget: float) -> None:
        """Begin nothing more, and let the stops in progress end, for `budget` seconds at the most."""
        if self._stand_in is not None and self._standing_in is not None:
            self._stand_in.stop()
            await asyncio.wait({self._standing_in}, timeout=budget)

    def _pass_on(self, message: Message) -> None:
        """What is not stored is acted on by whoever stands in."""
        if self._stand_in is not None:
            self._stand_in.hear(message)

    def _lost(self) -> str | None:
        """Why JetStream does not work now."""
        return self._bus.unavailable_reason or self._pull.lost or self._hearsay.unavailable_reason

    def _lost_since(self) -> float | None:
        """Since when, where that is known."""
        known = (self._pull.alone_since, self._pull.silent_since, self._hearsay.since)
        return min((at for at in known if at is not None), default=None)

    async def _look(self, tasks: asyncio.TaskGroup) -> NoReturn:
        now = asyncio.get_running_loop().time
        patience = Patience(self._patience)
        while True:
            lost = self._lost()
            away = patience.look(works=lost is None, now=now(), since=self._lost_since())
            if away and self._stand_in is None:
                self._since = datetime.now(UTC)
                self._stand_in = self._new_stand_in()
                log.warning("without the bus", trouble=lost)
                for message in self._hearsay.unstored:
                    self._pass_on(message)
                self._standing_in = tasks.create_task(self._stand_in.run())
            elif not away and self._stand_in is not None and self._standing_in is not None:
                self._stand_in.stop()
                await self._standing_in
                log.warning("the bus is back", since=self._since, unpublished=len(self._unpublished))
                self._stand_in = self._since = self._standing_in = None
            await asyncio.sleep(_LOOK)
