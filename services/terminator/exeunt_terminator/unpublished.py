"""What was done without the bus, kept until it is back, and then published as if it had never been away.

`handing_over` says how. A process that ends before the bus is back takes with it what it has kept: then the history has
the end of the run, which the watcher publishes, and not who decided it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable, PermissionDenied, PublishRefused
from exeunt.bus.publisher import Stored, publish, publish_own
from exeunt.events.event_types import DRY_RUN
from exeunt.events.messages import Message
from exeunt.events.subjects import RUNS
from exeunt.process.insist import insist
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.metrics import OUTCOMES, UNPUBLISHED_LOST
from exeunt_terminator.handing_over import HandedOver, HandingOver
from exeunt_terminator.local_streams import Done

MOST: Final = 10_000
"""Outcomes that are kept, some 10 KB each. Runs are ended beyond that, too; what is not kept is counted and logged."""
_DEADLINE: Final = 20.0
"""Seconds for one try to publish a message."""
_LOOK: Final = 0.2
"""Seconds between two looks at whether there is something to publish, and somebody to take it."""

log = structlog.get_logger()


class Unpublished:
    """Keeps `most` of what was done, the oldest first."""

    def __init__(self, bus: Bus, *, most: int = MOST) -> None:
        self._bus = bus
        self._most = most
        self._kept: deque[Done] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, done: Done) -> None:
        """Keep it, if there is room."""
        if len(self._kept) < self._most:
            self._kept.append(done)
        else:
            self._lose(done, f"{self._most} outcomes are waiting already")

    async def publish(self, works: Callable[[], bool]) -> None:
        """In order, for ever, while JetStream `works`."""
        while True:
            await asyncio.sleep(_LOOK)
            while self._kept and works():
                done = self._kept[0]
                bind_run(done.event.snapshot.run.cancellation)
                try:
                    await insist("publish what was done without the bus", partial(self._publish, done))
                except (PublishRefused, PermissionDenied) as error:
                    self._lose(done, str(error))
                self._kept.popleft()

    async def _publish(self, done: Done) -> None:
        handing_over = HandingOver(done)
        command: Message | HandedOver = handing_over.begin()
        while isinstance(command, Message):
            if command is done.message:  # whose it is that is stored there makes no difference, and may not be read
                answer = await publish(self._bus, command, deadline=_DEADLINE)
            else:
                answer = await publish_own(self._bus, RUNS, command, deadline=_DEADLINE)
            command = handing_over.receive(answer.sequence, own=isinstance(answer, Stored))
        if command is HandedOver.OVERTAKEN:
            raise BusUnavailable("somebody else stores in its place")
        if command is HandedOver.RECORDED and (outcome := done.outcome) is not None:
            cause = str(done.event.event_type)
            OUTCOMES.add(cause=cause, verdict=DRY_RUN if outcome.dry_run else str(outcome.verdict))

    def _lose(self, done: Done, why: str) -> None:
        UNPUBLISHED_LOST.add()
        verdict = done.outcome.verdict if done.outcome else None
        log.error("outcome not recorded", event_type=done.event.event_type, verdict=verdict, error=why)
