"""What is told of a stop, in the log, the span and the metrics."""

from datetime import datetime, timedelta

import structlog

from exeunt.clock import parse_instant
from exeunt.errors import ExeuntError
from exeunt.events.codec import ReceivedEvent
from exeunt.events.event_types import EventType, Outcome
from exeunt.run.snapshot import Snapshot
from exeunt.telemetry.metrics import CAUSES, DRAIN_SAVED, STOP_DURATION, STOP_LATENCY
from exeunt.telemetry.tracing import Hop, latency
from exeunt_terminator.commands import DeadLetter, End, GiveBack
from exeunt_terminator.machine import Stopping

log = structlog.get_logger()


def report(
    event: ReceivedEvent, stopping: Stopping, end: End, hop: Hop, *, error: ExeuntError | None, **also: object
) -> Outcome | None:
    """What came of a delivery; `error` is the last one, and `also` stands in the log. Returns the outcome if that is
    news.
    """
    if stopping.failure is not None:
        failed = {"error": stopping.failure, "next_at": stopping.next_at}
        log.warning("stop not done yet", event_type=event.event_type, **failed)
        hop.failed(error or stopping.failure)
    if isinstance(end, GiveBack) and end.not_yet:
        log.info("stop not due yet", event_type=event.event_type, why=end.why)
        hop.drop()
    if isinstance(end, GiveBack) and not stopping.recorded:
        return None
    outcome = stopping.outcome()
    hop.decided(outcome.trail)
    log.info(outcome.verdict, event_type=event.event_type, rule=outcome.rule, why=outcome.why,
             stop_latency_ms=outcome.stop_latency_ms, step_runs=outcome.deleted_step_runs, **also)  # fmt: skip
    if isinstance(end, DeadLetter):
        hop.failed(outcome.rule)
    return outcome if stopping.recorded else None


def stop_ended(event: ReceivedEvent, stored_at: datetime, snapshot: Snapshot, *, at: datetime) -> None:
    """Measure the stop of a run that was finalized on `event`, as the answer to the write came at `at`."""
    cause = CAUSES[event.event_type]
    since_cause = max(timedelta(0), at - (_since(event, snapshot) or stored_at))
    STOP_LATENCY.record(since_cause.total_seconds(), cause=cause)
    latency(since_cause)
    if snapshot.run.canceled_at is None:
        return
    canceled_at = parse_instant(snapshot.run.canceled_at)
    STOP_DURATION.record(max(0.0, (at - canceled_at).total_seconds()), cause=cause)
    if snapshot.story.drain is not None:
        drained_at = canceled_at + timedelta(seconds=snapshot.story.drain)
        DRAIN_SAVED.add(max(0.0, (drained_at - at).total_seconds()))


def _since(event: ReceivedEvent, snapshot: Snapshot) -> datetime | None:
    """When the run had to end; None where nobody has reported it."""
    if event.event_type is EventType.DEADLINE_REACHED:
        return snapshot.deadline
    if event.event_type is EventType.CANCEL_REQUESTED:
        return parse_instant(snapshot.run.canceled_at) if snapshot.run.canceled_at else None
    try:
        return parse_instant(event.attributes.time)  # when the watcher saw it, however long the way here took
    except ValueError:
        return None
