"""Builders of the objects that the pure core takes in, with the defaults of an ordinary call: the run `call` of the
realtime Story `talk`, running. Each test says only what is different.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from exeunt.clock import format_status_time
from exeunt.events.signals import Signal
from exeunt.run import bobrapet
from exeunt.run.models import (
    BindingRunRef,
    BindingSpec,
    BindingStatus,
    Condition,
    ObjectMeta,
    OwnerReference,
    StepRun,
    StepRunSpec,
    StepRunStatus,
    Story,
    StoryPolicy,
    StoryRef,
    StoryRun,
    StoryRunRef,
    StoryRunSpec,
    StoryRunStatus,
    StorySpec,
    StoryTimeouts,
    TransportBinding,
)
from exeunt.run.shutdown_timeout import DEFAULT, ShutdownTimeout
from exeunt.run.snapshot import RunState, Snapshot, StepRunRef, StoryState, Topology, read_run

NAMESPACE: Final = "voice"
STARTED: Final = "2026-11-24T18:13:00Z"
CANCEL_OBSERVED_AT: Final = "2026-11-24T18:13:32.123456789Z"
OBSERVED_LATER: Final = "2026-11-24T18:20:00.5Z"
NOW: Final = datetime(2026, 11, 24, 18, 13, 33, tzinfo=UTC)
FENCE_WAIT: Final = timedelta(seconds=15)


def story_run(
    name: str = "call",
    *,
    uid: str = "uid-call",
    story: str = "talk",
    canceled: bool = False,
    cancel_observed_at: str | None = None,
    phase: str | None = "Running",
    status: bool = True,
    message: str | None = None,
    started_at: str | None = STARTED,
    finished_at: str | None = None,
    conditions: Sequence[Mapping[str, Any]] | None = None,
    annotations: Mapping[str, str] | None = None,
    managed_fields: Sequence[Mapping[str, Any]] = (),
    deleting: bool = False,
    resource_version: str = "1",
) -> StoryRun:
    """A StoryRun. A `cancel_observed_at` implies that the run is canceled."""
    return StoryRun(
        metadata=ObjectMeta(
            name=name,
            namespace=NAMESPACE,
            uid=uid,
            resource_version=resource_version,
            generation=2 if canceled or cancel_observed_at else 1,
            annotations=dict(annotations or {})
            | ({bobrapet.CANCEL_OBSERVED_AT: cancel_observed_at} if cancel_observed_at else {}),
            deletion_timestamp=format_status_time(NOW) if deleting else None,
            managed_fields=Raw(msgspec.json.encode(list(managed_fields))),
        ),
        spec=StoryRunSpec(story_ref=StoryRef(name=story), cancel_requested=canceled or cancel_observed_at is not None),
        status=StoryRunStatus(
            phase=phase,
            message=message,
            started_at=started_at,
            finished_at=finished_at,
            conditions=Raw(msgspec.json.encode(conditions)),
        )
        if status
        else None,
    )


def written(field: str, at: str) -> dict[str, Any]:
    """An entry of `metadata.managedFields`: somebody wrote `field` of spec or annotations last at `at`."""
    return {"manager": "somebody", "operation": "Update", "time": at, "fieldsV1": {"f:any": {f"f:{field}": {}}}}


def condition(kind: str, status: str, reason: str, at: str = STARTED) -> dict[str, Any]:
    """A condition of a StoryRun, as JSON."""
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": at}


def topology_terminated(at: str = STARTED) -> dict[str, Any]:
    """The hub's condition."""
    return condition(bobrapet.DEGRADED, "True", bobrapet.TOPOLOGY_TERMINATED_REASON, at)


def step_run(
    name: str = "call-listen",
    *,
    run: str = "call",
    uid: str | None = None,
    owner: str | None = "uid-call",
    phase: str | None = "Running",
    deleting: bool = False,
) -> StepRun:
    """A StepRun of `run`; `owner` is the uid of the StoryRun that owns it."""
    return StepRun(
        metadata=ObjectMeta(
            name=name,
            namespace=NAMESPACE,
            uid=uid or f"uid-{name}",
            resource_version="1",
            owner_references=[OwnerReference(kind="StoryRun", name=run, uid=owner)] if owner else [],
            deletion_timestamp=format_status_time(NOW) if deleting else None,
        ),
        spec=StepRunSpec(story_run_ref=StoryRunRef(name=run)),
        status=StepRunStatus(phase=phase) if phase else None,
    )


def binding(
    name: str = "call-listen-transport",
    *,
    run: str = "call",
    run_uid: str | None = "uid-call",
    owner: StepRunRef | None = None,
    heartbeat: str | None = None,
    deleting: bool = False,
) -> TransportBinding:
    """A TransportBinding of `run`, owned by the StepRun `owner`; `run_uid` None makes it one of no run."""
    return TransportBinding(
        metadata=ObjectMeta(
            name=name,
            namespace=NAMESPACE,
            uid=f"uid-{name}",
            resource_version="1",
            owner_references=[OwnerReference(kind="StepRun", name=owner.name, uid=owner.uid)] if owner else [],
            deletion_timestamp=format_status_time(NOW) if deleting else None,
        ),
        spec=BindingSpec(
            story_run_ref=BindingRunRef(name=run, namespace=NAMESPACE, uid=run_uid) if run_uid else None,
            engram_name=owner.name if owner else name.removesuffix("-transport"),
        ),
        status=BindingStatus(
            conditions=[Condition(type="Ready", status="True", reason="TransportReady", last_transition_time=heartbeat)]
        )
        if heartbeat
        else None,
    )


def story(
    name: str = "talk",
    *,
    pattern: str = "realtime",
    timeout: object = None,
    annotations: Mapping[str, str] | None = None,
    resource_version: str = "1",
) -> Story:
    """A Story; `timeout` is its `gracefulShutdownTimeout`, of any JSON type."""
    return Story(
        metadata=ObjectMeta(
            name=name,
            namespace=NAMESPACE,
            uid=f"uid-{name}",
            resource_version=resource_version,
            annotations=dict(annotations or {}),
        ),
        spec=StorySpec(
            pattern=pattern,
            policy=StoryPolicy(timeouts=StoryTimeouts(graceful_shutdown_timeout=timeout)),
        ),
    )


def a_signal(
    *, gone: bool, at: datetime = NOW, run: str = "call", token: str | None = None, uid: str | None = None
) -> Signal:
    """A signal about `run`, or about whatever was started for the trigger token."""
    return Signal(
        run=None if token else (NAMESPACE, run),
        trigger_token=token,
        uid=uid,
        gone=gone,
        at=at,
        detail="the room is closed" if gone else "somebody is back",
    )


def run_state(run: StoryRun, *, now: datetime = NOW) -> RunState:
    """What the watcher reads of `run`."""
    return read_run(run, first_seen=now, now=now, fence_wait=FENCE_WAIT)


def snapshot(
    run: StoryRun | RunState | None = None,
    *,
    realtime: bool = True,
    topology: Topology | None = None,
    step_runs: tuple[StepRunRef, ...] | None = (),
    **changes: Any,
) -> Snapshot:
    """A snapshot of `run`, by default of one that is canceled, observed, realtime and established; its topology is up.

    `changes` are made to what is read of the run.
    """
    state = run if isinstance(run, RunState) else run_state(run or story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    return Snapshot(
        run=replace(state, **changes),
        story=StoryState(namespace=NAMESPACE, name="talk", resource_version="1", realtime=realtime),
        shutdown=ShutdownTimeout("20s", DEFAULT),
        topology=topology or Topology(established=True, step_runs_seen=True),
        step_runs=step_runs,
    )
