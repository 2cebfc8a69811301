"""One run in a cluster, without I/O: the objects, what bobrapet and others do to them, how the kube-apiserver answers a
terminator, also badly, and what must never happen. A promise that is broken is an AssertionError at that very moment.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from core.json_patch import TestFailed, patched
from core.objects import (
    FENCE_WAIT,
    NAMESPACE,
    NOW,
    STARTED,
    binding,
    condition,
    said,
    step_run,
    topology_terminated,
)
from exeunt import bobrapet
from exeunt.clock import format_instant, format_status_time, parse_instant
from exeunt.kube.changes import Changed, Relisted, Removed
from exeunt.kube.models import StepRun, StoryRun, TransportBinding
from exeunt.kube.resources import STEP_RUNS, STORY_RUNS, TRANSPORT_BINDINGS
from exeunt.opt_out import is_enabled
from exeunt.signals import Signal
from exeunt.snapshot import FIELD_MANAGER, RunState, StepRunRef, read_run
from exeunt_terminator import commands
from exeunt_terminator.commands import (
    CancelChildren,
    ChildrenCanceled,
    ConditionLost,
    Delete,
    Deleted,
    Failed,
    Forbidden,
    GetRun,
    LastSignals,
    List,
    Listed,
    NotFound,
    Patch,
    Question,
    Refused,
    RunRead,
    Signals,
    Written,
)
from exeunt_watcher import commands as watching
from exeunt_watcher.commands import AllSignalsHeard, Seen, SignalHeard

STEPS: Final = ("listen", "speak")
CALL: Final = (NAMESPACE, "call")
KINDS: Final = ("StoryRun", "StepRun", "TransportBinding", "Signal")
TIMEOUT: Final = timedelta(seconds=20)
_OURS: Final = {"manager": FIELD_MANAGER, "subresource": "status", "fieldsV1": {"f:status": {"f:phase": {}}}}
((_ASKED, _OBSERVED), *_) = bobrapet.REDRIVE


class Fault(StrEnum):
    """How one request goes wrong."""

    UNAVAILABLE = "not done, and given up"
    GIVEN_UP = "done, and given up for want of an answer"
    ANSWER_LOST = "done, but its answer was lost, and sent again"
    REQUEST_LOST = "lost, and sent again"
    REFUSED = "refused with causes"
    FORBIDDEN = "403"
    CONFLICT = "409"


class Cluster:
    """The run `call` and what belongs to it. Its `life` counts redrives, and runs of the same name."""

    def __init__(self) -> None:
        self.now = NOW
        self.history: dict[str, list[watching.Input]] = {kind: [] for kind in KINDS}
        self.steps: dict[str, StepRun] = {}
        self.bindings: dict[str, TransportBinding] = {}
        self.signals: list[Signal] = []
        self.document: dict[str, Any] | None = None
        self.life = 0
        self.life_of: dict[str, int] = {}
        """Which life a StepRun belongs to, by its uid."""
        self.ends: dict[int, int] = {}
        """How often the run was finished in each life."""
        self.ended_by_us: set[str] = set()
        """The `finishedAt` of our writes."""
        self._version = 1
        self.create()

    # What there is.

    @property
    def there(self) -> dict[str, Any]:
        assert self.document is not None
        return self.document

    @property
    def run(self) -> StoryRun:
        return STORY_RUNS.decode(msgspec.json.encode(self.there))

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.there["metadata"]["annotations"]
        return found

    @property
    def conditions(self) -> list[dict[str, Any]]:
        return list(self.there["status"].get("conditions") or [])

    @property
    def uid(self) -> str:
        return str(self.there["metadata"]["uid"])

    @property
    def finished(self) -> bool:
        return self.document is not None and bobrapet.is_terminal(self.document["status"].get("phase"))

    @property
    def running(self) -> bool:
        return self.document is not None and not self.finished

    @property
    def canceled(self) -> bool:
        return self.document is not None and "cancelRequested" in self.document["spec"]

    @property
    def stopping(self) -> bool:
        return self.running and self.canceled and not self.redriving

    @property
    def redriving(self) -> bool:
        return bobrapet.is_redriving(self.annotations)

    @property
    def topology_gone(self) -> bool:
        hub = any(each["reason"] == bobrapet.TOPOLOGY_TERMINATED_REASON for each in self.conditions)
        told = bool(self.signals) and self.signals[-1].gone
        done = self.canceled and not self.steps
        return hub or told or done or (self.established and not self.bindings)

    def state(self, first_seen: datetime | None = None) -> RunState:
        return read_run(self.run, first_seen=first_seen or self.now, now=self.now, fence_wait=FENCE_WAIT)

    # What is done to it.

    def create(self) -> None:
        """The run, of a uid of its own."""
        metadata = {"name": "call", "namespace": NAMESPACE, "uid": f"uid-call-{self.life}", "generation": 1}
        self.document = {
            "metadata": metadata | {"resourceVersion": "1", "annotations": {"kept": "yes"}},
            "spec": {"storyRef": {"name": "talk"}},
            "status": {},
        }
        self.start()

    def start(self) -> None:
        """A new life of it begins."""
        self.life += 1
        self.established = False
        self.signals.clear()
        self.now += timedelta(seconds=1)  # what is said in the second of a start may be of what was there before it
        started = format_status_time(self.now) if self.life > 1 else STARTED
        self.now += timedelta(seconds=1)
        conditions = [condition("Ready", "False", "Running", started)]
        self.write(self.there | {"status": {"phase": "Running", "startedAt": started, "conditions": conditions}})
        if not self.canceled:
            for name in STEPS:
                self.create_step(name)

    def write(self, document: dict[str, Any]) -> None:
        """Store the run; every change is checked here."""
        was_finished, self.document = self.finished, document
        self._version += 1
        document["metadata"] = document["metadata"] | {"resourceVersion": str(self._version)}
        if self.finished and not was_finished:
            self.ends[self.life] = self.ends.get(self.life, 0) + 1
        self.history["StoryRun"].append(Seen(STORY_RUNS, None, Changed(self.run)))

    def change(self, part: str, **fields: Any) -> None:
        merged = self.there[part] | fields
        self.write(self.there | {part: {name: value for name, value in merged.items() if value is not None}})

    def annotate(self, name: str, value: str | None) -> None:
        merged = self.annotations | {name: value}
        self.change("metadata", annotations={key: each for key, each in merged.items() if each is not None})

    def create_step(self, name: str) -> None:
        step = step_run(name, owner=self.uid, uid=f"{name}-{self.life}")
        self.steps[name] = step
        self.life_of[step.metadata.uid] = self.life
        self.history["StepRun"].append(Seen(STEP_RUNS, None, Changed(step)))

    def remove_step(self, name: str) -> None:
        """Its binding goes with it (contract §2.4)."""
        self.history["StepRun"].append(Seen(STEP_RUNS, None, Removed(self.steps.pop(name))))
        if name in self.bindings:
            self.disconnect(name)

    def connect(self, name: str) -> None:
        one = binding(name, run_uid=self.uid, owner=StepRunRef(name, self.steps[name].metadata.uid))
        self.established = True
        self.bindings[name] = one
        self.history["TransportBinding"].append(Seen(TRANSPORT_BINDINGS, None, Changed(one)))

    def disconnect(self, name: str) -> None:
        self.history["TransportBinding"].append(Seen(TRANSPORT_BINDINGS, None, Removed(self.bindings.pop(name))))

    def signal(self, *, gone: bool) -> None:
        """Somebody says on NATS that the topology is gone, or that it is not."""
        signal = said(gone=gone, at=self.now, uid=self.uid)
        self.signals.append(signal)
        self.history["Signal"].append(SignalHeard(signal))

    def clear(self) -> None:
        """The StepRuns go, and their bindings: what comes first in a redrive, and in a deletion."""
        for name in list(self.steps):
            self.remove_step(name)

    def redrive(self) -> None:
        """What bobrapet does when it was asked to (contract §4.5)."""
        token = self.annotations[_ASKED]
        self.write(self.there | {"status": {}})
        self.there["metadata"]["managedFields"] = []
        self.annotate(bobrapet.FENCE, None)
        self.annotate(_OBSERVED, token)
        self.start()

    def ask_redrive(self, *, uncancel: bool) -> None:
        if uncancel:
            self.change("spec", cancelRequested=None)
        self.annotate(_ASKED, f"token-{self.life}")

    def delete(self) -> None:
        self.clear()
        self.history["StoryRun"].append(Seen(STORY_RUNS, None, Removed(self.run)))
        self.document = None

    # What a terminator asks.

    def answer(self, asked: Question, fault: Fault | None) -> commands.Input:
        match asked:
            case Patch(_, body):
                return self._patch(body, fault)
            case Delete(_, step_runs):
                return self._delete(step_runs, fault)
            case _ if fault is not None:
                return Failed(fault)
            case GetRun():
                return RunRead(self.state(asked.first_seen)) if self.document else NotFound()
            case List(_, step_runs, bindings):
                steps, links = self.steps.values(), self.bindings.values()
                return Listed(tuple(steps) if step_runs else (), tuple(links) if bindings else ())
            case LastSignals():
                return Signals(tuple(self.signals[-1:]))
            case CancelChildren():
                return ChildrenCanceled(())

    def _patch(self, body: bytes, fault: Fault | None) -> commands.Input:
        match fault:
            case Fault.UNAVAILABLE:
                return Failed(fault)
            case Fault.REFUSED:
                return Refused(fault)
            case Fault.FORBIDDEN:
                return Forbidden(fault)
            case Fault.CONFLICT:
                return ConditionLost(fault)
            case Fault.GIVEN_UP:
                self._store(body)
                return Failed(fault)
            case Fault.ANSWER_LOST:
                self._store(body)
                return self._store(body, perhaps_done=True)
        return self._store(body, perhaps_done=fault is Fault.REQUEST_LOST)

    def _store(self, body: bytes, *, perhaps_done: bool = False) -> commands.Input:
        """The finalizing write, with all that must hold of it."""
        if self.document is None:
            return NotFound()
        try:
            document = patched(self.document, body)
        except TestFailed as lost:
            return ConditionLost(str(lost), perhaps_done)
        assert not self.finished, "a run ends once"
        assert self.canceled, "a run that is not canceled is not ended"
        assert is_enabled(self.annotations), "a run that is opted out is not ended"
        fence = self.annotations.get(bobrapet.FENCE)
        assert fence or self.now >= self.canceled_at + FENCE_WAIT, "no run is ended before its fence"
        late = self.now >= (parse_instant(fence) if fence else self.canceled_at) + TIMEOUT
        assert self.topology_gone or late, "no run is ended early"
        document["metadata"] = document["metadata"] | {"managedFields": [_OURS]}
        self.ended_by_us.add(document["status"]["finishedAt"])
        self.write(document)
        return Written()

    def _delete(self, refs: tuple[StepRunRef, ...], fault: Fault | None) -> commands.Input:
        deleted = []
        for ref in refs[: len(refs) // 2] if fault else refs:
            there = self.steps.get(ref.name)
            if there is not None and there.metadata.uid == ref.uid:
                assert self.finished, "StepRuns go after the status was written, and never those of a later life"
                assert self.life_of[ref.uid] == self.life
                self.remove_step(ref.name)
                deleted.append(ref.name)
        return Failed(fault, tuple(deleted)) if fault else Deleted(tuple(deleted))

    canceled_at = NOW

    def cancel(self) -> None:
        self.canceled_at = self.now
        self.change("spec", cancelRequested=True)

    def hub_says_gone(self) -> None:
        self.change("status", conditions=[*self.conditions, topology_terminated(format_status_time(self.now))])

    def stamp_fence(self) -> None:
        self.annotate(bobrapet.FENCE, format_instant(self.now))

    def listed(self, kind: str) -> Iterable[watching.Input]:
        """What a watcher lists of a kind, or hears of signals."""
        match kind:
            case "StoryRun":
                return [Seen(STORY_RUNS, None, Relisted([self.run] if self.running else []))]
            case "StepRun":
                return [Seen(STEP_RUNS, None, Relisted(list(self.steps.values())))]
            case "TransportBinding":
                return [Seen(TRANSPORT_BINDINGS, None, Relisted(list(self.bindings.values())))]
        return [*self.history["Signal"], AllSignalsHeard()]
