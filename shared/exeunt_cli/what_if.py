"""The same history under another setting: what would have ended the stop, and when. Pure; nothing is published."""

from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from exeunt.clock import format_duration, format_instant, parse_duration
from exeunt.errors import UsageError
from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Verdict
from exeunt.history.event import RunEvent
from exeunt.history.rendering import cause_in_words, milliseconds
from exeunt.history.stops import Step, Stop
from exeunt.run.shutdown_timeout import RUN_ANNOTATION, ShutdownTimeout
from exeunt.run.snapshot import Snapshot
from exeunt_cli.check import fire, first_decision
from exeunt_timeout_scheduler.commands import Publish

SHUTDOWN_TIMEOUT: Final = "shutdown-timeout"


class Otherwise(Struct, frozen=True, kw_only=True):
    """How a stop would have ended. `at_the_latest`: the history ends before, so anything could have come sooner.

    `ends_at` is None when nothing would have ended it, and `cause` says why.
    """

    run: str
    cancellation: str = field(name="episode")
    setting: str
    recorded_latency_ms: float | None
    recorded_cause: str | None
    ends_at: str | None
    latency_ms: float | None
    cause: str
    at_the_latest: bool = False


def read_setting(text: str) -> ShutdownTimeout:
    """`shutdown-timeout=5s` as if the run had it as its annotation, which is the strongest rule. Raises UsageError."""
    name, _, value = text.partition("=")
    if name != SHUTDOWN_TIMEOUT:
        raise UsageError(
            f"what if {name!r}? Only {SHUTDOWN_TIMEOUT}=DURATION can be asked, such as shutdown-timeout=5s"
        )
    try:
        duration = parse_duration(value)
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from error
    if duration < timedelta(0):
        raise UsageError(f"{text!r}: a shutdown timeout cannot be negative")
    return ShutdownTimeout(format_duration(duration), RUN_ANNOTATION)


def otherwise(stop: Stop, shutdown: ShutdownTimeout) -> Otherwise | None:
    """Decide the stop again under another shutdown timeout; None for one that nobody has asked for."""
    asked_at = stop.asked_at
    if asked_at is None:
        return None

    def ends(at: datetime | None, cause: str, *, at_the_latest: bool = False) -> Otherwise:
        return Otherwise(
            run=stop.run,
            cancellation=stop.cancellation.token,
            setting=f"{SHUTDOWN_TIMEOUT}={shutdown.timeout}",
            recorded_latency_ms=milliseconds(stop.latency) if stop.latency is not None else None,
            recorded_cause=cause_in_words(stop),
            ends_at=format_instant(at) if at else None,
            latency_ms=milliseconds(at - asked_at) if at else None,
            cause=cause,
            at_the_latest=at_the_latest,
        )

    fruitless = {step.event_type.record.sequence for step in stop.steps if step.event_type and _fruitless(step)}
    deadline = asked_at + shutdown.duration
    known: Snapshot | None = None
    for recorded in _until_the_end(stop):
        if known is not None and isinstance(fire(known, recorded.at)[1], Publish):
            break
        known = replace(recorded.snapshot, shutdown=shutdown)
        if known.run.terminal:
            return ends(recorded.at, f"{known.run.phase}: {known.run.message}")
        if recorded.event_type in STOPPING_EVENT_TYPES:
            decision = first_decision(recorded.event_type, known, recorded.at)
            if decision.verdict is Verdict.FINALIZE and recorded.record.sequence not in fruitless:
                return ends(recorded.at, decision.rule)
    if known is None or not known.run.cancel_requested:
        return ends(None, "its history does not show the cancel")
    why_not = fire(known, deadline)[0].decision
    if why_not is not None:
        return ends(None, f"{why_not.rule}: {why_not.why}")
    decision = first_decision(EventType.DEADLINE_REACHED, known, deadline)
    over = stop.ended_at is not None and stop.ended_at < deadline
    return ends(deadline, decision.rule, at_the_latest=over or stop.ended_at is None)


def _fruitless(step: Step) -> bool:
    """Whether the event did not end the run then, because its write was refused, say: it would not have otherwise."""
    ended = any(
        recorded.outcome.verdict is Verdict.FINALIZE or recorded.outcome.rule == "ended-by-exeunt"
        for recorded in step.outcomes
    )
    return bool(step.outcomes) and not ended


def _until_the_end(stop: Stop) -> list[RunEvent]:
    """The events before the end that Exeunt made: what followed from that would not have been."""
    end = stop.finalizing.record.sequence if stop.finalizing else None
    return [
        recorded
        for recorded in stop.run_events
        if recorded.event_type is not EventType.DEADLINE_REACHED
        and not recorded.snapshot.run.ended_by_exeunt
        and (end is None or recorded.record.sequence < end)
    ]
