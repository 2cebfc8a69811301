"""Kubernetes Events about runs that were ended, for `kubectl describe` (EXEUNT_KUBERNETES_EVENTS). Never in the way.

An Event is told to a bounded queue and written by a task of its own. One that finds no room, or that the
kube-apiserver refuses, is counted and let go: the outcome stands in the stream RUNS.
"""

import asyncio
import os
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NoReturn

import msgspec
import structlog

from exeunt.clock import format_instant
from exeunt.events.event_types import Outcome, Verdict
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, Conflict, Undecodable
from exeunt.kube.resources import EVENTS, STORY_RUNS
from exeunt.run.managed_fields import FIELD_MANAGER
from exeunt.run.snapshot import RunState
from exeunt.telemetry.metrics import KUBERNETES_EVENTS

_ROOM: Final = 256
_CONTROLLER: Final = "exeunt.bubustack.io/terminator"
_LONGEST_NOTE: Final = 1024
_LONGEST_NAME: Final = 253
_REASONS: Final = {"topology-gone": "TopologyGone", "deadline": "ShutdownDeadlineReached", "refused": "WriteRefused"}
"""Why, by the rule that decided. What is not here is no news to who looks at the run."""

log = structlog.get_logger()


class KubernetesEvents:
    """Tells of ended runs while `run` runs; when not `enabled` it tells nothing."""

    def __init__(self, kube: KubeClient, *, enabled: bool) -> None:
        self._kube = kube
        self._enabled = enabled
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_ROOM)
        for result in ("created", "refused", "dropped") if enabled else ():
            KUBERNETES_EVENTS.expect(result=result)

    def publish(self, run: RunState, outcome: Outcome) -> None:
        """Put one Event on its way; returns at once."""
        if not self._enabled or outcome.verdict not in (Verdict.FINALIZE, Verdict.FAILED):
            return
        try:
            self._queue.put_nowait((run.namespace, event_of(run, outcome, datetime.now(UTC))))
        except asyncio.QueueFull:
            KUBERNETES_EVENTS.add(result="dropped")

    async def run(self) -> NoReturn:
        """Write one Event after another, for ever."""
        while True:
            namespace, body = await self._queue.get()
            try:
                await self._kube.create(EVENTS, namespace, body, field_manager=FIELD_MANAGER)
            except (Conflict, Undecodable):
                pass  # it is there already
            except (ApiError, ApiUnavailable) as error:
                KUBERNETES_EVENTS.add(result="refused")
                log.warning("Kubernetes Event not written", error=str(error))
                continue
            KUBERNETES_EVENTS.add(result="created")


def event_of(run: RunState, outcome: Outcome, now: datetime) -> bytes:
    """The Event, as JSON. Its name is the stop's: written twice, the second is a conflict."""
    digest = sha256(f"{run.uid}/{run.cancellation.token}/{outcome.verdict}".encode()).hexdigest()[:16]
    note = f"Ended by Exeunt: {outcome.why}"
    if outcome.verdict is Verdict.FAILED:
        note = f"Not ended by Exeunt: {outcome.why}"
    elif outcome.deleted_step_runs:
        note += f"; StepRuns deleted: {', '.join(outcome.deleted_step_runs)}"
    return msgspec.json.encode(
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{run.name[: _LONGEST_NAME - 17].rstrip('.-')}.{digest}",
                "namespace": run.namespace,
            },
            "eventTime": format_instant(now),
            "type": "Normal" if outcome.verdict is Verdict.FINALIZE else "Warning",
            "action": "Finalize",
            "reason": _REASONS.get(outcome.rule, "Finalized"),
            "note": note[:_LONGEST_NOTE],
            "reportingController": _CONTROLLER,
            "reportingInstance": os.environ.get("HOSTNAME", "exeunt-terminator")[:128],
            "regarding": {
                "apiVersion": f"{STORY_RUNS.group}/{STORY_RUNS.version}",
                "kind": "StoryRun",
                "namespace": run.namespace,
                "name": run.name,
                "uid": run.uid,
            },
        }
    )
