"""The terminator's shell: one fact in, at most one finalizing write and its deletes out, one outcome recorded.

Walks the table in `stop`; `decision` and `finalize` do the thinking. Reads nothing on the fast path.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from msgspec.structs import replace
from structlog.contextvars import bind_contextvars

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, DeadLetter, Delivery, Retry
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.publisher import AlreadyStored, Stored, publish
from exeunt.clock import format_instant, format_status_time, parse_instant
from exeunt.codec import FactEvent, outcome_message, read_fact
from exeunt.events import DRY_RUN, Decided, Outcome, Verdict
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, Conflict, NotFound, Undecodable, Unprocessable
from exeunt.kube.resources import STEP_RUNS, STORY_RUNS, TRANSPORT_BINDINGS
from exeunt.metrics import OUTCOMES
from exeunt.settings import Settings
from exeunt.snapshot import FIELD_MANAGER, RunState, Snapshot, StepRunRef, read_run
from exeunt.step_runs import step_runs_to_delete
from exeunt.tracing import Hop, processing
from exeunt_terminator.decision import decide, leaves_leftovers
from exeunt_terminator.finalize import finalizing_patch
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.measures import stop_ended
from exeunt_terminator.stop import TRANSITIONS, Result, State
from exeunt_terminator.sub_stories import cancel_children

SOURCE: Final = "/exeunt/terminator"
DURABLE: Final = "terminator"
_FRESH: Final = timedelta(minutes=1)
"""An older fact is not acted on before the run is read again: its conditional write would only be refused."""
_MOST_WRITES: Final = 5
"""Lost conditions in a row after which the fact goes back to the stream for a while."""
_PUBLISH_DEADLINE: Final = 20.0
"""Seconds to record an outcome before its fact goes back to the stream."""
_LONGEST_RETRY: Final = 30.0

log = structlog.get_logger()


class Terminator:
    """Answers facts. Any number of instances may run: the conditional write lets one of them win."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings, events: KubernetesEvents) -> None:
        self._kube = kube
        self._bus = bus
        self._settings = settings
        self._events = events

    async def handle(self, delivery: Delivery) -> Ack | Retry | DeadLetter:
        """Answer one delivery; what is returned tells the stream what to do with it. Raises PoisonEvent."""
        event = read_fact(delivery.headers, delivery.data)
        bind_contextvars(run=str(event.snapshot.run.episode))
        with processing(
            event.fact, event.snapshot, delivery.headers, consumer=DURABLE, delivery=delivery.num_delivered
        ) as hop:
            return await self._stop(event, delivery, hop)

    async def _stop(self, event: FactEvent, delivery: Delivery, hop: Hop) -> Ack | Retry | DeadLetter:
        stop = Stop(self._kube, self._settings, event, delivery)
        try:
            await stop.walk()
            if self._settings.propagate_cancel and not self._settings.dry_run:
                await stop.cancel_children()
        except (ApiUnavailable, ApiError, Undecodable) as error:
            log.warning("stop not done yet", fact=event.fact, error=str(error))
            hop.failed(error)
            if not stop.wrote:
                return self._again(delivery, error)
        outcome = stop.outcome()
        hop.decided(outcome.trail)
        episode, now = event.snapshot.run.episode, datetime.now(UTC)
        message = outcome_message(outcome, episode, event.fact, source=SOURCE, now=now, context=hop.headers)
        try:
            answered = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE)
            if stop.wrote and isinstance(answered, AlreadyStored):
                # An earlier saying of this fact came to nothing (ADR 16, or a dry run); this one ended the run.
                message = replace(message, expected_last_subject_sequence=answered.sequence)
                answered = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE)
        except BusUnavailable as error:
            hop.failed(error)
            return self._again(delivery, error)
        log.info(outcome.verdict, fact=event.fact, rule=outcome.rule, why=outcome.why,
                 stop_latency_ms=outcome.stop_latency_ms, step_runs=outcome.deleted_step_runs)  # fmt: skip
        if isinstance(answered, Stored):
            OUTCOMES.add(cause=str(event.fact), verdict=DRY_RUN if outcome.dry_run else str(outcome.verdict))
            self._events.tell(event.snapshot.run, outcome)
        if outcome.verdict is Verdict.FAILED:
            hop.failed(outcome.rule)
            return DeadLetter(outcome.why)
        if stop.wrote:
            # The redelivery reads the run, finds it finished and deletes what is left.
            return Retry(delay=self._settings.second_look.total_seconds(), reason="second look for late StepRuns")
        return Ack()

    def _again(self, delivery: Delivery, error: Exception) -> Retry:
        seconds = min(_LONGEST_RETRY, 2.0 ** min(delivery.num_delivered, 10)) * random.uniform(0.5, 1)  # noqa: S311
        return Retry(delay=seconds, reason=str(error))


