"""Is the topology of a run gone? Judged by evidence, the strongest first. Pure.

The ranking and its traps are the contract's (§3.5): an empty list is no evidence before something was seen, the hub's
condition counts by its reason and only for this attempt, and a binding of another run (uid!) says nothing.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct

from exeunt.clock import format_duration, readable_instant
from exeunt.rules.hub import topology_terminated
from exeunt.run.snapshot import Evidence, RunState, StepRunRef, Topology


class LiveBinding(Struct, frozen=True, gc=False):
    """A TransportBinding that is not being deleted: the StepRun that owns it, and its last heartbeat (RFC 3339).

    The connector rewrites the Ready condition's lastTransitionTime at every heartbeat (contract §3.2).
    """

    step_run: StepRunRef | None
    heartbeat: str | None


class Situation(NamedTuple):
    """What is known of a run at one moment."""

    run: RunState
    before: Topology
    bindings: Collection[LiveBinding]
    live_step_runs: int
    now: datetime
    heartbeats_stale_after: timedelta | None
    signal: Evidence | None = None


def _hub_condition(seen: Situation) -> Evidence | None:
    """The hub has set the run's condition Degraded with reason TopologyTerminated, in this attempt."""
    message = topology_terminated(seen.run)
    return None if message is None else Evidence("hub-condition", 1, message)


def _bindings_gone(seen: Situation) -> Evidence | None:
    """No live TransportBinding of the run is left, after at least one was seen."""
    if seen.bindings or not seen.before.established:
        return None
    return Evidence("bindings-gone", 2)


def _step_runs_done(seen: Situation) -> Evidence | None:
    """The run is canceled and no live StepRun is left, after at least one was seen."""
    # Before a cancel the next step's StepRun may merely not exist yet.
    if seen.live_step_runs or not seen.before.step_runs_seen or not seen.run.cancel_requested:
        return None
    return Evidence("step-runs-done", 3)


def stale_at(bindings: Collection[LiveBinding], stale_after: timedelta) -> datetime | None:
    """From when on they have been silent for too long, if no other heartbeat comes; None where that cannot be told."""
    heartbeats = [readable_instant(binding.heartbeat) for binding in bindings]
    readable = [heartbeat for heartbeat in heartbeats if heartbeat is not None]
    return max(readable) + stale_after if readable and len(readable) == len(heartbeats) else None


def _heartbeats_stale(seen: Situation) -> Evidence | None:
    """Every TransportBinding has been silent for longer than EXEUNT_HEARTBEAT_STALE_AFTER (off by default)."""
    if seen.heartbeats_stale_after is None:
        return None
    stale = stale_at(seen.bindings, seen.heartbeats_stale_after)
    if stale is None or seen.now < stale:
        return None
    silence = format_duration(seen.heartbeats_stale_after)
    return Evidence("heartbeats-stale", 5, f"every TransportBinding has been silent for more than {silence}")


def _signal(seen: Situation) -> Evidence | None:
    """The newest word of somebody who may publish on `exeunt.signals.>` (docs/signals.md), about this attempt."""
    return seen.signal


EVIDENCE = (_hub_condition, _bindings_gone, _step_runs_done, _heartbeats_stale, _signal)
"""From the strongest to the weakest. Rank 4, pods, is not looked at: they outlive their topology (contract §3.3)."""


def judge(seen: Situation) -> Topology:
    """The topology as it is now. What was established before is remembered, but never evidence by itself."""
    evidence = (found for look in EVIDENCE if (found := look(seen)))
    return Topology(
        established=seen.before.established or bool(seen.bindings),
        step_runs_seen=seen.before.step_runs_seen or seen.live_step_runs > 0,
        gone=next(evidence, None),
    )
