"""What both peers know and decide: the floor's rule, and deadlines by timers. Only the standard library.

A peer tells it what its watches bring, and it tells the peer what to write.
"""

import asyncio
import re
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_OBSERVED: Final = "storyrun.bubustack.io/graceful-cancel-observed-at"
_TIMEOUT: Final = "exeunt.bubustack.io/shutdown-timeout"
_ENABLED: Final = "exeunt.bubustack.io/enabled"
_MESSAGE: Final = "StoryRun gracefully canceled"
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6}
_AT_ONCE: Final = 64
_KINDS: Final = ("Ready", "Progressing", "Degraded")
_DECIDED_ON: Final = ("type", "status", "reason")

Object = dict[str, Any]
Write = Callable[[Object, dict[str, str]], Awaitable[None]]
"""Ends a run and deletes its StepRuns, given by name with their uids; raises what ends the peer."""


class Stops:
    """Writes each stop once, as soon as it is due: the topology of a canceled run is gone, or its deadline is there."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._runs: dict[str, Object] = {}
        self._bindings: defaultdict[str, set[str]] = defaultdict(set)
        self._step_runs: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._stopping: set[str] = set()
        self._armed: set[str] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._released = asyncio.Event()
        self._released.set()
        self._tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._released.clear)
        loop.add_signal_handler(signal.SIGUSR2, self._released.set)

    def saw_run(self, run: Object) -> None:
        name = run["metadata"]["name"]
        self._runs[name] = run
        due = _deadline(run)
        if due is not None and name not in self._armed:
            self._armed.add(name)
            wait = max(0.0, (due - datetime.now(UTC)).total_seconds())
            asyncio.get_running_loop().call_later(wait, self._begin, name)
        self._consider(name)

    def saw_binding(self, binding: Object, *, deleted: bool) -> None:
        run, name = binding["spec"]["storyRunRef"]["name"], binding["metadata"]["name"]
        if not deleted:
            self._bindings[run].add(name)
            return
        self._bindings[run].discard(name)
        self._consider(run)

    def saw_step_run(self, step_run: Object, *, deleted: bool) -> None:
        known, meta = self._step_runs[step_run["spec"]["storyRunRef"]["name"]], step_run["metadata"]
        if deleted:
            known.pop(meta["name"], None)
        else:
            known[meta["name"]] = meta["uid"]

    def _consider(self, name: str) -> None:
        run = self._runs.get(name)
        gone = name in self._bindings and not self._bindings[name]
        if run is not None and gone and _observed(run):
            self._begin(name)

    def _begin(self, name: str) -> None:
        if name in self._stopping or self._runs[name].get("status", {}).get("phase") == "Finished":
            return
        self._stopping.add(name)
        task = asyncio.get_running_loop().create_task(self._stop(name))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.result()

    async def _stop(self, name: str) -> None:
        await self._released.wait()
        async with self._slots:
            await self._write(self._runs[name], dict(self._step_runs[name]))


def finalizing_patch(run: Object) -> list[Object]:
    """As the terminator's, for runs as the bench makes them: still Running, and without foreign conditions."""
    meta, status = run["metadata"], run["status"]
    moment = datetime.now(UTC)
    now = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    annotations = "/metadata/annotations/"
    tests = {
        "/metadata/uid": meta["uid"],
        "/metadata/deletionTimestamp": None,
        "/spec/cancelRequested": True,
        annotations + _OBSERVED.replace("/", "~1"): meta["annotations"][_OBSERVED],
        annotations + _ENABLED.replace("/", "~1"): meta["annotations"].get(_ENABLED),
        "/status/phase": status["phase"],
        "/status/finishedAt": status.get("finishedAt"),
    }
    written = {
        "phase": "Finished",
        "message": _MESSAGE,
        "observedGeneration": meta["generation"],
        "finishedAt": now,
        "duration": _duration(moment - datetime.fromisoformat(status["startedAt"])),
    }
    return [
        *({"op": "test", "path": path, "value": value} for path, value in tests.items()),
        *_canceled_conditions(meta["generation"], status["conditions"], now),
        *({"op": "add", "path": f"/status/{field}", "value": value} for field, value in written.items()),
    ]


def _canceled_conditions(generation: int, conditions: list[Object], now: str) -> list[Object]:
    def canceled(kind: str, since: str) -> Object:
        word = {"type": kind, "status": "False", "reason": "Canceled", "message": _MESSAGE}
        return {**word, "observedGeneration": generation, "lastTransitionTime": since}

    operations = []
    for place, read in enumerate(conditions):
        at = f"/status/conditions/{place}"
        since = read["lastTransitionTime"] if read["status"] == "False" else now
        operations += [{"op": "test", "path": f"{at}/{field}", "value": read[field]} for field in _DECIDED_ON]
        operations += [{"op": "replace", "path": at, "value": canceled(read["type"], since)}]
    missing = [kind for kind in _KINDS if kind not in {read["type"] for read in conditions}]
    for place, kind in enumerate(missing, len(conditions)):
        operations += [
            {"op": "add", "path": "/status/conditions/-", "value": canceled(kind, now)},
            {"op": "test", "path": f"/status/conditions/{place}", "value": canceled(kind, now)},
        ]
    return operations


def _duration(took: timedelta) -> str:
    """In whole seconds, as Go writes it; calls of the bench last less than an hour."""
    minutes, seconds = divmod(round(took.total_seconds()), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _observed(run: Object) -> str | None:
    observed: str | None = run["metadata"].get("annotations", {}).get(_OBSERVED)
    return observed


def _deadline(run: Object) -> datetime | None:
    observed, timeout = _observed(run), run["metadata"].get("annotations", {}).get(_TIMEOUT)
    if observed is None or timeout is None:
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|us|µs|h|m|s)", timeout))
    return datetime.fromisoformat(observed) + timedelta(seconds=seconds)
