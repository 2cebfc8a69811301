"""What has come of a deadline, in the log, the span and the metrics."""

from datetime import timedelta
from typing import Final

import structlog

from exeunt.clock import format_instant
from exeunt.events.event_types import EventType
from exeunt.telemetry.metrics import DEADLINE_LATENESS, DEADLINES
from exeunt.telemetry.semconv import DEADLINE, RULE, WHY
from exeunt.telemetry.tracing import Hop, latency
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.way import Result

DONE: Final = {Result.ARMED, Result.ARMED_BY_SWEEP, Result.DISARMED, Result.PUBLISHED}
"""What changes anything."""

log = structlog.get_logger()


def render(scheduling: Scheduling, hop: Hop) -> None:
    """Each step that was of any consequence, in turn."""
    snapshot, trail, decision = scheduling.snapshot, scheduling.trail, scheduling.decision
    for result in trail:
        match result:
            case Result.ARMED | Result.ARMED_BY_SWEEP if snapshot.deadline is not None:
                DEADLINES.add(result="armed")
                deadline, shutdown = format_instant(snapshot.deadline), snapshot.shutdown
                hop.event("armed", **{DEADLINE: deadline, RULE: shutdown.rule})
                log.info("armed", deadline=deadline, shutdown_timeout=shutdown.timeout, rule=shutdown.rule)
            case Result.DISARMED:
                DEADLINES.add(result="disarmed")
                hop.event("disarmed")
            case Result.CLOSED if Result.FIRED in trail and decision is not None:
                DEADLINES.add(result="dropped")
                hop.event("dropped", **{RULE: decision.rule, WHY: decision.why})
                log.info("deadline dropped", rule=decision.rule, why=decision.why)
            case Result.FAILED:
                log.warning("deadline not published yet" if Result.FIRED in trail else "deadline not looked after yet",
                            error=scheduling.failure)  # fmt: skip
            case Result.PUBLISHED:
                _tell_published(scheduling.lateness, hop, overdue=Result.OVERDUE in trail)


def _tell_published(lateness: timedelta, hop: Hop, *, overdue: bool) -> None:
    hop.event(EventType.DEADLINE_REACHED)
    log.info(EventType.DEADLINE_REACHED, lateness_ms=lateness / timedelta(milliseconds=1))
    if overdue:
        DEADLINES.add(result="overdue")
        log.warning("overdue")
        hop.failed("overdue")
        return
    DEADLINES.add(result="said")
    DEADLINE_LATENESS.record(max(0.0, lateness.total_seconds()))
    latency(lateness)
