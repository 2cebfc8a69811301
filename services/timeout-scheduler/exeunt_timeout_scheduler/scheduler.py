"""The timeout-scheduler's shell: cancels arm, ends disarm, schedules that fire are held, checked and said.

`deadlines` does the thinking. Losing a schedule costs time only: `sweep` arms what is missing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from msgspec.structs import replace

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, Delivery, Retry, again
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.publisher import Stored, publish
from exeunt.bus.streams import purge_subject
from exeunt.clock import format_instant, parse_instant
from exeunt.codec import fact_message, read_fact
from exeunt.events import Fact
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, NotFound, Undecodable
from exeunt.kube.resources import STORY_RUNS
from exeunt.logs import bind_run
from exeunt.metrics import DEADLINE_LATENESS
from exeunt.metrics import DEADLINES as DEADLINES_BY_RESULT
from exeunt.semconv import DEADLINE, RULE, WHY
from exeunt.settings import Settings
from exeunt.snapshot import Snapshot, read_run
from exeunt.subjects import DEADLINES, armed_subject
from exeunt.tracing import Hop, due, latency, processing
from exeunt_timeout_scheduler.deadlines import (
    HAPPENINGS,
    TRANSITIONS,
    Deadline,
    Happening,
    State,
    closed,
    read_deadline,
    schedule,
)

SOURCE: Final = "/exeunt/timeout-scheduler"
FACTS_DURABLE: Final = "timeout-scheduler"
DUE_DURABLE: Final = "timeout-scheduler-due"
_PUBLISH_DEADLINE: Final = 20.0
"""Seconds to arm or to say before the message that asked for it goes back to the stream."""

log = structlog.get_logger()


class Scheduler:
    """Arms, disarms and fires deadlines. Any number of instances may run; they share the streams' consumers."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings) -> None:
        self._kube = kube
        self._bus = bus
        self._settings = settings

    async def on_fact(self, delivery: Delivery) -> Ack | Retry:
        """A cancel arms; the run's end disarms. Raises PoisonEvent."""
        event = read_fact(delivery.headers, delivery.data)
        bind_run(event.snapshot.run.episode)
        with processing(
            event.fact, event.snapshot, delivery.headers, consumer=FACTS_DURABLE, delivery=delivery.num_delivered
        ) as hop:
            try:
                if HAPPENINGS[event.fact] is Happening.CANCELED:
                    await self.arm(event.snapshot, hop)
                else:
                    await self._disarm(event.snapshot, hop)
            except BusUnavailable as error:
                hop.failed(error)
                return again(delivery.num_delivered, error)
        return Ack()

    async def arm(self, snapshot: Snapshot, hop: Hop) -> bool:
        """Arm the episode's deadline, once; whether it was this call that did. Raises BusUnavailable."""
        decision, deadline = closed(snapshot), snapshot.deadline
        if decision is not None or deadline is None:
            log.debug("not armed", why=decision and decision.why)
            return False
        message = schedule(snapshot, deadline, datetime.now(UTC), hop.headers)
        armed = isinstance(await publish(self._bus, message, deadline=_PUBLISH_DEADLINE), Stored)
        if armed:
            DEADLINES_BY_RESULT.add(result="armed")
            hop.event("armed", **{DEADLINE: format_instant(deadline), RULE: snapshot.shutdown.rule})
            log.info("armed", deadline=format_instant(deadline), shutdown_timeout=snapshot.shutdown.timeout,
                     rule=snapshot.shutdown.rule)  # fmt: skip
        return armed

    async def _disarm(self, snapshot: Snapshot, hop: Hop) -> None:
        if await purge_subject(self._bus, DEADLINES, armed_subject(snapshot.run.episode)):
            DEADLINES_BY_RESULT.add(result="disarmed")
            hop.event("disarmed")

    async def on_due(self, delivery: Delivery) -> Ack | Retry:
        """Walk a fired schedule through the rest of its table. Raises PoisonEvent."""
        fired = _Due(self, self._kube, self._settings, read_deadline(delivery.data), delivery)
        bind_run(fired.episode)
        try:
            await fired.walk()
        except (ApiUnavailable, ApiError, Undecodable, BusUnavailable) as error:
            log.warning("deadline not said yet", error=str(error))
            return again(delivery.num_delivered, error)
        return Ack()

    async def say_reached(self, snapshot: Snapshot, hop: Hop, *, expected_last_sequence: int = 0) -> None:
        """Say it once; with `expected_last_sequence`, once more after that one. Raises BusUnavailable."""
        now = datetime.now(UTC)
        message = fact_message(Fact.DEADLINE_REACHED, snapshot, source=SOURCE, now=now, context=hop.headers)
        message = replace(message, expected_last_subject_sequence=expected_last_sequence)
        said = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE)
        if not isinstance(said, Stored) or snapshot.deadline is None:
            return
        lateness = now - snapshot.deadline
        hop.event(Fact.DEADLINE_REACHED)
        log.info(Fact.DEADLINE_REACHED, lateness_ms=lateness / timedelta(milliseconds=1))
        if expected_last_sequence:
            DEADLINES_BY_RESULT.add(result="overdue")
            return
        DEADLINES_BY_RESULT.add(result="said")
        DEADLINE_LATENESS.record(max(0.0, lateness.total_seconds()))
        latency(lateness)


