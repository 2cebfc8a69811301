"""Does the evidence still hold? Looked at once more before the write (ADR 23). Pure.

Bindings, StepRuns and the run come from watches of unequal age, and signals from a stream: what was true when an event
was published need not be so when it is acted on. Stale heartbeats are not looked at again: the silence is longer than a
lag.
"""

from collections.abc import Iterable

from exeunt.events.signals import Signal, newest
from exeunt.rules.hub import topology_terminated
from exeunt.rules.step_runs import is_finished, is_live_binding, undeleted
from exeunt.run.models import StepRun, TransportBinding
from exeunt.run.snapshot import EvidenceKind, RunState, Topology


def still_reported_by_the_hub(run: RunState) -> bool:
    """Whether the conditions, as they are in the write's own test, still have the hub's word."""
    return topology_terminated(run) is not None


def still_no_bindings(run: RunState, bindings: Iterable[TransportBinding]) -> bool:
    """`bindings` are those that name the run."""
    return not any(is_live_binding(binding, run.uid) for binding in bindings)


def still_no_step_runs(run: RunState, step_runs: Iterable[StepRun]) -> bool:
    """`step_runs` are those that name the run."""
    return all(map(is_finished, undeleted(step_runs, run.uid)))


def still_signaled(run: RunState, signals: Iterable[Signal], *, before: bool) -> bool:
    """`signals` are the last ones that name the run; `before` says whether the event stands on one. Then the stream may
    have none left: nobody took it back.
    """
    signal = newest(signals, run)
    return before if signal is None else signal.gone


def possible_evidence(topology: Topology) -> list[EvidenceKind]:
    """What may show that the topology is gone: first what the event stands on; if that is no more, what else can."""
    if topology.gone is None:
        return []
    others: list[EvidenceKind] = ["hub-condition", "signal"]
    if topology.established:
        others.append("bindings-gone")
    if topology.step_runs_seen:
        others.append("step-runs-done")
    return [topology.gone.kind, *(kind for kind in others if kind != topology.gone.kind)]
