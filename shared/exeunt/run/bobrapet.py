"""The operator's words, exactly as bobrapet 0.1.12 writes them. Pure.

Source: contract §2.1 (phases), §2.2 (what it writes when a cancel is done), §3.4 (the hub's condition), §4.5 (redrive).
"""

from collections.abc import Mapping
from typing import Final

TERMINAL_PHASES: Final = frozenset(
    {"Succeeded", "Failed", "Finished", "Canceled", "Compensated", "Timeout", "Aborted", "Skipped"}
)
"""Phases that a run never leaves by itself (contract §2.1)."""

FINISHED: Final = "Finished"
CANCELED_REASON: Final = "Canceled"
CANCELED_MESSAGE: Final = "StoryRun gracefully canceled"
"""Phase, condition reason and message of a run whose cancel is done (contract §2.2)."""

DEGRADED: Final = "Degraded"
TOPOLOGY_TERMINATED_REASON: Final = "TopologyTerminated"
"""The hub's word that every streaming step has disconnected (contract §3.4)."""

CANCEL_OBSERVED_AT: Final = "storyrun.bubustack.io/graceful-cancel-observed-at"
"""Annotation of a StoryRun: from this instant on bobrapet leaves the run to its cancel path (contract §2.3)."""

REDRIVE: Final = (
    ("storyrun.bubustack.io/redrive-token", "storyrun.bubustack.io/redrive-observed"),
    ("storyrun.bubustack.io/redrive-from-step", "storyrun.bubustack.io/redrive-from-step-observed"),
)
"""Pairs of annotations: a redrive that was asked for, and the last one that was carried out (contract §4.5)."""

TRIGGER_TOKEN: Final = "storyrun.bubustack.io/trigger-token"  # noqa: S105 - no secret
"""Annotation of a StoryRun: what an impulse started it for, such as the sid of a LiveKit room."""

FIRST_ATTEMPT: Final = "first"
"""The attempt of a run that was never redriven (`cancellations`)."""

SHUTDOWN_TIMEOUT: Final = "exeunt.bubustack.io/shutdown-timeout"
ENABLED: Final = "exeunt.bubustack.io/enabled"
"""Exeunt's own annotations, on a StoryRun or a Story. Annotations, because unknown spec fields are pruned."""

UNFINISHED: Final = ",".join(f"status.phase!={phase}" for phase in sorted(TERMINAL_PHASES))
"""Field selector for objects that are not in a terminal phase; `status.phase` is selectable (contract §1)."""


def is_terminal(phase: str | None) -> bool:
    """Whether `phase` is terminal; an absent phase means "not started"."""
    return phase in TERMINAL_PHASES


def is_redriving(annotations: Mapping[str, str]) -> bool:
    """Whether a redrive was asked for that bobrapet has not carried out yet (contract §4.5)."""
    return any(annotations.get(asked, "") not in ("", annotations.get(observed, "")) for asked, observed in REDRIVE)