class _Due:
    """One fired schedule on its way: held until its instant, checked, said."""

    def __init__(
        self, scheduler: Scheduler, kube: KubeClient, settings: Settings, deadline: Deadline, delivery: Delivery
    ) -> None:
        self._scheduler = scheduler
        self._kube = kube
        self._settings = settings
        self._deadline = deadline
        self._delivery = delivery
        self._snapshot = deadline.snapshot
        self.episode = deadline.snapshot.run.episode

    async def walk(self) -> None:
        """To the end of the table. Raises ApiError, ApiUnavailable or BusUnavailable when it has to be tried again."""
        do: dict[State, Callable[[], Awaitable[Happening]]] = {
            State.CHECKING: self._check,
            State.SAYING: self._say,
        }
        state = TRANSITIONS[State.HELD][await self._hold()]
        with due(
            self._snapshot, self._delivery.headers, consumer=DUE_DURABLE, delivery=self._delivery.num_delivered
        ) as self._hop:
            while state in do:
                state = TRANSITIONS[state][await do[state]()]

    async def _hold(self) -> Happening:
        """Sleep until the wall clock has reached the instant; never less, whatever the loop's own clock says."""
        while (remaining := (self._deadline.instant - datetime.now(UTC)).total_seconds()) > 0:  # noqa: ASYNC110 - a clock
            await asyncio.sleep(min(remaining, 1.0))
        return Happening.INSTANT

    async def _check(self) -> Happening:
        armed, now = self._deadline.snapshot, datetime.now(UTC)
        try:
            found = await self._kube.get(STORY_RUNS, armed.run.namespace, armed.run.name)
        except NotFound:
            return self._drop("deleted", "the StoryRun is gone")
        # Without a fence the cancel counts from when it was seen; seen anew it would not be overdue, and be dropped.
        first_seen = parse_instant(armed.run.canceled_at) if armed.run.canceled_at else now
        state = read_run(found, first_seen=first_seen, now=now, fence_wait=self._settings.fence_wait)
        self._snapshot = replace(armed, run=state)
        decision = closed(self._snapshot, armed)
        if decision is not None:
            return self._drop(decision.rule, decision.why)
        return Happening.OPEN

    def _drop(self, rule: str, why: str) -> Happening:
        DEADLINES_BY_RESULT.add(result="dropped")
        self._hop.event("dropped", **{RULE: rule, WHY: why})
        log.info("deadline dropped", rule=rule, why=why)
        return Happening.CLOSED

    async def _say(self) -> Happening:
        await self._scheduler.say_reached(self._snapshot, self._hop)
        return Happening.SAID
