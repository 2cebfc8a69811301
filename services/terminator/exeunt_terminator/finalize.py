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
_CONDITIONS: Final = "/status/conditions"
_KINDS: Final = ("Ready", "Progressing", bobrapet.DEGRADED)


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
            *_cancel_conditions(run, format_status_time(now)),
        ]
        operations += [_add(f"/status/{field}", value) for field, value in status.items()]
    else:
        status["conditions"] = [_canceled(kind, run, format_status_time(now)) for kind in _KINDS]
        operations += [_test("/status", None), _add("/status", status)]
    return msgspec.json.encode(operations)


def _canceled_status(run: RunState, now: datetime) -> dict[str, Any]:
    status: dict[str, Any] = {
        "phase": bobrapet.FINISHED,
        "message": bobrapet.CANCELED_MESSAGE,
        "observedGeneration": run.generation,
    }
    if readable_instant(run.finished_at) is None:  # a time that nobody can read is as good as none
        status["finishedAt"] = format_status_time(now)
        if (started := readable_instant(run.started_at)) is not None:
            status["duration"] = format_duration(_rounded(now - started))
    return status


def _rounded(duration: timedelta) -> timedelta:
    """To the nearest second, halves up, as Go's `Duration.Round(time.Second)` does for what is not negative."""
    return timedelta(seconds=(duration + timedelta(milliseconds=500)) // timedelta(seconds=1))


def _cancel_conditions(run: RunState, now: str) -> list[dict[str, object]]:
    """The operations that rewrite bobrapet's three conditions in place, and append those of them that are missing.

    What may have been decided on is tested: where the conditions that were read stand, and status and reason of the
    three. Whatever else others write into conditions meanwhile, as often as they like, is kept and refuses nothing; a
    new one does only where one of the three is missing (ADR 4).
    """
    conditions: list[dict[str, Any]] | None = msgspec.json.decode(run.conditions)
    if conditions is None:
        return [_test(_CONDITIONS, None), _add(_CONDITIONS, [_canceled(kind, run, now) for kind in _KINDS])]
    tests: list[dict[str, object]] = []
    writes: list[dict[str, object]] = []
    for place, read in enumerate(conditions):
        at, kind = f"{_CONDITIONS}/{place}", read["type"]
        tests += [_test(f"{at}/type", kind)]
        if kind in _KINDS:
            tests += [_test(f"{at}/status", read["status"]), _test(f"{at}/reason", read.get("reason"))]
            # It moves only when the status flips (contract §9.13); an event of others may lack it.
            since = read.get("lastTransitionTime", now) if read["status"] == "False" else now
            writes += [{"op": "replace", "path": at, "value": _canceled(kind, run, since)}]
    missing = [kind for kind in _KINDS if all(read["type"] != kind for read in conditions)]
    for place, kind in enumerate(missing, len(conditions)):
        # Had somebody appended one meanwhile, perhaps of this very type, ours would not come to stand at that place.
        written = _canceled(kind, run, now)
        writes += [_add(f"{_CONDITIONS}/-", written), _test(f"{_CONDITIONS}/{place}", written)]
    return tests + writes


def _canceled(kind: str, run: RunState, since: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "False",
        "reason": bobrapet.CANCELED_REASON,
        "message": bobrapet.CANCELED_MESSAGE,
        "observedGeneration": run.generation,
        "lastTransitionTime": since,
    }


def _test(path: str, value: object) -> dict[str, object]:
    # A test without a "value" member panics the API server's engine (contract §10): it is always sent, even as null.
    return {"op": "test", "path": path, "value": value}


def _add(path: str, value: object) -> dict[str, object]:
    return {"op": "add", "path": path, "value": value}
