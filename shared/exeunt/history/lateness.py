"""When a stop was due, how late it ended or is, and which service has not answered: from its history alone. Pure.

Due is as the service level has it (ADR 17): the run is canceled and its topology gone, or its shutdown deadline,
whatever comes first. `now` is when the history is looked at; without it nothing is published about a stop that goes on.
"""

from datetime import datetime, timedelta
from typing import Final

from exeunt.clock import in_words
from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Verdict
from exeunt.history.event import RunEvent
from exeunt.history.stops import Ending, Stop

PROMISED: Final = timedelta(seconds=1)
"""How much later than due a stop may end and not be called late."""
REDELIVERY: Final = timedelta(seconds=15)
"""An event that a service took and did not answer comes again after EXEUNT_ACK_WAIT (4 s); longer is no accident."""

_GOES_ON: Final = (Ending.STOPPING, Ending.FAILED)


def due(stop: Stop) -> datetime | None:
    """From when on the stop should have been over; None while nothing is due of Exeunt, as after an opt-out."""
    if stop.asked_at is None or stop.deadline is None or stop.opted_out or stop.ending is Ending.LEFT:
        return None
    gone = _gone_since(stop)
    return stop.deadline if gone is None else min(stop.deadline, max(stop.asked_at, gone))


def late_by(stop: Stop, now: datetime | None = None) -> timedelta | None:
    """How much later than due it ended, or has not ended by now; None when that is not more than was promised."""
    at = due(stop)
    ended = now if stop.ending in _GOES_ON else stop.ended_at
    if at is None or ended is None or stop.ending in (Ending.DELETED, Ending.SUPERSEDED):
        return None
    late = ended - at
    return late if late > PROMISED else None


def ending_in_words(stop: Stop, now: datetime | None = None) -> str:
    """How far it has come, and how late."""
    late = late_by(stop, now)
    return str(stop.ending) if late is None else f"{stop.ending}, late by {in_words(late)}"


def _gone_since(stop: Stop) -> datetime | None:
    """Since when the watcher saw the topology gone, as far as that lasted."""
    since: datetime | None = None
    for recorded in stop.run_events:
        if recorded.event_type is EventType.DEADLINE_REACHED or recorded.snapshot.run.terminal:
            continue  # the timeout-scheduler does not look at topologies, and an end takes them down
        since = None if recorded.snapshot.topology.gone is None else since or recorded.at
    by_deadline = stop.finalizing is not None and stop.finalizing.outcome.rule == "deadline"
    refused = any(recorded.cause is not EventType.DEADLINE_REACHED for recorded in stop.refusals)
    # The deadline ends what the terminator could have ended before only when somebody had come back.
    return None if by_deadline and not refused else since


def unanswered(stop: Stop, now: datetime) -> list[RunEvent]:
    """Events that a terminator should have answered by now. Of an event that is published again one answer may be
    recorded, and of a cancel while the topology is up none is.
    """
    answered = {event.cause for event in stop.outcomes}
    event = [
        run_event
        for run_event in stop.run_events
        if run_event.event_type in STOPPING_EVENT_TYPES
        and run_event.event_type not in answered
        and (run_event.event_type is not EventType.CANCEL_REQUESTED or run_event.snapshot.topology.gone is not None)
    ]
    return event if event and now - event[0].at > REDELIVERY else []


def missing(stop: Stop, now: datetime) -> list[str]:
    """What an unfinished stop hangs on, in words; nothing when all is answered that was said."""
    if stop.ending not in _GOES_ON:
        return []
    found = []
    if event_types := unanswered(stop, now):
        count = f"{len(event_types)} events" if len(event_types) > 1 else f"the event {event_types[0].event_type}"
        found.append(f"the terminator has not answered {count}: is it running?")
    recorded = any(event.event_type is EventType.DEADLINE_REACHED for event in stop.run_events)
    left = stop.opted_out or any(recorded.outcome.verdict is Verdict.LEAVE for recorded in stop.outcomes[-1:])
    if stop.deadline is not None and not recorded and not left and now - stop.deadline > REDELIVERY:
        found.append("its deadline was not published: is the timeout-scheduler running?")
    return found