class Stop:
    """One walk through the table of `stop`, with what is known on the way."""

    def __init__(self, kube: KubeClient, settings: Settings, event: FactEvent, delivery: Delivery) -> None:
        self._kube = kube
        self._settings = settings
        self._event = event
        self._delivery = delivery
        self._episode = event.snapshot.run.episode
        self._snapshot = event.snapshot
        self._reread: Snapshot | None = None
        self._to_delete: tuple[StepRunRef, ...] = event.snapshot.step_runs or ()
        self._deleted: list[str] = []
        self._canceled_children: tuple[str, ...] = ()
        self._trail: list[Decided] = []
        self._writes = 0
        self._written_at: datetime | None = None

    @property
    def wrote(self) -> bool:
        """Whether the finalizing write was this walk's."""
        return self._written_at is not None

    async def cancel_children(self) -> None:
        """Pass the cancel on to sub-stories while this run's stop is Exeunt's business, as the run itself says."""
        if not self._passes_on():
            return
        if not self.wrote and self._reread is None:
            self._came(Result.UNREAD)
            if await self._read() is Result.NOT_FOUND:
                return
            await self._decide()
            if not self._passes_on():
                return
        self._canceled_children = await cancel_children(self._kube, self._snapshot.run)

    def _passes_on(self) -> bool:
        last = self._trail[-1]
        return last.verdict is Verdict.FINALIZE or last.rule in ("topology-up", "ended-by-exeunt")

    async def walk(self) -> None:
        """From the first state to DONE. Raises ApiError or ApiUnavailable when the stop has to be tried again."""
        do: dict[State, Callable[[], Awaitable[Result]]] = {
            State.DECIDING: self._decide,
            State.PATCHING: self._patch,
            State.READING: self._read,
            State.LISTING: self._list,
            State.DELETING: self._delete,
        }
        grown_old = datetime.now(UTC) - self._delivery.timestamp > _FRESH
        state = State.READING if self._delivery.num_delivered > 1 or grown_old else State.DECIDING
        while state is not State.DONE:
            state = TRANSITIONS[state][await do[state]()]

    async def _decide(self) -> Result:
        decision = decide(self._event.fact, self._episode, self._snapshot)
        self._trail.append(Decided(format_instant(datetime.now(UTC)), *decision, reread=self._reread))
        leftovers = decision.verdict is Verdict.ALREADY_TERMINAL and leaves_leftovers(self._episode, self._snapshot)
        if decision.verdict is not Verdict.FINALIZE and not leftovers:
            return Result.LEAVE
        if leftovers and self._reread is None:
            return self._came(Result.UNREAD)
        if self._settings.dry_run:
            return self._came(Result.DRY_RUN)
        return Result.CLEAN_UP if leftovers else Result.FINALIZE

    async def _patch(self) -> Result:
        run, now = self._snapshot.run, datetime.now(UTC)
        self._writes += 1
        try:
            await self._kube.patch(
                STORY_RUNS,
                run.namespace,
                run.name,
                finalizing_patch(run, now),
                field_manager=FIELD_MANAGER,
                subresource="status",
            )
        except NotFound:
            return self._came(Result.NOT_FOUND, Verdict.GONE, "deleted", "the StoryRun is gone")
        except Unprocessable as error:
            if not error.failed_test:
                return self._came(Result.REFUSED, Verdict.FAILED, "refused", f"the write was refused: {error}")
            if self._writes >= _MOST_WRITES:
                raise
            return self._came(Result.CONDITION_LOST)
        except Conflict:
            if self._writes >= _MOST_WRITES:
                raise
            return self._came(Result.CONDITION_LOST)
        self._written_at = now
        stop_ended(self._event, self._delivery, self._snapshot, at=datetime.now(UTC))
        known = self._snapshot.step_runs is not None
        return self._came(Result.WRITTEN if known else Result.WRITTEN_STEP_RUNS_UNKNOWN)

    def _came(self, result: Result, verdict: Verdict | None = None, rule: str = "", why: str = "") -> Result:
        """Note what came of the last decision; a verdict replaces it."""
        self._trail[-1] = replace(self._trail[-1], result=str(result))
        if verdict is not None:
            self._trail.append(Decided(format_instant(datetime.now(UTC)), verdict, rule, why))
        return result

    async def _read(self) -> Result:
        run, now = self._snapshot.run, datetime.now(UTC)
        try:
            found = await self._kube.get(STORY_RUNS, run.namespace, run.name)
        except NotFound:
            self._trail.append(Decided(format_instant(now), Verdict.GONE, "deleted", "the StoryRun is gone"))
            return Result.NOT_FOUND
        first_seen = parse_instant(run.canceled_at) if run.canceled_at else now
        state = read_run(found, first_seen=first_seen, now=now, fence_wait=self._settings.fence_wait)
        self._snapshot = self._reread = replace(self._snapshot, run=state)
        return Result.READ

    async def _list(self) -> Result:
        run = self._snapshot.run
        step_runs, bindings = await asyncio.gather(
            self._kube.list(STEP_RUNS, run.namespace, field_selector=_of(run)),
            self._kube.list(TRANSPORT_BINDINGS, run.namespace, field_selector=_of(run)),
        )
        for error in (*step_runs.undecodable, *bindings.undecodable):
            log.warning("object not usable", error=str(error))
        self._to_delete = step_runs_to_delete(run.uid, step_runs.items, bindings.items)
        return Result.LISTED

    async def _delete(self) -> Result:
        answers = await asyncio.gather(*map(self._delete_one, self._to_delete), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return Result.DELETED

    async def _delete_one(self, ref: StepRunRef) -> None:
        run = self._snapshot.run
        try:
            found = await self._kube.delete(STEP_RUNS, run.namespace, ref.name, uid=ref.uid, where=_of(run))
        except Conflict:
            return  # another StepRun of the same name: not ours to delete (contract §10)
        if found:
            self._deleted.append(ref.name)

    def outcome(self) -> Outcome:
        """What to record of this walk."""
        last = self._trail[-1]
        latency = None
        if self._written_at is not None and self._snapshot.run.canceled_at is not None:
            since = self._written_at - parse_instant(self._snapshot.run.canceled_at)
            latency = round(since / timedelta(milliseconds=1), 3)
        return Outcome(
            verdict=last.verdict,
            rule=last.rule,
            why=last.why,
            cause_id=self._event.attributes.id,
            cause_sequence=self._delivery.stream_sequence,
            trail=tuple(self._trail),
            finished_at=format_status_time(self._written_at) if self._written_at else None,
            stop_latency_ms=latency,
            deleted_step_runs=tuple(self._deleted),
            canceled_children=self._canceled_children,
        )


def _of(run: RunState) -> str:
    """The field selector of what names the run (contract §3)."""
    return f"spec.storyRunRef.name={run.name}"
