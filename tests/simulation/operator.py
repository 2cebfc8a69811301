"""bobrapet and the hub, as far as the contract says that the real ones were seen to do it: they start runs, stamp the
cancel, wait the drain out and end runs, redrive, fail what has no topology, make bindings again that somebody deleted.
"""

from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from core.objects import NAMESPACE, binding, condition, step_run, topology_terminated
from exeunt.clock import format_instant, format_status_time, parse_instant
from exeunt.run import bobrapet
from exeunt.run.models import StepRun, StepRunStatus
from exeunt.run.snapshot import StepRunRef
from simulation.apiserver import BINDING, STEP_RUN, STORY_RUN, ApiServer, Change, Document, is_terminal
from simulation.clockwork import Clockwork, instant

((ASKED, OBSERVED), *_) = bobrapet.REDRIVE
STEPS: Final = ("listen", "speak")
_BEHIND: Final = 0.2
"""Of the runs that are deleted so many get a StepRun afterwards."""
_TERMINAL: Final = "Succeeded"


class Operator:
    """`offset`: seconds that its clock is ahead. `down_until`: it does nothing before. `drains`: by run, in seconds."""

    def __init__(self, clock: Clockwork, api: ApiServer) -> None:
        self.clock = clock
        self.api = api
        self.offset = 0.0
        self.down_until = 0.0
        self.batch: set[str] = set()
        """Stories whose steps are jobs, and stream nothing."""
        self.drains: dict[str, float] = {}
        self.attempt_of: dict[str, tuple[str, int]] = {}
        """By the uid of a StepRun: its run's, and the attempt; but of one that was made for a run that was no more."""
        self.stopped_by_itself: set[str] = set()
        """StepRuns whose binding does not come back."""
        self._made = 0
        self._awake: set[str] = set()
        api.on_change.append(self._see)
        api.on_restore.append(self._resync)

    def now(self) -> str:
        return format_instant(instant(self.clock.now + self.offset))

    def status_time(self) -> str:
        return format_status_time(instant(self.clock.now + self.offset))

    # What wakes it (contract §2.5).

    def _see(self, change: Change) -> None:
        kind, found = change.kind, change.object
        if kind == STORY_RUN:
            self.wake(found.metadata.name, 0.05, 0.6)
        elif isinstance(found, StepRun):
            if change.gone:
                self.wake(found.spec.story_run_ref.name, 0.05, 0.5)
            elif found.metadata.deletion_timestamp:
                self.clock.after(self.clock.little(0.05, 1.0), partial(self._finish_deletion, found.metadata.name))

    def _resync(self, _: float) -> None:
        for name in self.api.documents:
            self.wake(name, 0.1, 2)
        for each in self.api.objects[STEP_RUN].values():
            if each.metadata.deletion_timestamp:
                self.clock.after(self.clock.little(0.05, 1.0), partial(self._finish_deletion, each.metadata.name))
            else:
                self.connect_later(each.metadata.name)

    def wake(self, name: str, least: float, most: float) -> None:
        if name not in self._awake:
            self._awake.add(name)
            self.clock.after(self.clock.little(least, most), partial(self._reconcile, name))

    def _reconcile(self, name: str) -> None:
        self._awake.discard(name)
        if self.clock.now < self.down_until:
            self.wake(name, 1, 3)
            return
        document = self.api.documents.get(name)
        if document is not None:
            self._do(name, document)

    def _do(self, name: str, document: Document) -> None:
        annotations = document["metadata"]["annotations"]
        if document["metadata"].get("deletionTimestamp"):
            if not self._clear(name):
                self.api.remove(STORY_RUN, name)
                if self.clock.chance.random() < _BEHIND and document["spec"]["storyRef"]["name"] not in self.batch:
                    self.clock.after(self.clock.little(0.05, 2), partial(self._create_orphan, name))
        elif bobrapet.is_redriving(annotations):
            if not self._clear(name):
                self._redrive(name, document)
        elif document["spec"].get("cancelRequested"):
            self._cancel(name, document)
        elif not (document.get("status") or {}).get("phase"):
            if not document["metadata"].get("recreated"):  # which gets no status at all
                self._start(name)
        elif not is_terminal(document) and _hub_says_gone(document):
            self.clock.happened["a run fails for want of its topology"] += 1
            self.api.change_run(name, "status", phase="Failed", finishedAt=self.status_time())
            self._clear(name)

    def _cancel(self, name: str, document: Document) -> None:
        cancel_observed_at = document["metadata"]["annotations"].get(bobrapet.CANCEL_OBSERVED_AT)
        if cancel_observed_at is None:
            self.api.annotate(name, **{bobrapet.CANCEL_OBSERVED_AT: self.now()})
            return
        waited = (instant(self.clock.now + self.offset) - parse_instant(cancel_observed_at)).total_seconds()
        live = [each for each in self.api.step_runs(name) if not _is_finished(each)]
        if waited >= self.drains.get(name, 120.0):
            self.clock.happened["the drain ends"] += bool(live)
            for each in live:
                self.api.mark_deleted(STEP_RUN, each.metadata.name)
        if live:
            self.wake(name, 2, 3)
        elif (document.get("status") or {}).get("phase") != bobrapet.FINISHED:
            self.clock.happened["bobrapet ends a run"] += 1
            self._write_finished(name, document)

    def end(self, name: str) -> None:
        """As at the end of the drain, at once."""
        for each in self.api.step_runs(name):
            self.api.mark_deleted(STEP_RUN, each.metadata.name)
        self._write_finished(name, self.api.documents[name])

    def _write_finished(self, name: str, document: Document) -> None:
        status: dict[str, Any] = {
            "phase": bobrapet.FINISHED,
            "message": bobrapet.CANCELED_MESSAGE,
            "conditions": [condition(kind, "False", "Canceled", self.status_time()) for kind in ("Ready", "Degraded")],
        }
        managed = [each for each in document["metadata"].get("managedFields", ()) if each["manager"] == "operator"]
        self.api.documents[name] = document | {"metadata": document["metadata"] | {"managedFields": managed}}
        status["finishedAt"] = (document.get("status") or {}).get("finishedAt") or self.status_time()
        self.api.change_run(name, "status", **status)

    def _clear(self, name: str) -> list[StepRun]:
        """Delete the StepRuns; those that are still there."""
        there = self.api.step_runs(name)
        for each in there:
            self.api.mark_deleted(STEP_RUN, each.metadata.name)
        if there:
            self.wake(name, 0.2, 1)
        return there

    def _redrive(self, name: str, document: Document) -> None:
        annotations = dict(document["metadata"]["annotations"])
        annotations[OBSERVED] = annotations[ASKED]
        annotations.pop(bobrapet.CANCEL_OBSERVED_AT, None)
        metadata = document["metadata"] | {"annotations": annotations, "managedFields": []}
        metadata["attempt"] = metadata.get("attempt") or 1  # one that was canceled before it was started counts, too
        self.api.write_run(document | {"metadata": metadata, "status": {}})
        self.clock.happened["a run is redriven"] += 1
        self._start(name)

    def _start(self, name: str) -> None:
        """A new attempt begins; a run that is canceled already gets no StepRuns."""
        document = self.api.documents[name]
        self.api.change_run(name, "metadata", attempt=document["metadata"].get("attempt", 0) + 1)
        ready = condition("Ready", "False", "Running", self.status_time())
        self.api.change_run(name, "status", phase="Running", startedAt=self.status_time(), conditions=[ready])
        if not document["spec"].get("cancelRequested"):
            for step in STEPS:
                self.create_step_run(name, step)

    def create_step_run(self, run: str, step: str, *, owned: bool = True, connects: bool = True) -> None:
        document = self.api.documents[run]
        self._made += 1
        name, run_uid = f"{run}-{step}", document["metadata"]["uid"]
        if name in self.api.objects[STEP_RUN]:
            return
        uid = f"uid-{name}-{self._made}"
        self.attempt_of[uid] = run_uid, document["metadata"].get("attempt", 0)
        self.api.put(STEP_RUN, step_run(name, run=run, uid=uid, owner=run_uid if owned else None))
        if connects:
            self.connect_later(name)

    def _create_orphan(self, run: str) -> None:
        """The hub, which is behind, makes a StepRun of a run that is no more. It is no run's but by its name."""
        if run not in self.api.documents:
            self._made += 1
            name = f"{run}-behind"
            self.api.put(STEP_RUN, step_run(name, run=run, uid=f"uid-{name}-{self._made}", owner=None))

    def connect_later(self, step: str, least: float = 0.1, most: float = 2.0) -> None:
        self.clock.after(self.clock.little(least, most), partial(self.connect, step))

    def connect(self, step: str) -> None:
        """The StepRun controller makes its binding, where there is none."""
        found = self.api.objects[STEP_RUN].get(step)
        if not isinstance(found, StepRun) or found.metadata.deletion_timestamp or _is_finished(found):
            return
        if self.clock.now < self.down_until:
            self.connect_later(step, 1, 3)
            return
        name = f"{step}-transport"
        run = self.api.documents.get(found.spec.story_run_ref.name)
        if name in self.api.objects[BINDING] or run is None or found.metadata.uid in self.stopped_by_itself:
            return
        if run["spec"]["storyRef"]["name"] in self.batch:
            return
        owner = StepRunRef(step, found.metadata.uid)
        run_name = found.spec.story_run_ref.name
        self.api.put(BINDING, binding(name, run=run_name, run_uid=run["metadata"]["uid"], owner=owner))

    def complete(self, step: str) -> None:
        """The StepRun has done what it had to, and its runtime goes."""
        found = self.api.objects[STEP_RUN].get(step)
        if isinstance(found, StepRun) and not _is_finished(found) and not found.metadata.deletion_timestamp:
            self.api.put(STEP_RUN, replace(found, status=StepRunStatus(phase=_TERMINAL)))
            self._disconnect(step)

    def _finish_deletion(self, step: str) -> None:
        """First what it owns goes, then its finalizer (contract §2.4)."""
        found = self.api.objects[STEP_RUN].get(step)
        if found is None or not found.metadata.deletion_timestamp:
            return
        if self.clock.now < self.down_until:
            self.clock.after(self.clock.little(1, 3), partial(self._finish_deletion, step))
            return
        self._disconnect(step)
        self.api.remove(STEP_RUN, step)

    def _disconnect(self, step: str) -> None:
        if f"{step}-transport" in self.api.objects[BINDING]:
            self.api.remove(BINDING, f"{step}-transport")

    # The hub.

    def hub_says_gone(self, name: str) -> None:
        document = self.api.documents[name]
        if not is_terminal(document) and (document.get("status") or {}).get("conditions"):
            said = topology_terminated(self.status_time())
            others = [each for each in document["status"]["conditions"] if each["type"] != bobrapet.DEGRADED]
            self.api.change_run(name, "status", conditions=[*others, said])

    def write_stale_conditions(self, name: str, number: int) -> None:
        """Somebody replaces all conditions, from a copy without the hub's word (contract §9.2), some with one of their
        own.
        """
        document = self.api.documents[name]
        if not is_terminal(document) and (document.get("status") or {}).get("conditions"):
            ready = condition("Ready", "False", "Running", self.status_time()) | {"message": f"told {number}"}
            own = condition("Custom", "True", "Foreign", self.status_time())
            self.api.change_run(name, "status", conditions=[[ready], [ready, own], [own, ready]][number % 3])


def _hub_says_gone(document: Document) -> bool:
    found: list[dict[str, Any]] = (document.get("status") or {}).get("conditions") or []
    return any(each["reason"] == bobrapet.TOPOLOGY_TERMINATED_REASON for each in found)


def hub_says_gone(document: Document) -> bool:
    return _hub_says_gone(document)


def _is_finished(step: StepRun) -> bool:
    return bobrapet.is_terminal(step.status.phase if step.status else None)


def new_run(name: str, uid: str, story: str, annotations: dict[str, str]) -> Document:
    """A StoryRun as an impulse creates it."""
    metadata = {"name": name, "namespace": NAMESPACE, "uid": uid, "generation": 1, "annotations": annotations}
    return {"metadata": metadata, "spec": {"storyRef": {"name": story}}}
