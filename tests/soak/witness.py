"""Reads from the objects and the streams what became of a run: the players are not asked."""

from collections import defaultdict
from datetime import datetime

from actors.bystander import Bystander, Recorded
from actors.kubernetes import STEP_RUN, Kubernetes
from actors.names import CANCEL_OBSERVED_AT, TERMINAL
from actors.recorder import Recorder, State
from exeunt.events.event_types import Verdict
from soak.people import insist
from soak.stage import Stage
from soak.witnessed import Decided, End, Played


def look(run: Played, recorder: Recorder) -> None:
    """What was seen of the object so far."""
    states = recorder.states(run.uid)
    run.ends = [_end(state) for state in recorder.terminal_transitions(run.uid)]
    run.is_deleted = bool(states) and states[-1].deleted
    run.last_phase = states[-1].phase if states else None
    run.touched_by = frozenset(
        entry["manager"] for state in states for entry in state.run["metadata"].get("managedFields", [])
    )


def _end(state: State) -> End:
    observed = state.run["metadata"].get("annotations", {}).get(CANCEL_OBSERVED_AT)
    finished_at = state.run["status"].get("finishedAt")
    return End(
        state.at,
        state.written_by,
        datetime.fromisoformat(observed) if observed else None,
        datetime.fromisoformat(finished_at) if finished_at else None,
    )


async def read_histories(on: Stage, runs: list[Played]) -> None:
    """What RUNS has of each run, and what DEADLINES has."""
    armed = await _armed(on.bystander)
    for run in runs:
        run.armed = armed.get(run.uid, 0)
        of: defaultdict[str, list[Recorded]] = defaultdict(list)
        for recorded in await on.bystander.history(run.uid):
            of[recorded.cancellation].append(recorded)
        for end in run.ends:
            run.histories[end.cancel_observed_at] = _decided(
                [recorded for token, all_of_it in of.items() if _is_of(token, end) for recorded in all_of_it]
            )


def _is_of(token: str, end: End) -> bool:
    """Whether a cancellation's token in a subject is that of the end's."""
    if end.cancel_observed_at is None:
        return True
    try:
        return datetime.fromisoformat(token.replace("_", ".")) == end.cancel_observed_at
    except ValueError:
        return False


def _decided(history: list[Recorded]) -> Decided:
    events = frozenset(str(recorded.event_type) for recorded in history if recorded.outcome is None)
    rules = [
        recorded.outcome.rule
        for recorded in history
        if recorded.outcome
        and (
            recorded.outcome.rule == "ended-by-exeunt"
            # At any step: the answer to its write may be lost, and the run redriven before it is read again.
            or any(step.verdict is Verdict.FINALIZE for step in recorded.outcome.trail)
        )
    ]
    return Decided(events, tuple(rules))


async def _armed(bystander: Bystander) -> dict[str, int]:
    """Pending schedules, by the run's uid."""
    armed: defaultdict[str, int] = defaultdict(int)
    info = await bystander.streams.stream_info("DEADLINES", subjects_filter="exeunt.deadlines.armed.>")
    for subject, number in (info.state.subjects or {}).items():
        armed[subject.split(".")[5]] += number
    return armed


async def look_for_step_runs(kubernetes: Kubernetes, runs: list[Played]) -> None:
    """Those that live on."""
    left: defaultdict[str, list[str]] = defaultdict(list)
    for step_run in await insist(lambda: kubernetes.list(STEP_RUN)):
        metadata = step_run["metadata"]
        if "deletionTimestamp" not in metadata and step_run.get("status", {}).get("phase") not in TERMINAL:
            for owner in metadata.get("ownerReferences", []):
                left[owner["uid"]].append(metadata["name"])
    for run in runs:
        run.step_runs_left = tuple(left.get(run.uid, ()))
