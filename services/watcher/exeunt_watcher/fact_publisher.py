"""Facts on their way to the stream RUNS, and what the stream has of them."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, Self

import structlog

from exeunt import bobrapet
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable, PublishRefused
from exeunt.bus.publisher import AlreadyStored, Stored, last_message, message_at, publish
from exeunt.codec import fact_message
from exeunt.events import Fact
from exeunt.insist import insist
from exeunt.logs import bind_run
from exeunt.metrics import FACTS, STOP_LATENESS
from exeunt.recall import snapshot_of
from exeunt.snapshot import Snapshot
from exeunt.subjects import RUNS, fact_subject
from exeunt.tracing import sending
from exeunt_watcher.facts import subject_episode
from exeunt_watcher.lateness import Late

SOURCE: Final = "/exeunt/watcher"
_WINDOW: Final = 256
"""Facts on their way at once. When NATS is away they fill it, and whoever says more waits; none is dropped."""
_PUBLISH_DEADLINE: Final = 30.0
"""Seconds for one attempt to publish, with its own retries, before the log says that it is still unsaid."""

log = structlog.get_logger()


class FactPublisher:
    """Says facts, however long NATS is away; left as a context manager, it waits for those on their way."""

    def __init__(self, bus: Bus, *, on_failure: Callable[[], None]) -> None:
        self._bus = bus
        self._insist = partial(insist, on_failure=on_failure)
        self._window = asyncio.Semaphore(_WINDOW)
        self._saying = asyncio.TaskGroup()

    async def say(self, fact: Fact, snapshot: Snapshot, late: Late | None = None) -> None:
        """Put one fact on its way; returns at once while there is room in the window.

        `late` is measured by the watcher that is the first to say the fact.
        """
        await self._window.acquire()
        task = self._saying.create_task(self._publish(fact, snapshot, late))
        task.add_done_callback(lambda _: self._window.release())

    async def _publish(self, fact: Fact, snapshot: Snapshot, late: Late | None = None) -> None:
        """Say one fact, however long NATS is away; somebody else having said it is success."""
        bind_run(snapshot.run.episode)
        try:
            said = await self._insist(f"say {fact}", partial(self._try, fact, snapshot, late, datetime.now(UTC)))
        except PublishRefused as error:  # one run's object that is too large must not end the watcher of all
            log.error("fact refused", fact=fact, error=str(error))  # noqa: TRY400 - no bug of ours
            return
        if isinstance(said, AlreadyStored) and fact is Fact.CANCEL_REQUESTED and snapshot.topology.gone is not None:
            await self._complete(said.sequence, snapshot)

    async def _try(self, fact: Fact, snapshot: Snapshot, late: Late | None, now: datetime) -> Stored | AlreadyStored:
        with sending(fact, snapshot) as hop:
            message = fact_message(fact, snapshot, source=SOURCE, now=now, context=hop.headers)
            try:
                said = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE)
            except BusUnavailable:
                hop.drop()  # the try that succeeds is the hop
                raise
            if isinstance(said, AlreadyStored):
                hop.drop()
                return said
            FACTS.add(fact=str(fact))
            if late is not None:
                STOP_LATENESS.record(late.by.total_seconds(), cause=late.cause, ended_by=late.ended_by)
            log.info(fact, sequence=said.sequence, gone=snapshot.topology.gone and snapshot.topology.gone.kind)
            if fact is Fact.CANCEL_REQUESTED:
                _warn(snapshot)
            return said

    async def _complete(self, sequence: int, snapshot: Snapshot) -> None:
        """Another watcher said the cancel first; when it did not know that the topology is gone, say that."""
        winner = snapshot_of(
            await self._insist("see who said the cancel", partial(message_at, self._bus, RUNS, sequence))
        )
        if winner is None or winner.topology.gone is None:
            await self._publish(Fact.TOPOLOGY_TERMINATED, snapshot)

    async def recall(self, fact: Fact, snapshot: Snapshot) -> Snapshot | None:
        """What was said of the run's episode, or of its life, if it was."""
        subject = fact_subject(subject_episode(fact, snapshot), fact)
        return snapshot_of(await self._insist(f"recall {fact}", partial(last_message, self._bus, RUNS, subject)))

    async def __aenter__(self) -> Self:
        await self._saying.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._saying.__aexit__(*error)  # type: ignore[arg-type]  # as handed to us


def _warn(snapshot: Snapshot) -> None:
    """Of what people wrote and nobody can follow: once for each stop, by the watcher that was the first to say it."""
    for rejected in snapshot.shutdown.rejected:
        log.warning("shutdown timeout not usable", rule=rejected.rule, value=rejected.value, why=rejected.why)
    for said_by, value in (("StoryRun", snapshot.run.enabled_unclear), ("Story", snapshot.story.enabled_unclear)):
        if value is not None:
            why = f'{bobrapet.ENABLED} is neither "true" nor "false": it counts as absent'
            log.warning("opt-out not readable", rule=f"{said_by} annotation", value=value, why=why)
