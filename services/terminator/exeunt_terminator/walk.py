"""One fact's walk through the table of `stop`: at most one finalizing write, its deletes, and what to record of it all.

`decision`, `evidence` and `finalize` do the thinking; `terminator` starts a walk for each delivery and records its
outcome. On the fast path nothing is read of Kubernetes but what has to be seen anew: bindings or StepRuns, where the
evidence is that there are none.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from msgspec.structs import replace

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Delivery
from exeunt.clock import format_instant, format_status_time, parse_instant
from exeunt.codec import FactEvent
from exeunt.errors import ExeuntError
from exeunt.events import MOST_NAMES, Decided, Fact, Outcome, Verdict
from exeunt.kube.client import KubeClient, Listing
from exeunt.kube.errors import ApiError, Conflict, Forbidden, NotFound, Unprocessable
from exeunt.kube.resources import STEP_RUNS, STORY_RUNS, TRANSPORT_BINDINGS, Resource, T
from exeunt.recall import last_signals
from exeunt.settings import Settings
from exeunt.snapshot import FIELD_MANAGER, EvidenceKind, RunState, Snapshot, StepRunRef, read_run
from exeunt.step_runs import step_runs_to_delete
from exeunt_terminator.decision import decide, leaves_leftovers
from exeunt_terminator.evidence import (
    possible_evidence,
    still_no_bindings,
    still_no_step_runs,
    still_said_by_the_hub,
    still_signaled,
)
from exeunt_terminator.finalize import finalizing_patch
from exeunt_terminator.measures import stop_ended
from exeunt_terminator.stop import TRANSITIONS, Result, State
from exeunt_terminator.sub_stories import cancel_children

_FRESH: Final = timedelta(minutes=1)
"""An older fact is not acted on before the run is read again: its conditional write would only be refused."""
_MOST_WRITES: Final = 5
"""Lost conditions in a row after which the fact goes back to the stream for a while."""
_LONGEST_WHY: Final = 1024
"""Characters: a refusal may quote what it refuses."""

log = structlog.get_logger()


class NoLongerGone(ExeuntError):
    """The topology was gone when the fact was said, and is up again."""


class Walk:
    """One walk, with what is known on the way."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings, event: FactEvent, delivery: Delivery) -> None:
        self._kube = kube
        self._bus = bus
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
        self._unanswered: datetime | None = None
        """The time in a write that may have been done, although its last answer was that it was not."""
        self._written_at: datetime | None = None

    @property
    def wrote(self) -> bool:
        """Whether the finalizing write was this walk's."""
        return self._written_at is not None

    @property
    def may_pass(self) -> bool:
        """Whether the write was refused in a way that the next try may not be: a right can be granted."""
        return any(step.result == Result.FORBIDDEN for step in self._trail[-2:])

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

    async def to_its_end(self) -> None:
        """From the first state to DONE.

        Raises ApiError, ApiUnavailable, BusUnavailable or NoLongerGone when the stop has to be tried again.
        """
        do: dict[State, Callable[[], Awaitable[Result]]] = {
            State.DECIDING: self._decide,
            State.CHECKING: self._check,
            State.PATCHING: self._patch,
            State.READING: self._read,
            State.LISTING: self._list,
            State.CONFIRMING: self._confirm,
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
        if leftovers:
            return Result.CLEAN_UP
        return Result.FINALIZE_AT_DEADLINE if self._event.fact is Fact.DEADLINE_REACHED else Result.FINALIZE

    async def _check(self) -> Result:
        for kind in possible_evidence(self._snapshot.topology):
            if await self._still_holds(kind):
                return Result.STILL_GONE
        raise NoLongerGone(f"{self._event.fact} was said, but the topology is up again")

    async def _still_holds(self, kind: EvidenceKind) -> bool:
        run = self._snapshot.run
        match kind:
            case "hub-condition":
                return still_said_by_the_hub(run)
            case "bindings-gone":
                return still_no_bindings(run, (await self._list_of(TRANSPORT_BINDINGS)).items)
            case "step-runs-done":
                return still_no_step_runs(run, (await self._list_of(STEP_RUNS)).items)
            case "signal":
                said = await last_signals(self._bus, run.namespace, run.name, run.trigger_token)
                return still_signaled(run, said)
        return True

    async def _list_of(self, resource: Resource[T]) -> Listing[T]:
        run = self._snapshot.run
        found = await self._kube.list(resource, run.namespace, field_selector=_of(run))
        for error in found.undecodable:
            log.warning("object not usable", error=str(error))
        return found

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
                return self._refused(Result.REFUSED, error)
            return self._lost(error, now)
        except Forbidden as error:
            return self._refused(Result.FORBIDDEN, error)
        except Conflict as error:
            return self._lost(error, now)
        self._ended(now)
        known = self._snapshot.step_runs is not None
        return self._came(Result.WRITTEN if known else Result.WRITTEN_STEP_RUNS_UNKNOWN)

    def _refused(self, result: Result, error: ApiError) -> Result:
        return self._came(result, Verdict.FAILED, "refused", f"the write was refused: {error}"[:_LONGEST_WHY])

    def _lost(self, error: ApiError, now: datetime) -> Result:
        if self._writes >= _MOST_WRITES:
            raise error
        if error.perhaps_done:
            self._unanswered = now
        return self._came(Result.CONDITION_LOST)

    def _ended(self, at: datetime) -> None:
        """The run has ended by this walk's write of `at`."""
        self._written_at = at
        stop_ended(self._event, self._delivery, self._snapshot, at=datetime.now(UTC))

    def _came(self, result: Result, verdict: Verdict | None = None, rule: str = "", why: str = "") -> Result:
        """Note what came of the last decision; a verdict replaces it."""
        self._trail[-1] = replace(self._trail[-1], result=str(result))
        if verdict is not None:
            self._trail.append(Decided(format_instant(datetime.now(UTC)), verdict, rule, why))
        return result

    async def _read(self) -> Result:
        try:
            state = await self._run_now()
        except NotFound:
            now = format_instant(datetime.now(UTC))
            self._trail.append(Decided(now, Verdict.GONE, "deleted", "the StoryRun is gone"))
            return Result.NOT_FOUND
        self._snapshot = replace(self._snapshot, run=state)
        self._reread = replace(self._snapshot, step_runs=None)
        # Told from another terminator's by the time that it wrote.
        if self._unanswered and state.ended_by_exeunt and state.finished_at == format_status_time(self._unanswered):
            self._ended(self._unanswered)
            return self._came(Result.ANSWER_LOST)
        return Result.READ

    async def _run_now(self) -> RunState:
        run, now = self._snapshot.run, datetime.now(UTC)
        found = await self._kube.get(STORY_RUNS, run.namespace, run.name)
        first_seen = parse_instant(run.canceled_at) if run.canceled_at else now
        return read_run(found, first_seen=first_seen, now=now, fence_wait=self._settings.fence_wait)

    async def _list(self) -> Result:
        step_runs, bindings = await asyncio.gather(self._list_of(STEP_RUNS), self._list_of(TRANSPORT_BINDINGS))
        self._to_delete = step_runs_to_delete(self._snapshot.run.uid, step_runs.items, bindings.items)
        return Result.LISTED if self._to_delete else Result.NOTHING_LEFT

    async def _confirm(self) -> Result:
        try:
            run = await self._run_now()
        except NotFound:
            return Result.ENDED_NO_MORE
        still = leaves_leftovers(self._episode, replace(self._snapshot, run=run))
        return Result.STILL_ENDED if still else Result.ENDED_NO_MORE

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
            deleted_step_runs=tuple(self._deleted[:MOST_NAMES]),
            more_deleted_step_runs=max(0, len(self._deleted) - MOST_NAMES),
            canceled_children=self._canceled_children[:MOST_NAMES],
            more_canceled_children=max(0, len(self._canceled_children) - MOST_NAMES),
            attempt=self._delivery.num_delivered,
        )


def _of(run: RunState) -> str:
    """The field selector of what names the run (contract §3)."""
    return f"spec.storyRunRef.name={run.name}"
