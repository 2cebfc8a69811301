"""Stops in words and figures: what the CLI shows as tables and hands out as JSON. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct, field

from exeunt.clock import format_instant
from exeunt.events.event_types import DRY_RUN, Decided, EventType, Outcome, Verdict
from exeunt.history.event import Event, OutcomeEvent, RunEvent
from exeunt.history.lateness import due, late_by, missing
from exeunt.history.refusals import attempt_in_words, refused
from exeunt.history.stops import Ending, Stop, cause_of
from exeunt.run import bobrapet
from exeunt.run.snapshot import Snapshot

WITHOUT_BUS: Final = "without the bus"
"""Said of a decision that was made while JetStream was away (ADR 25)."""


class RenderedEvent(Struct, frozen=True, kw_only=True):
    """One event. `elapsed_ms` is counted from the cancel; before it, it is negative."""

    sequence: int
    run: str
    at: str
    elapsed_ms: float
    service: str
    kind: Literal["fact", "outcome"]
    what: str
    why: str
    cancellation: str = field(name="episode")
    cause_sequence: int | None = None


class RenderedStop(Struct, frozen=True, kw_only=True):
    """One stop. Times are RFC 3339, durations milliseconds; null is what its history does not show.

    `waited_less_ms` is how much earlier than its shutdown deadline it ended, `drain_ms` what bobrapet alone would have
    waited for, as far as its Story says. `late_by_ms` counts from `due_at`, until the end or until it was rendered, and
    is null when that is within what is promised (1 s). `missing` is what an unfinished stop hangs on.
    """

    namespace: str
    name: str
    uid: str
    cancellation: str = field(name="episode")
    ending: Ending
    cause: str | None
    asked_at: str | None
    ended_at: str | None
    latency_ms: float | None
    shutdown_timeout: str | None
    shutdown_rule: str | None
    deadline: str | None
    waited_less_ms: float | None
    due_at: str | None
    late_by_ms: float | None
    missing: list[str]
    drain_ms: float | None
    trace_id: str | None
    events: list[RenderedEvent]


def render(stop: Stop, now: datetime | None = None) -> RenderedStop:
    """The stop with its events, decisions under their causes. Without `now` one that goes on is not judged."""
    cancellation, canceled, deadline = stop.cancellation, stop.canceled, stop.deadline
    due_at, late = due(stop), late_by(stop, now)
    spared = deadline - stop.ended_at if deadline and stop.ended_at else None
    return RenderedStop(
        namespace=cancellation.namespace,
        name=cancellation.name,
        uid=cancellation.uid,
        cancellation=cancellation.token,
        ending=stop.ending,
        cause=cause_in_words(stop),
        asked_at=format_instant(stop.asked_at) if stop.asked_at else None,
        ended_at=format_instant(stop.ended_at) if stop.ended_at else None,
        latency_ms=milliseconds(stop.latency) if stop.latency is not None else None,
        shutdown_timeout=canceled.shutdown.timeout if canceled else None,
        shutdown_rule=canceled.shutdown.rule if canceled else None,
        deadline=format_instant(deadline) if deadline else None,
        waited_less_ms=milliseconds(spared) if spared is not None and spared > timedelta(0) else None,
        due_at=format_instant(due_at) if due_at is not None else None,
        late_by_ms=milliseconds(late) if late is not None else None,
        missing=missing(stop, now) if now is not None else [],
        drain_ms=milliseconds(stop.drain) if stop.drain is not None else None,
        trace_id=stop.trace_id,
        events=[rendered for step in stop.steps for rendered in _rendered(stop, step.event_type, step.outcomes)],
    )


def render_by_time(stop: Stop) -> list[RenderedEvent]:
    """The events of a stop in order of time."""
    return [
        render_event(stop, event, cause=cause.record.sequence if cause else None)
        for event in stop.by_time
        for cause in [cause_of(event, stop.run_events) if isinstance(event, OutcomeEvent) else None]
    ]


def _rendered(stop: Stop, event: RunEvent | None, outcomes: tuple[OutcomeEvent, ...]) -> list[RenderedEvent]:
    cause = event.record.sequence if event else None
    run_events = [render_event(stop, event)] if event else []
    return run_events + [render_event(stop, outcome, cause=cause) for outcome in outcomes]


def render_event(stop: Stop, event: Event, *, cause: int | None = None) -> RenderedEvent:
    """One event of the stop."""
    outcome = isinstance(event, OutcomeEvent)
    return RenderedEvent(
        sequence=event.record.sequence,
        run=f"{event.cancellation.namespace}/{event.cancellation.name}",
        at=format_instant(event.at),
        elapsed_ms=milliseconds(event.at - stop.started_at),
        service=event.service,
        kind="outcome" if outcome else "fact",
        what=what(event),
        why=why(event),
        cancellation=event.cancellation.token,
        cause_sequence=event.outcome.cause_sequence if cause is None and isinstance(event, OutcomeEvent) else cause,
    )


def cause_in_words(stop: Stop) -> str | None:
    """What ended the stop, or holds it up: the rule, and the evidence or the timeout behind it."""
    if stop.finalizing is not None:
        return _ended_by(stop.finalizing, stop.cause)
    if stop.ending in (Ending.RUNNING, Ending.DELETED):
        return None
    if stop.ending is Ending.FINALIZED:
        steps = (step for event in stop.outcomes if not event.outcome.dry_run for step in event.outcome.trail)
        tried = next((step.rule for step in steps if step.verdict is Verdict.FINALIZE), None)
        return f"{tried}, as far as was recorded" if tried else "its decision was not recorded"
    if stop.refusals and stop.ending in (Ending.ENDED_ELSEWHERE, Ending.FAILED):
        return refused(stop.refusals[-1].outcome)  # ours, not what whoever ended it in our place says of it
    if stop.ending is Ending.ENDED_ELSEWHERE and stop.opted_out:
        return "opted-out"
    if stop.ending is Ending.ENDED_ELSEWHERE:
        terminal = next(
            (event.snapshot.run for event in reversed(stop.run_events) if event.snapshot.run.terminal), None
        )
        return f"{terminal.phase}: {terminal.message}" if terminal else None
    if stop.outcomes:
        return f"{stop.outcomes[-1].outcome.rule}{_dry(stop.outcomes[-1])}"
    return "topology-up" if stop.canceled is not None and stop.canceled.topology.gone is None else None


def _ended_by(recorded: OutcomeEvent, cause: RunEvent | None) -> str:
    rule, snapshot = recorded.outcome.rule, _decided_from(recorded, cause)
    alone = f", {WITHOUT_BUS}" if recorded.outcome.without_bus else ""
    if rule == "topology-gone" and snapshot is not None and snapshot.topology.gone is not None:
        return f"{rule} ({snapshot.topology.gone.kind}{alone})"
    if rule == "deadline" and snapshot is not None:
        return f"{rule} ({snapshot.shutdown.timeout}, {snapshot.shutdown.rule}{alone})"
    return f"{rule}{alone}"


def what(event: Event) -> str:
    """The event, or the verdict."""
    return str(event.event_type) if isinstance(event, RunEvent) else f"{event.outcome.verdict}{_dry(event)}"


def _dry(recorded: OutcomeEvent) -> str:
    return f" ({DRY_RUN})" if recorded.outcome.dry_run else ""


def why(event: Event) -> str:
    """What the event was read from, or why it was decided so."""
    return (
        _event_in_words(event.event_type, event.snapshot) if isinstance(event, RunEvent) else _outcome_in_words(event)
    )


def _event_in_words(event_type: EventType, snapshot: Snapshot) -> str:
    run, shutdown, gone = snapshot.run, snapshot.shutdown, snapshot.topology.gone
    opted_out = "" if run.enabled and snapshot.story.enabled else f'; {bobrapet.ENABLED}: "false" by now'
    match event_type:
        case EventType.CANCEL_REQUESTED:
            rejected = "".join(f"; {r.value!r} of the {r.rule} is not usable" for r in shutdown.rejected)
            rejected += "".join(
                f"; {bobrapet.ENABLED}: {published!r} of the {kind} is neither yes nor no"
                for kind, published in (("StoryRun", run.enabled_unclear), ("Story", snapshot.story.enabled_unclear))
                if published is not None
            )
            unobserved = "" if run.cancel_observed_at else "; bobrapet has not observed the cancel"
            topology = f"gone ({gone.kind})" if gone else "up"
            return f"topology {topology}, shutdown timeout {shutdown.timeout} ({shutdown.rule}){rejected}{unobserved}"
        case EventType.TOPOLOGY_ESTABLISHED:
            return "a live TransportBinding was seen"
        case EventType.TOPOLOGY_TERMINATED:
            return f"{gone}{opted_out}" if gone else ""
        case EventType.DEADLINE_REACHED:
            return f"{shutdown.timeout} ({shutdown.rule}) after the cancel the run was unfinished"
        case EventType.RUN_TERMINAL:
            return f"{run.phase}: {run.message}, {'by Exeunt' if run.ended_by_exeunt else 'not by Exeunt'}{opted_out}"
        case EventType.RUN_DELETED:
            return "the StoryRun is gone"
        case EventType.STEP_RUNS_LEFT:
            names = ", ".join(ref.name for ref in snapshot.step_runs or ())
            return f"StepRuns are left of the run that has ended: {names or 'too many to name'}"


def _outcome_in_words(recorded: OutcomeEvent) -> str:
    outcome = recorded.outcome
    detours = [detour(step) for step in outcome.trail[:-1] if step.rule != outcome.rule or step.result]
    deleted = [f"deleted {deleted_step_runs(outcome)}"] if outcome.deleted_step_runs else []
    children = [f"canceled {canceled_children(outcome)}"] if outcome.canceled_children else []
    tries = [attempt_in_words(outcome)] if outcome.verdict is Verdict.FAILED else []
    alone = [WITHOUT_BUS] if outcome.without_bus else []
    return "; ".join([*detours, f"{outcome.rule}: {outcome.why}", *alone, *tries, *deleted, *children])


def deleted_step_runs(outcome: Outcome) -> str:
    return _listed(outcome.deleted_step_runs, outcome.more_deleted_step_runs)


def canceled_children(outcome: Outcome) -> str:
    return _listed(outcome.canceled_children, outcome.more_canceled_children)


def _listed(names: Iterable[str], more: int) -> str:
    return ", ".join(names) + (f" and {more} more" if more else "")


def detour(step: Decided) -> str:
    """A decision that did not last, such as a write that lost its condition."""
    result = f", {step.result}" if step.result else ""
    return f"{step.verdict} by {step.rule}{result}"


def _decided_from(recorded: OutcomeEvent, cause: RunEvent | None) -> Snapshot | None:
    """The snapshot behind an outcome's last decision from one."""
    rereads = (step.reread for step in reversed(recorded.outcome.trail) if step.reread is not None)
    return next(rereads, cause.snapshot if cause else None)


def milliseconds(duration: timedelta) -> float:
    return round(duration / timedelta(milliseconds=1), 3)


def finalized_by(stop: Stop) -> str:
    """Who wrote the end, as far as the history tells."""
    if stop.ending is Ending.FINALIZED:
        return "by Exeunt"
    return "not by Exeunt" if stop.ending is Ending.ENDED_ELSEWHERE else ""
