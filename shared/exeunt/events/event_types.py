"""What is published: events about runs, and the outcomes of decisions about them. Pure.

The payload of an event is the `Snapshot` it was read from. The payload of an outcome is an `Outcome`, which carries
every step of the decision, so that a history can be decided again. Both travel as CloudEvents (`cloudevents`).
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import RunState, Snapshot


class EventType(StrEnum):
    """What can become true of a run. Each is published once for each cancellation."""

    CANCEL_REQUESTED = "cancel-requested"
    """`spec.cancelRequested` is true and bobrapet has observed the cancel (or has not, for too long)."""
    TOPOLOGY_ESTABLISHED = "topology-established"
    """A live TransportBinding of the run was seen; the memory against which "gone" is judged."""
    TOPOLOGY_TERMINATED = "topology-terminated"
    """All streaming connections are gone, on the evidence that the snapshot carries."""
    RUN_TERMINAL = "run-terminal"
    """The run is in a terminal phase, whoever wrote it."""
    RUN_DELETED = "run-deleted"
    """The StoryRun object is gone."""
    DEADLINE_REACHED = "deadline-reached"
    """cancel_observed_at + shutdown timeout has passed and the run was still unfinished when looked at again."""
    STEP_RUNS_LEFT = "step-runs-left"
    """Exeunt has ended the run, and StepRuns of it live on, or have come since."""


STOPPING_EVENT_TYPES: Final = (EventType.CANCEL_REQUESTED, EventType.TOPOLOGY_TERMINATED, EventType.DEADLINE_REACHED)
"""Events on which a run may be finalized."""

ANSWERED_EVENT_TYPES: Final = (*STOPPING_EVENT_TYPES, EventType.STEP_RUNS_LEFT)
"""What the terminator hears and answers."""


def cancellation_of(event_type: EventType, run: RunState) -> Cancellation:
    """The cancellation that `event_type` is published for: a topology is established once in an attempt, before
    bobrapet has observed a cancel.
    """
    return run.attempt_key if event_type is EventType.TOPOLOGY_ESTABLISHED else run.cancellation


class Verdict(StrEnum):
    """What was decided about a run."""

    FINALIZE = "finalize"
    WAIT = "wait"
    LEAVE = "leave"
    ALREADY_TERMINAL = "already-terminal"
    GONE = "gone"
    SUPERSEDED = "superseded"
    FAILED = "failed"


DRY_RUN: Final = "dry run"
"""What came of a decision that was to be recorded only (EXEUNT_DRY_RUN)."""


MOST_NAMES: Final = 500
"""Names in one list of an outcome: with longer ones it might not fit into a message."""


class Decided(Struct, frozen=True, omit_defaults=True):
    """One step of a decision: what was decided when, by which rule, from what, and what came of it."""

    at: str
    verdict: Verdict
    rule: str
    why: str
    result: str = ""
    reread: Snapshot | None = None
    """The snapshot that was decided from, when it is not the event's own. Only the event's own has StepRuns."""


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the terminator answered one event: the steps of its decision, the last of which is the answer."""

    cause_sequence: int
    trail: tuple[Decided, ...]
    """There is at least one."""
    finished_at: str | None = None
    stop_latency_ms: float | None = None
    """From the cancel (cancel_observed_at, where there is one) to the finalizing write."""
    deleted_step_runs: tuple[str, ...] = ()
    more_deleted_step_runs: int = 0
    """How many more than those were deleted, beyond MOST_NAMES."""
    canceled_children: tuple[str, ...] = ()
    """Sub-stories that were asked to cancel, when that is switched on."""
    more_canceled_children: int = 0
    attempt: int = 1
    """Which delivery of its event this answers. A write that is refused again and again is recorded ever more
    rarely.
    """
    next_at: str | None = None
    """When the event is tried again (RFC 3339), after a refusal that may pass; None when this answer is the last."""

    without_bus: bool = False
    """Whether JetStream was away: decided from what the terminator watched itself, and recorded later (ADR 25)."""

    @property
    def verdict(self) -> Verdict:
        return self.trail[-1].verdict

    @property
    def rule(self) -> str:
        return self.trail[-1].rule

    @property
    def why(self) -> str:
        return self.trail[-1].why

    @property
    def dry_run(self) -> bool:
        """Whether nothing was written, because it was to be recorded only."""
        return any(step.result == DRY_RUN for step in self.trail)
