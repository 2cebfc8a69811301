"""Statuses the way bobrapet writes them: whole seconds, Go durations, conditions by its rules (contract §2.1, 2.2)."""

from datetime import UTC, datetime
from typing import Any

Condition = dict[str, Any]


def now() -> str:
    """The current time as Kubernetes writes it in a status: cut off to whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def go_duration(seconds: int) -> str:
    """Whole seconds as Go writes a duration: 45s, 2m13s, 1h0m5s."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def with_condition(
    conditions: list[Condition],
    kind: str,
    status: str,
    *,
    reason: str,
    message: str,
    at: str,
    generation: int | None = None,
) -> list[Condition]:
    """The conditions with one set; its lastTransitionTime moves only when its status does."""
    written: Condition = {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at,
    }
    if generation is not None:
        written["observedGeneration"] = generation
    before = next((condition for condition in conditions if condition["type"] == kind), None)
    if before is None:
        return [*conditions, written]
    if before["status"] == status:
        written["lastTransitionTime"] = before["lastTransitionTime"]
    return [written if condition is before else condition for condition in conditions]


def unfinished(phase: str, generation: int, at: str) -> dict[str, Any]:
    """The status of a run or a step that bobrapet has started; Ready is False already while it runs."""
    reason = {"Scheduling": "Scheduled"}.get(phase, phase)
    message = f"phase is {phase}"
    conditions: list[Condition] = []
    for kind, status in (("Ready", "False"), ("Progressing", "True")):
        conditions = with_condition(
            conditions, kind, status, reason=reason, message=message, at=at, generation=generation
        )
    return {
        "phase": phase,
        "message": message,
        "observedGeneration": generation,
        "startedAt": at,
        "conditions": conditions,
    }
