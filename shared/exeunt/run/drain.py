"""The drain window that bobrapet would have waited for, for reporting only: nothing is ever decided by it. Pure.

It is known as far as the Story says it. What the Transports add below that (their defaultSettings and streaming,
contract §4.3) is not read, so where a Story says nothing, nothing is known.
"""

from collections.abc import Mapping
from typing import Any


def drain_of(transports: Any) -> float | None:
    """The longest `lifecycle.drainTimeoutSeconds` of a Story's `spec.transports`, in seconds; None when none says one.

    `streaming` goes over `settings`. The shape is the user's: what is no number is not there.
    """
    entries = transports if isinstance(transports, list) else []
    return max((seconds for entry in entries if (seconds := _of_one(entry)) is not None), default=None)


def _of_one(transport: Any) -> float | None:
    for layer in ("streaming", "settings"):
        seconds = _at(transport, layer, "lifecycle", "drainTimeoutSeconds")
        if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < 2**31:
            return float(seconds)
    return None


def _at(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
