"""The one conditional write that ends a run. Pure.

A JSON Patch on `/status` that tests everything the decision stood on and then writes exactly what bobrapet writes when
a cancel is done (contract §2.2, §10). Whatever changed in between fails a test, and nothing is written.
"""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from exeunt.clock import format_duration, format_status_time, readable_instant
from exeunt.run import bobrapet
from exeunt.run.snapshot import RunState

_ANNOTATIONS: Final = "/metadata/annotations/"
_CANCEL_OBSERVED_AT_POINTER: Final = _ANNOTATIONS + bobrapet.CANCEL_OBSERVED_AT.replace("~", "~0").replace("/", "~1")
_ENABLED_POINTER: Final = _ANNOTATIONS + bobrapet.ENABLED.replace("~", "~0").replace("/", "~1")


def finalizing_patch(run: RunState, now: datetime) -> bytes:
    """The JSON Patch that makes `run` Finished/Canceled as of `now`.

    A lost condition is answered with 422 and no causes; the same patch twice fails its own phase test (contract §10).
    """
    operations = [
        _test("/metadata/uid", run.uid),
        _test("/metadata/deletionTimestamp", None),
        _test("/spec/cancelRequested", True),
    ]
    if run.cancel_observed_at is None:
        # There may be no annotations at all to point into: then nothing at all may have changed.
        operations += [_test("/metadata/resourceVersion", run.resource_version)]
    else:
        operations += [
            _test(_CANCEL_OBSERVED_AT_POINTER, run.cancel_observed_at),
            _test(_ENABLED_POINTER, run.enabled_as_read),
        ]
    status = _canceled_status(run, now)
    if run.has_status:
        operations += [
            _test("/status/phase", run.phase),
            _test("/status/finishedAt", run.finished_at),
            _test("/status/conditions", run.conditions),
        ]
        operations += [_add(f"/status/{field}", value) for field, value in status.items()]
    else:
        operations += [_test("/status", None), _add("/status", status)]
    return msgspec.json.encode(operations)


def _canceled_status(run: RunState, now: datetime) -> dict[str, Any]:
    status: dict[str, Any] = {
        "phase": bobrapet.FINISHED,
        "message": bobrapet.CANCELED_MESSAGE,
        "observedGeneration": run.generation,
        "conditions": _canceled_conditions(run, format_status_time(now)),
    }
    if readable_instant(run.finished_at) is None:  # a time that nobody can read is as good as none
        status["finishedAt"] = format_status_time(now)
        if (started := readable_instant(run.started_at)) is not None:
            status["duration"] = format_duration(_rounded(now - started))
    return status


def _rounded(duration: timedelta) -> timedelta:
    """To the nearest second, halves up, as Go's `Duration.Round(time.Second)` does for what is not negative."""
    return timedelta(seconds=(duration + timedelta(milliseconds=500)) // timedelta(seconds=1))


def _canceled_conditions(run: RunState, now: str) -> list[dict[str, Any]]:
    """The conditions as read, with bobrapet's three rewritten in place and appended where they were missing.

    `lastTransitionTime` moves only when the status flips (contract §9.13).
    """
    conditions: list[dict[str, Any]] = msgspec.json.decode(run.conditions) or []
    for kind in ("Ready", "Progressing", bobrapet.DEGRADED):
        written = {
            "type": kind,
            "status": "False",
            "reason": bobrapet.CANCELED_REASON,
            "message": bobrapet.CANCELED_MESSAGE,
            "observedGeneration": run.generation,
            "lastTransitionTime": now,
        }
        at = next((i for i, condition in enumerate(conditions) if condition["type"] == kind), None)
        if at is None:
            conditions.append(written)
            continue
        if conditions[at]["status"] == "False":
            written["lastTransitionTime"] = conditions[at].get(
                "lastTransitionTime", now
            )  # an event of others may lack it
        conditions[at] = written
    return conditions


def _test(path: str, value: object) -> dict[str, object]:
    # A test without a "value" member panics the API server's engine (contract §10): it is always sent, even as null.
    return {"op": "test", "path": path, "value": value}


def _add(path: str, value: object) -> dict[str, object]:
    return {"op": "add", "path": path, "value": value}
