"""Plays the operator, bobrapet 0.1.12, from the moment a run is canceled, deleted or redriven.

- cancel (contract §2.2, 2.3): observes the cancel, annotates the live StepRuns, deletes them when the drain is over,
  and writes Finished/Canceled when all of the run's StepRuns are terminal or gone. Left alone it so takes the whole
  drain window, which is the bug that Exeunt is there for;
- deleted StepRuns (2.4): takes down what they run, here the TransportBinding, and removes the finalizer;
- full redrive (4.5) and deletion of a StoryRun.

It wakes up for what wakes bobrapet (2.5), acts on cached objects (`controller`), and writes with merge patches that
have no lock, so that it can lose and win races as bobrapet does (2.6). What it does not play: starting runs (`engine`
does), the DAG (so it never fails a run whose topology went before a cancel, 3.4), partial redrives, retention.
"""

import contextlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from actors.controller import Controller
from actors.kubernetes import BINDING, STEP_RUN, STORY, STORY_RUN, Key, Kind, Kubernetes, Object, Refused, key_of
from actors.names import (
    CANCEL_OBSERVED_AT,
    REDRIVE_OBSERVED,
    REDRIVE_TOKEN,
    RUN_FINALIZER,
    RUN_LABEL,
    STEP_CANCEL_REQUESTED,
    STEP_TIMERS,
    TERMINAL,
    compose_name,
    label_value,
)
from actors.statuses import go_duration, now, with_condition
from exeunt.clock import parse_duration

CANCELED = "StoryRun gracefully canceled"
_GRACEFUL_TIMEOUT = 20.0  # seconds, the operator's effective default

# A full redrive clears these fields of the status.
_REDRIVEN = (
    "phase", "message", "active", "completed", "primitiveChildren", "stepStates", "gates", "error", "output",
    "childrenCleanedAt", "duration", "startedAt", "finishedAt", "allowedFailures", "conditions", "observedGeneration",
)  # fmt: skip


