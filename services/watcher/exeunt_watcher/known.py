"""What is kept of objects, which may be some ten thousand of each kind: no more than is looked at again. Pure.

Of strings that several objects have, such as the uid of their run, one is kept.
"""

from typing import NamedTuple, TypeVar

from msgspec import Struct

from exeunt.rules.step_runs import belongs_to
from exeunt.run.bobrapet import FIRST_ATTEMPT
from exeunt.run.cancellations import attempt_of
from exeunt.run.models import Story, StoryRun
from exeunt.run.snapshot import RunState, Snapshot, StepRunRef
from exeunt_watcher.topology import LiveBinding

Key = tuple[str, str]
"""Namespace and name."""

T = TypeVar("T")


class Left(NamedTuple):
    """A StepRun that names a run, and the uid of the StoryRun that owns it, where one does."""

    step_run: StepRunRef
    owner: str | None


class KnownStepRun(Struct, frozen=True, gc=False):
    """A live StepRun; `owner` is the uid of the StoryRun that owns it."""

    run: Key
    ref: StepRunRef
    owner: str | None


class KnownBinding(LiveBinding, frozen=True, gc=False):
    """`uid` is that of its run, and `attempt` the run's when the binding was first seen."""

    run: Key
    uid: str
    attempt: str


class Known(Struct, gc=False, eq=False):
    """All that is known under the name of one run, which need not be there (yet).

    `snapshot` is its last; `story` is what that was made of, and `state` how `run` was read, where time does not count.
    """

    key: Key
    run: StoryRun | None = None
    state: RunState | None = None
    story: Story | None = None
    snapshot: Snapshot | None = None
    step_runs: tuple[KnownStepRun, ...] = ()
    bindings: tuple[KnownBinding, ...] = ()

    def add_step_run(self, ref: StepRunRef, owner: str | None) -> KnownStepRun:
        added = KnownStepRun(self.key, ref, owner and self._same_uid(owner))
        self.step_runs += (added,)
        return added

    def add_binding(
        self, *, uid: str, attempt: str, step_run: StepRunRef | None, heartbeat: str | None
    ) -> KnownBinding:
        same = next((known.ref for known in self.step_runs if known.ref == step_run), step_run)
        added = KnownBinding(same, heartbeat, self.key, self._same_uid(uid), attempt)
        self.bindings += (added,)
        return added

    def step_runs_of(self, uid: str) -> list[StepRunRef]:
        """Those that refer to the run by name and are not owned by another uid (contract §3.1)."""
        return [step_run.ref for step_run in self.step_runs if belongs_to(step_run.owner, uid)]

    def bindings_of(self, uid: str) -> list[KnownBinding]:
        """Those of the run with that uid (contract §3.2)."""
        return [binding for binding in self.bindings if binding.uid == uid]

    def left(self, uid: str | None) -> tuple[Left, ...]:
        """What would have to go with a run of this name: its live StepRuns, and those that own a live binding of the
        run with that uid, where it is known.
        """
        step_runs = {step_run.ref.uid: Left(step_run.ref, step_run.owner) for step_run in self.step_runs}
        for binding in self.bindings:
            if binding.uid == uid and binding.step_run is not None:
                step_runs.setdefault(binding.step_run.uid, Left(binding.step_run, uid))
        return tuple(step_runs.values())

    def attempt_of(self, uid: str) -> str:
        """The present attempt of the run with that uid, as far as it is known; of one that is not, only its first can
        be shown for sure.
        """
        run = self.run
        return attempt_of(run.metadata.annotations) if run is not None and run.metadata.uid == uid else FIRST_ATTEMPT

    def _same_uid(self, uid: str) -> str:
        """The string that is here already, if it is."""
        if self.run is not None and self.run.metadata.uid == uid:
            return self.run.metadata.uid
        if self.step_runs and self.step_runs[0].owner == uid:
            return self.step_runs[0].owner
        return self.bindings[0].uid if self.bindings and self.bindings[0].uid == uid else uid


def without(items: tuple[T, ...], item: T) -> tuple[T, ...]:
    """All but that one."""
    at = items.index(item)
    return items[:at] + items[at + 1 :]
