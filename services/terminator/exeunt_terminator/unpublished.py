"""What was done without the bus, kept until it is back, and then published as if it had never been away.

What others have published of the same meanwhile stands; only an outcome that has ended a run, or that was refused, is
added to theirs, as `machine` does it. A process that ends before the bus is back takes with it what it has kept: then
the history has the end of the run, which the watcher publishes, and not who decided it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable, PermissionDenied, PublishRefused
from exeunt.bus.publisher import Stored, last_message, publish
from exeunt.events.codec import outcome_message
from exeunt.events.event_types import DRY_RUN, Verdict
from exeunt.events.messages import Message
from exeunt.events.subjects import RUNS
from exeunt.process.insist import insist
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.metrics import OUTCOMES, UNPUBLISHED_LOST
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
        event, outcome = done.event, done.outcome
        answer = await publish(self._bus, done.message, deadline=_DEADLINE)
        if outcome is None:
            return
        # Where the event is another's, it need not have the snapshot that was decided from.
        own = replace(event.snapshot, step_runs=None)
        trail = tuple(replace(step, reread=step.reread or own) for step in outcome.trail)
        outcome = replace(outcome, cause_sequence=answer.sequence, trail=trail)
        message = outcome_message(
            outcome, event.snapshot.run.cancellation, event.event_type, source=done.source, now=done.at, context={}
        )
        anew = outcome.finished_at is not None or outcome.verdict is Verdict.FAILED
        if await self._store(message, anew=anew):
            OUTCOMES.add(cause=str(event.event_type), verdict=DRY_RUN if outcome.dry_run else str(outcome.verdict))

    async def _store(self, message: Message, *, anew: bool) -> bool:
        """Whether it is stored now: as the first one on its subject, or after that of somebody else if it is `anew`."""
        answer = await publish(self._bus, message, deadline=_DEADLINE)
        if isinstance(answer, Stored) or not anew:
            return isinstance(answer, Stored)
        last = await last_message(self._bus, RUNS, message.subject)
        if last is not None and last.data == message.payload:
            return False  # by an earlier try
        after = replace(message, expected_last_subject_sequence=answer.sequence)
        if not isinstance(await publish(self._bus, after, deadline=_DEADLINE), Stored):
            raise BusUnavailable(f"somebody else stores on {message.subject}")  # or it was a try of ours: see again
        return True

    def _lose(self, done: Done, why: str) -> None:
        UNPUBLISHED_LOST.add()
        verdict = done.outcome.verdict if done.outcome else None
        log.error("outcome not recorded", event_type=done.event.event_type, verdict=verdict, error=why)
