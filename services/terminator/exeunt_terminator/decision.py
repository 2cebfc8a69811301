"""What to do about one run, decided from one snapshot. Pure: no clock, no I/O.

The rules stand in one table, in the order in which they are asked; the first that applies decides. `docs/stop.md` is
generated from it.
"""

from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Verdict
from exeunt.rules.closed import CLOSED, Case, Decision, Rule, first_that_applies
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import Snapshot

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
