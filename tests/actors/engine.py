"""Plays the engine of bobrapet that starts a realtime run: StepRuns, TransportBindings and the run's status.

They are what bobrapet and the connectors have written by the time a run is Running (contract §2.1, 3.1, 3.2). The
`operator` takes over from there; starting is played apart from it, so that tests can stage a run in every odd state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from actors import connector
from actors.kubernetes import BINDING, STEP_RUN, STORY_RUN, Kubernetes, Object
from actors.names import RUN_LABEL, STEP_RUN_FINALIZER, compose_name, label_value
from actors.statuses import now, unfinished


@dataclass(frozen=True)
class Staging:
    """How the engine starts a call.

    `phase` is the run's: with None it has a status without phase and conditions, as after a redrive, and without
    `status` none at all. `step_phases` are those of single steps that are not Running. `owned` StepRuns have an
    ownerReference. `connected` steps have a TransportBinding.
    """

    steps: tuple[str, ...] = ("listen", "speak")
    phase: str | None = "Running"
    status: bool = True
    step_phases: Mapping[str, str] | None = None
    owned: bool = True
    connected: bool = True
    trace: Mapping[str, Any] | None = None
    started_ago: timedelta = timedelta(0)


async def start_run(kubernetes: Kubernetes, run: Object, staging: Staging) -> None:
    """Starts a run that has no StepRuns, and returns when everyone is connected."""
    kubernetes = kubernetes.acting_as("bobrapet")
    for step in staging.steps:
        await _start_step(kubernetes, run, step, staging)
    if not staging.status:
        return
    metadata = run["metadata"]
    started = (datetime.now(UTC) - staging.started_ago).strftime("%Y-%m-%dT%H:%M:%SZ")
    status: dict[str, Any] = {
        "stepStates": {step: {"phase": "Running", "startedAt": started} for step in staging.steps}
    }
    if staging.phase is not None:
        status |= unfinished(staging.phase, metadata["generation"], started)
    if staging.trace is not None:
        status["trace"] = dict(staging.trace)
    await kubernetes.patch_status(STORY_RUN, metadata["namespace"], metadata["name"], status)


async def _start_step(kubernetes: Kubernetes, run: Object, step: str, staging: Staging) -> None:
    namespace, run_name = run["metadata"]["namespace"], run["metadata"]["name"]
    name = compose_name(run_name, step)
    step_run = await kubernetes.create(
        STEP_RUN,
        namespace,
        name,
        {"storyRunRef": {"name": run_name}, "stepId": step},
        labels={
            RUN_LABEL: label_value(run_name),
            "bubustack.io/story-name": label_value(run["spec"]["storyRef"]["name"]),
        },
        ownerReferences=[_owner(run)] if staging.owned else [],
        finalizers=[STEP_RUN_FINALIZER],
    )
    phase = (staging.step_phases or {}).get(step, "Running")
    await kubernetes.patch_status(STEP_RUN, namespace, name, {**unfinished(phase, 1, now()), "retries": 0})
    if staging.connected:
        await _connect(kubernetes, run, step, step_run, staging)


async def connect(kubernetes: Kubernetes, run: Object, staging: Staging) -> None:
    """Makes the TransportBindings of a run anew that has none, as bobrapet does for live StepRuns (§2.6 F)."""
    kubernetes = kubernetes.acting_as("bobrapet")
    metadata = run["metadata"]
    for step in staging.steps:
        step_run = await kubernetes.get(STEP_RUN, metadata["namespace"], compose_name(metadata["name"], step))
        await _connect(kubernetes, run, step, step_run, staging)


async def _connect(kubernetes: Kubernetes, run: Object, step: str, step_run: Object, staging: Staging) -> None:
    # A step that feeds one other is connected to it peer to peer; only the last one has a stream to the hub (§3.4).
    routing = "hub" if step == staging.steps[-1] else "p2p"
    namespace, run_name = run["metadata"]["namespace"], run["metadata"]["name"]
    binding = compose_name(run_name, step, "transport")
    await kubernetes.create(
        BINDING,
        namespace,
        binding,
        {
            "transportRef": "voice",
            "driver": "bobravoz-grpc",
            "stepName": step,
            "engramName": step_run["metadata"]["name"],
            "storyRunRef": {"name": run_name, "namespace": namespace, "uid": run["metadata"]["uid"]},
            "binary": {"direction": "bidirectional"},
        },
        annotations={"transport.bubustack.io/routing-mode": routing},
        ownerReferences=[_owner(step_run)],
    )
    await connector.beat(kubernetes, namespace, binding)


def _owner(item: Object) -> dict[str, Any]:
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "name": item["metadata"]["name"],
        "uid": item["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
