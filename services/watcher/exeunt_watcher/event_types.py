"""What has to be published when a run has changed from one snapshot to the next. Pure.

An event is published when it begins to hold, once for each cancellation. The stream refuses what was published before,
so publishing too often is harmless, and what holds can be offered again at any time (`standing`): that is the watcher's
safety net.
"""

from collections.abc import Callable
from typing import Final

from exeunt.events.event_types import EventType, cancellation_of
from exeunt.run.snapshot import Snapshot


def _stopping(snapshot: Snapshot) -> bool:
    run = snapshot.run
    return (
        run.cancel_requested
        and not (run.terminal or run.deleting or run.redriving)
        and (run.cancel_observed_at is not None or run.observation_overdue)
    )


def _live(snapshot: Snapshot) -> bool:
    return not snapshot.run.terminal and not snapshot.run.deleting


HOLDS: Final[dict[EventType, Callable[[Snapshot], bool]]] = {
    EventType.TOPOLOGY_ESTABLISHED: lambda s: _live(s) and s.topology.established,
    EventType.CANCEL_REQUESTED: _stopping,
    EventType.TOPOLOGY_TERMINATED: lambda s: _live(s) and s.topology.gone is not None,
    EventType.RUN_TERMINAL: lambda s: s.run.terminal,
}
"""When each event holds for a realtime run. RUN_DELETED is the end of the snapshots themselves, and STEP_RUNS_LEFT is
about a run that is no more (`leaves_step_runs`).
"""


def holds(event_type: EventType, snapshot: Snapshot) -> bool:
    """Whether `event_type` is true of the run and the run is Exeunt's business at all."""
    return snapshot.realtime and HOLDS[event_type](snapshot)


def is_stop(snapshot: Snapshot) -> bool:
    """Whether the run is being stopped, and Exeunt is the one to end it."""
    return holds(EventType.CANCEL_REQUESTED, snapshot) and snapshot.run.enabled and snapshot.story.enabled


def leaves_step_runs(snapshot: Snapshot) -> bool:
    """Whether what is left of this run has to go: Exeunt has ended it, in its present cancellation."""
    run = snapshot.run
    return run.terminal and run.ended_by_exeunt and run.cancel_requested and not (run.deleting or run.redriving)


def event_types_between(previous: Snapshot | None, current: Snapshot) -> list[EventType]:
    """The events that begin to hold with `current`; `previous` is None for a run that was not known.

    A cancel that finds the topology gone says so itself, so the old event "topology terminated" is
    not published a second time for the new cancellation; unless the run is new to us and that cancel may have been
    published without it.
    """
    begun = [
        event_type for event_type in HOLDS if holds(event_type, current) and not _held(event_type, previous, current)
    ]
    if previous is None:
        return [event_type for event_type in begun if event_type is not EventType.RUN_TERMINAL]
    if EventType.CANCEL_REQUESTED in begun and EventType.TOPOLOGY_TERMINATED in begun:
        begun.remove(EventType.TOPOLOGY_TERMINATED)
    return begun


def standing(snapshot: Snapshot) -> list[EventType]:
    """The events of a stop that hold now, to be offered again while it is not over."""
    if not holds(EventType.CANCEL_REQUESTED, snapshot):
        return []
    return [event_type for event_type in HOLDS if holds(event_type, snapshot)]


def _held(event_type: EventType, previous: Snapshot | None, current: Snapshot) -> bool:
    return (
        previous is not None
        and cancellation_of(event_type, previous.run) == cancellation_of(event_type, current.run)
        and holds(event_type, previous)
    )
