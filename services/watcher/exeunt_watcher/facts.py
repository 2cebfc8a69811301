"""What is worth saying when a run has changed from one snapshot to the next. Pure.

A fact is said when it begins to hold, once for each episode. The stream refuses what was said before, so saying too
often is harmless, and what holds can be offered again at any time (`standing`): that is the watcher's safety net.
"""

from collections.abc import Callable
from typing import Final

from exeunt.episodes import Episode
from exeunt.events import Fact
from exeunt.snapshot import Snapshot


def _stopping(snapshot: Snapshot) -> bool:
    run = snapshot.run
    return (
        run.cancel_requested
        and not (run.terminal or run.deleting or run.redriving)
        and (run.fence is not None or run.fence_overdue)
    )


def _live(snapshot: Snapshot) -> bool:
    return not snapshot.run.terminal and not snapshot.run.deleting


HOLDS: Final[dict[Fact, Callable[[Snapshot], bool]]] = {
    Fact.TOPOLOGY_ESTABLISHED: lambda s: _live(s) and s.topology.established,
    Fact.CANCEL_REQUESTED: _stopping,
    Fact.TOPOLOGY_TERMINATED: lambda s: _live(s) and s.topology.gone is not None,
    Fact.RUN_TERMINAL: lambda s: s.run.terminal,
}
"""When each fact holds for a realtime run. RUN_DELETED is the end of the snapshots themselves."""


def holds(fact: Fact, snapshot: Snapshot) -> bool:
    """Whether `fact` is true of the run and the run is Exeunt's business at all."""
    return snapshot.realtime and HOLDS[fact](snapshot)


def is_stop(snapshot: Snapshot) -> bool:
    """Whether the run is being stopped, and Exeunt is the one to end it."""
    return holds(Fact.CANCEL_REQUESTED, snapshot) and snapshot.run.enabled and snapshot.story.enabled


def facts_between(previous: Snapshot | None, current: Snapshot) -> list[Fact]:
    """The facts that begin to hold with `current`; `previous` is None for a run that was not known.

    A cancel that finds the topology gone says so itself, so the old fact "topology terminated" is not said a second
    time for the new episode; unless the run is new to us and that cancel may have been said without it.
    """
    begun = [fact for fact in HOLDS if holds(fact, current) and not _held(fact, previous, current)]
    if previous is None:
        return [fact for fact in begun if fact is not Fact.RUN_TERMINAL]
    if Fact.CANCEL_REQUESTED in begun and Fact.TOPOLOGY_TERMINATED in begun:
        begun.remove(Fact.TOPOLOGY_TERMINATED)
    return begun


def standing(snapshot: Snapshot) -> list[Fact]:
    """The facts of a stop that hold now, to be offered again while it is not over."""
    if not holds(Fact.CANCEL_REQUESTED, snapshot):
        return []
    return [fact for fact in HOLDS if holds(fact, snapshot)]


def _held(fact: Fact, previous: Snapshot | None, current: Snapshot) -> bool:
    return (
        previous is not None
        and subject_episode(fact, previous) == subject_episode(fact, current)
        and holds(fact, previous)
    )


def subject_episode(fact: Fact, snapshot: Snapshot) -> Episode:
    """The episode that `fact` is said of: a topology is established once in a life, before any fence."""
    return snapshot.run.life_episode if fact is Fact.TOPOLOGY_ESTABLISHED else snapshot.run.episode
