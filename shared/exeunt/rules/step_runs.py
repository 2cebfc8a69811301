"""Which StepRuns have to go with their run. Pure."""

from collections.abc import Iterable

from exeunt.run import bobrapet
from exeunt.run.models import StepRun, TransportBinding
from exeunt.run.snapshot import StepRunRef


def owner_of(step_run: StepRun) -> str | None:
    """The uid of the StoryRun that owns it; hub-created StepRuns have no owner (contract §3.1)."""
    return next((owner.uid for owner in step_run.metadata.owner_references if owner.kind == "StoryRun"), None)


def belongs_to(owner: str | None, run_uid: str) -> bool:
    """Whether a StepRun of this owner that names the run is really this run's: without an owner the name decides."""
    return owner is None or owner == run_uid


def undeleted(step_runs: Iterable[StepRun], run_uid: str) -> list[StepRun]:
    """Those of `step_runs` that are this run's and not on their way out."""
    return [
        step_run
        for step_run in step_runs
        if belongs_to(owner_of(step_run), run_uid) and step_run.metadata.deletion_timestamp is None
    ]


def is_finished(step_run: StepRun) -> bool:
    return bobrapet.is_terminal(step_run.status.phase if step_run.status else None)


def is_live_binding(binding: TransportBinding, run_uid: str) -> bool:
    """Whether a TransportBinding is a live connection of this very run."""
    ref = binding.spec.story_run_ref
    return ref is not None and ref.uid == run_uid and binding.metadata.deletion_timestamp is None


def step_runs_to_delete(
    run_uid: str, step_runs: Iterable[StepRun], bindings: Iterable[TransportBinding]
) -> tuple[StepRunRef, ...]:
    """The live StepRuns of a run, and terminal ones whose binding still lives: their runtime would leak (§2.6 C).

    `step_runs` and `bindings` are those that name the run.
    """
    streaming = {binding.spec.engram_name for binding in bindings if is_live_binding(binding, run_uid)}
    return tuple(
        StepRunRef(step_run.metadata.name, step_run.metadata.uid)
        for step_run in undeleted(step_runs, run_uid)
        if not is_finished(step_run) or step_run.metadata.name in streaming
    )
