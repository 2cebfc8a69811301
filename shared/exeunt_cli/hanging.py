"""What an unfinished stop hangs on, and when it is tried again. Pure: from its history alone."""

from datetime import datetime, timedelta

from exeunt.clock import format_instant
from exeunt.events.event_types import EventType
from exeunt.history.lateness import missing
from exeunt.history.refusals import attempts, next_try
from exeunt.history.stops import Ending, Stop
from exeunt_timeout_scheduler.deadlines import publish_again_at


def hangs_on(stop: Stop, now: datetime, overdue_after: timedelta) -> list[str]:
    """In words, nothing when it hangs on nothing but its time. `overdue_after` is the timeout-scheduler's setting."""
    found = missing(stop, now)
    if stop.ending is Ending.FAILED:
        found.append(_next(stop, now, overdue_after))
    return found


def _next(stop: Stop, now: datetime, overdue_after: timedelta) -> str:
    tried = f"attempt {attempts(stop)}"
    if (at := next_try(stop)) is not None:
        # Not each is recorded: the one that was told of may be long past, and others after it.
        more = "" if at > now else ", and others after that"
        return f"{tried}, the next at {format_instant(at)}{more}"
    if stop.deadline is not None and now < stop.deadline:
        return f"{tried}, the next at its deadline, {format_instant(stop.deadline)}"
    event = next(
        (run_event for run_event in reversed(stop.run_events) if run_event.event_type is EventType.DEADLINE_REACHED),
        None,
    )
    if stop.deadline is None or event is None:
        return f"{tried}, and no other is known to come"
    again = publish_again_at(stop.deadline, event.at, overdue_after)
    return f"{tried}, the next with the first sweep after {format_instant(again)}"
