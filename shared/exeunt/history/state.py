"""What was known of a run at each event of its history, as a fold. Pure."""

from msgspec import Struct, field, structs

from exeunt.clock import format_instant
from exeunt.events.event_types import EventType
from exeunt.history.event import Event, RunEvent


class KnownState(Struct, frozen=True, kw_only=True):
    """Known of one run after an event; the initial values are what is known of a run that was never heard of."""

    uid: str | None = None
    cancellation: str | None = field(default=None, name="episode")
    resource_version: str | None = None
    phase: str | None = None
    cancel_requested: bool = False
    cancel_observed_at: str | None = field(default=None, name="fence")
    realtime: bool = False
    enabled: bool = True
    topology: str = "not seen"
    shutdown_timeout: str | None = None
    deadline: str | None = None
    step_runs: tuple[str, ...] = ()
    decided: str | None = None
    """The last decision in this cancellation: verdict and rule."""
    deleted_step_runs: tuple[str, ...] = ()


def after(state: KnownState, event: Event) -> KnownState:
    """What is known after one more event."""
    if not isinstance(event, RunEvent):
        outcome = event.outcome
        gone = set(outcome.deleted_step_runs)
        return structs.replace(
            state,
            decided=f"{outcome.verdict} by {outcome.rule}",
            step_runs=tuple(name for name in state.step_runs if name not in gone),
            deleted_step_runs=state.deleted_step_runs + outcome.deleted_step_runs,
        )
    snapshot = event.snapshot
    if event.event_type is EventType.STEP_RUNS_LEFT:  # nobody looks at the topology of a run that is over
        left = tuple(ref.name for ref in snapshot.step_runs or ())
        return structs.replace(state, resource_version=snapshot.run.resource_version, step_runs=left)
    run, topology, deadline = snapshot.run, snapshot.topology, snapshot.deadline
    same = state.uid == run.uid and state.cancellation in (run.cancellation.token, run.attempt)
    return KnownState(
        uid=run.uid,
        cancellation=run.cancellation.token,
        resource_version=run.resource_version,
        phase=run.phase,
        cancel_requested=run.cancel_requested,
        cancel_observed_at=run.cancel_observed_at,
        realtime=snapshot.realtime,
        enabled=run.enabled and snapshot.story.enabled,
        topology=f"gone ({topology.gone.kind})" if topology.gone else "up" if topology.established else "not seen",
        shutdown_timeout=f"{snapshot.shutdown.timeout} ({snapshot.shutdown.rule})",
        deadline=format_instant(deadline) if deadline else None,
        step_runs=state.step_runs if snapshot.step_runs is None else tuple(ref.name for ref in snapshot.step_runs),
        decided=state.decided if same else None,
        deleted_step_runs=state.deleted_step_runs if same else (),
    )


def differences(before: KnownState, now: KnownState) -> dict[str, tuple[object, object]]:
    """The fields that an event changed, each with its value before and after."""
    return {
        field: (getattr(before, field), getattr(now, field))
        for field in KnownState.__struct_fields__
        if getattr(before, field) != getattr(now, field)
    }
