"""What to do about one run, decided from one snapshot, and whether the evidence in it still holds. Pure.

The rules stand in one table, in the order in which they are asked; the first that applies decides. `docs/stop.md` is
generated from it.

The evidence is looked at once more before the write (ADR 23): bindings, StepRuns and the run come from watches of
unequal age, and signals from a stream, so what was true when an event was published need not be so when it is acted on.
Stale heartbeats are not looked at again: the silence is longer than a lag.
"""

from collections.abc import Iterable

from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Verdict
from exeunt.events.signals import Signal, newest
from exeunt.rules.closed import CLOSED, Case, Decision, Rule, first_that_applies
from exeunt.rules.hub import topology_terminated
from exeunt.rules.step_runs import is_finished, is_live_binding, undeleted
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation
from exeunt.run.models import StepRun, TransportBinding
from exeunt.run.snapshot import EvidenceKind, RunState, Snapshot, Topology

RULES = (
    *CLOSED,
    Rule(
        "topology-gone",
        lambda case: case.snapshot.topology.gone is not None and case.event_type in STOPPING_EVENT_TYPES,
        Verdict.FINALIZE,
        "the run is canceled and its topology is gone",
    ),
    Rule(
        "deadline",
        lambda case: case.event_type is EventType.DEADLINE_REACHED,
        Verdict.FINALIZE,
        "the run is canceled and its shutdown deadline has passed",
    ),
)

TOPOLOGY_UP = Decision(
    Verdict.WAIT, "topology-up", "the topology is still up; it will end, or the shutdown deadline will come"
)


def decide(event_type: EventType, cancellation: Cancellation, snapshot: Snapshot) -> Decision:
    """Decide by the first rule that applies; where none does, the run's topology is still up."""
    return first_that_applies(RULES, Case(event_type, cancellation, snapshot)) or TOPOLOGY_UP


def leaves_leftovers(cancellation: Cancellation, snapshot: Snapshot) -> bool:
    """Whether the run was finalized in this very cancellation, so that StepRuns which are left of it have to go.

    The status is written before the StepRuns are deleted; a crash in between must not leave a runtime behind, and the
    hub may have created a StepRun late (contract §2.6 step 3, §9.8).
    """
    run = snapshot.run
    return (
        run.phase == bobrapet.FINISHED
        and run.message == bobrapet.CANCELED_MESSAGE
        and run.cancel_requested
        and run.cancellation == cancellation
        and snapshot.realtime
        and run.enabled
        and snapshot.story.enabled
    )


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


def still_reported_by_the_hub(run: RunState) -> bool:
    """Whether the conditions, as the write tests them, still have the hub's word."""
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