class Operator(Controller):
    """One running operator for all namespaces, entered as an async context manager.

    `drain_timeout` in seconds replaces what the Stories say. Without `cancel_observed_at` no cancel is ever processed,
    as when an RBAC error comes before it. `requeue` is the base delay in seconds between two looks at a canceled run,
    of which up to half is added as jitter.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        *,
        drain_timeout: float | None = None,
        cancel_observed_at: bool = True,
        requeue: float = 2.0,
    ) -> None:
        super().__init__(kubernetes.acting_as("bobrapet"), STORY, STORY_RUN, STEP_RUN)
        self._drain_timeout = drain_timeout
        self._cancel_observed_at = cancel_observed_at
        self._requeue = requeue

    def wakes(self, kind: Kind, before: Object | None, after: Object) -> Iterator[tuple[Kind, Key]]:
        if kind is STORY_RUN and _concerns_the_run(before, after):
            yield STORY_RUN, key_of(after)
        if kind is STEP_RUN:
            if "deletionTimestamp" in after["metadata"]:
                yield STEP_RUN, key_of(after)
            for owner in after["metadata"].get("ownerReferences", []):
                yield STORY_RUN, (after["metadata"]["namespace"], owner["name"])

    async def reconcile(self, kind: Kind, item: Object) -> float | None:
        return await (self._reconcile_run(item) if kind is STORY_RUN else self._reconcile_step_run(item))

    async def _reconcile_run(self, run: Object) -> float | None:
        metadata = run["metadata"]
        annotations = metadata.get("annotations", {})
        if "deletionTimestamp" in metadata:
            return await self._delete_run(run)
        if annotations.get(REDRIVE_TOKEN, "") not in ("", annotations.get(REDRIVE_OBSERVED)):
            return await self._redrive(run)
        if run["spec"].get("cancelRequested") and self._cancel_observed_at:
            return await self._cancel(run)
        return None

    async def _cancel(self, run: Object) -> float | None:
        run = await self._cancel_observed(run)
        since = datetime.fromisoformat(run["metadata"]["annotations"][CANCEL_OBSERVED_AT])
        remaining = self._window(run) - (datetime.now(UTC) - since).total_seconds()
        live = [step_run for step_run in self._step_runs(run) if _phase(step_run) not in TERMINAL]
        for step_run in live:
            if STEP_CANCEL_REQUESTED not in step_run["metadata"].get("annotations", {}):
                await self._annotate(STEP_RUN, step_run, {STEP_CANCEL_REQUESTED: "true"})
            if remaining <= 0:
                await self._delete(step_run)
        if not live:
            if _phase(run) != "Finished":
                await self._finish(run)
            return None
        delay = self._requeue * random.uniform(1, 1.5)
        return min(delay, remaining) if remaining > 0 else delay

    async def _cancel_observed(self, run: Object) -> Object:
        try:
            datetime.fromisoformat(run["metadata"].get("annotations", {}).get(CANCEL_OBSERVED_AT, ""))
        except ValueError:  # absent, or not readable, which counts as absent
            nanoseconds = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}{random.randrange(1000):03d}Z"
            return await self._annotate(STORY_RUN, run, {CANCEL_OBSERVED_AT: nanoseconds})
        return run

    def _window(self, run: Object) -> float:
        """Seconds from cancel_observed_at to the forced deletion: a realtime Story's longest drain, where it has
        one.
        """
        if self._drain_timeout is not None:
            return self._drain_timeout
        reference, namespace = run["spec"]["storyRef"], run["metadata"]["namespace"]
        story = self.cache[STORY].get((reference.get("namespace", namespace), reference["name"]))
        if story is None:
            return _GRACEFUL_TIMEOUT
        drain = max((_drain(transport) for transport in story["spec"].get("transports", [])), default=0)
        if drain and story["spec"]["pattern"] == "realtime":
            return drain
        timeout = story["spec"].get("policy", {}).get("timeouts", {}).get("gracefulShutdownTimeout", "")
        try:
            return parse_duration(timeout).total_seconds()
        except ValueError:
            return _GRACEFUL_TIMEOUT

    async def _finish(self, run: Object) -> None:
        """The status that says Finished/Canceled, field by field as in contract §2.2."""
        before, generation, at = run.get("status", {}), run["metadata"]["generation"], now()
        status: dict[str, Any] = {"phase": "Finished", "message": CANCELED, "observedGeneration": generation}
        if "finishedAt" not in before:
            status["finishedAt"] = at
            if "startedAt" in before:
                elapsed = datetime.now(UTC) - datetime.fromisoformat(before["startedAt"])
                status["duration"] = go_duration(int(elapsed.total_seconds() + 0.5))
        conditions = before.get("conditions", [])
        for kind in ("Ready", "Progressing", "Degraded"):
            conditions = with_condition(
                conditions, kind, "False", reason="Canceled", message=CANCELED, at=at, generation=generation
            )
        status["conditions"] = conditions
        await self.patch_status(STORY_RUN, run, status)

    # Deletions and redrives.

    async def _reconcile_step_run(self, step_run: Object) -> float | None:
        metadata, spec = step_run["metadata"], step_run["spec"]
        if "deletionTimestamp" not in metadata or not metadata.get("finalizers"):
            return None
        binding = compose_name(spec["storyRunRef"]["name"], spec["stepId"], "transport")
        with contextlib.suppress(Refused):
            await self.kubernetes.delete(BINDING, metadata["namespace"], binding)
        await self.kubernetes.patch(STEP_RUN, *key_of(step_run), {"metadata": {"finalizers": None}})
        return None

    async def _delete_run(self, run: Object) -> float | None:
        if await self._children_gone(run):
            others = [other for other in run["metadata"].get("finalizers", []) if other != RUN_FINALIZER]
            await self.kubernetes.patch(STORY_RUN, *key_of(run), {"metadata": {"finalizers": others}})
            return None
        return self._requeue

    async def _redrive(self, run: Object) -> float | None:
        if not await self._children_gone(run):
            return self._requeue
        run = await self.patch_status(STORY_RUN, run, dict.fromkeys(_REDRIVEN))
        token = run["metadata"]["annotations"][REDRIVE_TOKEN]
        await self._annotate(STORY_RUN, run, {CANCEL_OBSERVED_AT: None, STEP_TIMERS: None, REDRIVE_OBSERVED: token})
        return 0  # the run may still be canceled

    async def _children_gone(self, run: Object) -> bool:
        step_runs = [step_run for step_run in self._step_runs(run) if _may_belong(step_run, run)]
        for step_run in step_runs:
            await self._delete(step_run)
        return not step_runs

    def _step_runs(self, run: Object) -> list[Object]:
        """By label and nothing else, as bobrapet lists them: names that share a label value share their StepRuns."""
        namespace, label = run["metadata"]["namespace"], label_value(run["metadata"]["name"])
        return [
            step_run
            for step_run in self.cache[STEP_RUN].values()
            if step_run["metadata"]["namespace"] == namespace
            and step_run["metadata"].get("labels", {}).get(RUN_LABEL) == label
        ]

    async def _annotate(self, kind: Kind, item: Object, annotations: dict[str, str | None]) -> Object:
        return await self.patch(kind, item, {"metadata": {"annotations": annotations}})

    async def _delete(self, step_run: Object) -> None:
        if "deletionTimestamp" not in step_run["metadata"]:
            with contextlib.suppress(Refused):  # gone
                await self.kubernetes.delete(STEP_RUN, *key_of(step_run))


def _concerns_the_run(before: Object | None, after: Object) -> bool:
    """bobrapet is not woken by a StoryRun's status, nor by annotations other than the redrive's (contract §2.5)."""

    def marks(run: Object) -> tuple[object, ...]:
        metadata = run["metadata"]
        token = metadata.get("annotations", {}).get(REDRIVE_TOKEN)
        return metadata["uid"], metadata["generation"], metadata.get("deletionTimestamp"), token

    return before is None or marks(before) != marks(after)


def _may_belong(step_run: Object, run: Object) -> bool:
    owners = step_run["metadata"].get("ownerReferences", [])
    return all(owner["uid"] == run["metadata"]["uid"] for owner in owners)


def _drain(transport: dict[str, Any]) -> float:
    """drainTimeoutSeconds of one transport of a Story; `streaming` goes over `settings` (contract §4.3)."""
    layers = (transport.get("streaming", {}), transport.get("settings", {}))
    stated = (layer.get("lifecycle", {}).get("drainTimeoutSeconds") for layer in layers)
    return float(next((seconds for seconds in stated if seconds is not None), 0))


def _phase(item: Object) -> str | None:
    phase: str | None = item.get("status", {}).get("phase")
    return phase
