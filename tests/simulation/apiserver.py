"""The kube-apiserver and its etcd: objects with versions, what has changed in which order, requests, and a past that a
backup brings back. How a list and a watch go on is in `watches`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from core.json_patch import TestFailed, patched
from exeunt.clock import format_status_time
from exeunt.kube.resources import STORY_RUNS
from exeunt.run import bobrapet
from exeunt.run.models import KubeObject, StepRun, Story, StoryRun, TransportBinding
from exeunt.run.snapshot import RunState
from exeunt_terminator import commands
from exeunt_terminator.commands import ConditionLost, Failed, Forbidden, Input, NotFound, Refused, Written
from simulation.clockwork import Clockwork
from simulation.faults import Fault, Troubles
from simulation.processes import Process

STORY_RUN: Final = "StoryRun"
STEP_RUN: Final = "StepRun"
BINDING: Final = "TransportBinding"
STORY: Final = "Story"
KINDS: Final = (STORY, BINDING, STEP_RUN, STORY_RUN)

_STEP: Final = 10
"""Versions from one write of ours to the next: others write, too. So each history that a backup begins has its own, and
none is given twice: that an object is written anew at the very version that it had before is not seen (ADR 22).
"""

A = TypeVar("A")
Document = dict[str, Any]


class Change(NamedTuple):
    """One write; `object` is as it was last where it is `gone`."""

    at: float
    version: int
    kind: str
    object: KubeObject
    document: Document | None
    gone: bool


class Basis(NamedTuple):
    """What a finalizing write stands on, in true time: when its evidence was looked at last; the version of the Story
    that is known, and when the run, and it, were read last by this very stop, if they were; whether its event says that
    the deadline has come.
    """

    looked_at: float | None
    story_version: str | None
    read_at: float | None
    by_deadline: bool


class ApiServer:
    """`on_change` is told every write; `on_end` every finalizing write that is stored, by which process, and what it
    stands on; `on_delete` every StepRun that a terminator deletes, and for which run; `on_restore` the moment to which
    etcd went back.
    """

    def __init__(self, clock: Clockwork, troubles: Troubles) -> None:
        self.clock = clock
        self.troubles = troubles
        self.version = 100
        self._histories = 0
        self.objects: dict[str, dict[str, KubeObject]] = {kind: {} for kind in KINDS}
        self.documents: dict[str, Document] = {}
        """The StoryRuns as JSON, by name."""
        self.canceled_at: dict[str, float] = {}
        """By uid: when the cancel of a run was asked for."""
        self._cancels: list[tuple[float, str]] = []
        self.changes: dict[str, list[Change]] = {kind: [] for kind in KINDS}
        self.undone: set[str] = set()
        """By uid: runs that had ended, or were deleted, and are not after a backup was restored."""
        self.on_change: list[Callable[[Change], None]] = []
        self.on_restore: list[Callable[[float], None]] = []
        self.on_end: list[Callable[[Document, Document, str, Basis], None]] = []
        self.on_delete: list[Callable[[StepRun, RunState], None]] = []

    # What there is.

    def run(self, name: str) -> StoryRun | None:
        found = self.objects[STORY_RUN].get(name)
        assert found is None or isinstance(found, StoryRun)
        return found

    def unfinished_runs(self) -> tuple[StoryRun, ...]:
        there = [run for name in self.objects[STORY_RUN] if (run := self.run(name)) is not None]
        return tuple(run for run in there if not (run.status and bobrapet.is_terminal(run.status.phase)))

    def story(self, name: str) -> Story | None:
        found = self.objects[STORY].get(name)
        assert found is None or isinstance(found, Story)
        return found

    def step_runs(self, run: str) -> list[StepRun]:
        """Those that name the run."""
        return [
            each
            for each in self.objects[STEP_RUN].values()
            if isinstance(each, StepRun) and each.spec.story_run_ref.name == run
        ]

    def bindings(self, run: str) -> list[TransportBinding]:
        return [
            each
            for each in self.objects[BINDING].values()
            if isinstance(each, TransportBinding) and (ref := each.spec.story_run_ref) and ref.name == run
        ]

    # How it is written.

    def put(self, kind: str, given: KubeObject) -> None:
        self.version += _STEP
        metadata = replace(given.metadata, resource_version=str(self.version))
        self._store(kind, replace(given, metadata=metadata), None)

    def write_run(self, document: Document) -> None:
        self.version += _STEP
        document["metadata"] = document["metadata"] | {"resourceVersion": str(self.version)}
        self._store(STORY_RUN, STORY_RUNS.decode(msgspec.json.encode(document)), document)

    def change_run(self, name: str, part: str, **fields: Any) -> None:
        """Merge into spec, status or metadata of a run; None removes."""
        document = self.documents[name]
        merged = (document.get(part) or {}) | fields
        self.write_run(document | {part: {key: value for key, value in merged.items() if value is not None}})

    def annotate(self, name: str, **annotations: str | None) -> None:
        merged = self.documents[name]["metadata"]["annotations"] | annotations
        self.change_run(
            name, "metadata", annotations={key: value for key, value in merged.items() if value is not None}
        )

    def cancel_run(self, name: str) -> None:
        """Ask for the cancel, and note who did and when, in whole seconds."""
        document = self.documents[name]
        self.canceled_at[document["metadata"]["uid"]] = self.clock.now
        self._cancels.append((self.clock.now, document["metadata"]["uid"]))
        written = {
            "manager": "kubectl",
            "operation": "Update",
            "time": format_status_time(self.clock.at),
            "fieldsV1": {"f:spec": {"f:cancelRequested": {}}},
        }
        metadata = document["metadata"]
        metadata = metadata | {
            "generation": metadata["generation"] + 1,
            "managedFields": [*metadata.get("managedFields", ()), written],
        }
        spec = document["spec"] | {"cancelRequested": True}
        self.write_run(document | {"metadata": metadata, "spec": spec})

    def remove(self, kind: str, name: str) -> None:
        self.version += _STEP
        found = self.objects[kind].pop(name)
        self.documents.pop(name, None) if kind == STORY_RUN else None
        last = replace(found, metadata=replace(found.metadata, resource_version=str(self.version)))
        self._tell(Change(self.clock.now, self.version, kind, last, None, gone=True))

    def _store(self, kind: str, stored: KubeObject, document: Document | None) -> None:
        name = stored.metadata.name
        self.objects[kind][name] = stored
        if document is not None:
            self.documents[name] = document
        self._tell(Change(self.clock.now, self.version, kind, stored, document, gone=False))

    def _tell(self, change: Change) -> None:
        self.changes[change.kind].append(change)
        if self.clock.trace is not None:
            self.clock.note("etcd", f"{change.kind} {change.object.metadata.name} {'gone' if change.gone else ''}")
        for told in self.on_change:
            told(change)

    def restore(self, back: float) -> None:
        """etcd comes back from a backup that is `back` seconds old."""
        then = self.clock.now - back
        for change in self.changes[STORY_RUN]:
            over = change.document is None or is_terminal(change.document) or is_deleting(change.document)
            if change.at > then and over:
                self.undone.add(change.object.metadata.uid)
        for kind, changes in self.changes.items():
            kept = [change for change in changes if change.at <= then]
            self.changes[kind] = kept
            self.objects[kind] = {}
            for change in kept:
                if change.gone:
                    self.objects[kind].pop(change.object.metadata.name, None)
                else:
                    self.objects[kind][change.object.metadata.name] = change.object
        self.documents = {
            change.object.metadata.name: change.document
            for change in self.changes[STORY_RUN]
            if change.document is not None and change.object.metadata.name in self.objects[STORY_RUN]
        }
        self._cancels = [(at, uid) for at, uid in self._cancels if at <= then]
        self.canceled_at = {uid: at for at, uid in self._cancels}
        version = max((changes[-1].version for changes in self.changes.values() if changes), default=100)
        self._histories += 1
        self.version = version - version % _STEP + self._histories % _STEP
        self.clock.note("etcd", f"is as it was {back:.1f} s ago")
        for told in self.on_restore:
            told(then)

    # What is asked of it.

    def ask(
        self, process: Process, serve: Callable[[], A], then: Callable[[A], None], failed: Callable[[str], A]
    ) -> None:
        """A request that may be repeated; `failed` is the answer when it is given up."""
        fault = self.troubles.strikes(process.name, Fault.NO_API, Fault.UNAVAILABLE, Fault.SLOW)
        little = self.clock.little
        if fault in (Fault.NO_API, Fault.UNAVAILABLE):
            process.later(little(0.5, 8), lambda: then(failed(fault or "")))
        else:
            delay = little(0.5, 5) if fault else little(0.001, 0.03)
            self.clock.after(delay, lambda: process.later(little(0.001, 0.03), partial(then, serve())))

    def finalize(
        self, process: Process, asked: commands.Patch, name: str, basis: Basis, then: Callable[[Input], None]
    ) -> None:
        """The finalizing write in that name."""
        fault = self.troubles.strikes(
            process.name, Fault.NO_API, Fault.UNAVAILABLE, Fault.SLOW, Fault.GIVEN_UP, Fault.ANSWER_LOST,
            Fault.REQUEST_LOST, Fault.REFUSED, Fault.FORBIDDEN, Fault.CONFLICT,
        )  # fmt: skip
        little = self.clock.little
        store = partial(self._finalize, asked, process.name, name, basis)

        def unseen() -> None:
            store()

        def answer(given: Input, after: float = 0.02) -> None:
            process.later(little(0.001, after), lambda: then(given))

        match fault:
            case Fault.NO_API | Fault.UNAVAILABLE:
                answer(Failed(fault), 8)
            case Fault.REFUSED:
                answer(Refused(fault))
            case Fault.FORBIDDEN:
                answer(Forbidden(fault))
            case Fault.CONFLICT:
                answer(ConditionLost(fault))
            case Fault.GIVEN_UP:
                self.clock.after(little(0.001, 3), unseen)
                answer(Failed(fault), 8)
            case Fault.ANSWER_LOST:
                self.clock.after(little(0.001, 0.03), unseen)
                self.clock.after(little(0.1, 4), lambda: answer(store(perhaps_done=True)))
            case Fault.REQUEST_LOST:
                self.clock.after(little(0.1, 4), lambda: answer(store(perhaps_done=True)))
            case _:
                delay = little(0.5, 4) if fault else little(0.001, 0.03)
                self.clock.after(delay, lambda: answer(store()))

    def _finalize(
        self, asked: commands.Patch, by: str, name: str, basis: Basis, *, perhaps_done: bool = False
    ) -> Input:
        before = self.documents.get(asked.run.name)
        if before is None:
            return NotFound()
        try:
            after = patched(before, asked.body)
        except TestFailed as lost:
            return ConditionLost(str(lost), perhaps_done)
        written = {"manager": name, "subresource": "status", "fieldsV1": {"f:status": {"f:phase": {}}}}
        after["metadata"]["managedFields"] = [*after["metadata"].get("managedFields", ()), written]
        for told in self.on_end:
            told(before, after, by, basis)
        self.write_run(after)
        return Written()

    def delete_step_run(self, name: str, uid: str, run: RunState) -> bool:
        """With both preconditions; whether it was there. What has a finalizer goes later (`operator`)."""
        found = self.objects[STEP_RUN].get(name)
        if not isinstance(found, StepRun) or found.metadata.uid != uid or found.spec.story_run_ref.name != run.name:
            return False
        for told in self.on_delete:
            told(found, run)
        self.mark_deleted(STEP_RUN, name)
        return True

    def mark_deleted(self, kind: str, name: str) -> None:
        found = self.objects[kind][name]
        if found.metadata.deletion_timestamp is None:
            gone_at = self.clock.at.strftime("%Y-%m-%dT%H:%M:%SZ")
            self.put(kind, replace(found, metadata=replace(found.metadata, deletion_timestamp=gone_at)))


def is_terminal(document: Document) -> bool:
    return bobrapet.is_terminal((document.get("status") or {}).get("phase"))


def is_deleting(document: Document) -> bool:
    return "deletionTimestamp" in document["metadata"]
