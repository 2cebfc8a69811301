"""What is measured when a run has ended by our write."""

from datetime import datetime, timedelta

from exeunt.bus.delivery import Delivery
from exeunt.clock import parse_instant
from exeunt.events.codec import ReceivedEvent
from exeunt.events.event_types import EventType
from exeunt.run.snapshot import Snapshot
from exeunt.telemetry.metrics import CAUSES, DRAIN_SAVED, STOP_DURATION, STOP_LATENCY
from exeunt.telemetry.tracing import latency


def stop_ended(event: ReceivedEvent, delivery: Delivery, snapshot: Snapshot, *, at: datetime) -> None:
    """Measure the stop of a run that was finalized on `event`, as the answer to the write came at `at`."""
    cause = CAUSES[event.event_type]
    since_cause = max(timedelta(0), at - (_since(event, snapshot) or delivery.timestamp))
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
