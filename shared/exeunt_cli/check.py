"""Every recorded decision, decided again by the cores of today and compared with what was recorded. Pure.

- An event of the watcher: the condition under which it is said still holds of the snapshot that it carries.
- A deadline: the timeout-scheduler's machine is driven again, at the time when it was said, and says so still.
- An outcome: the terminator's machine is driven again. What it asks is answered as the trail tells that it was: the run
  as it was read again, and what came of each write. What a trail does not tell was as the outcome shows: the evidence
  was still there when something was written, and what is not among the StepRuns that were deleted was not there.

Verdicts, rules and results are compared, not the words for them.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from exeunt.clock import format_instant, format_status_time
from exeunt.events import cloudevents
from exeunt.events.codec import ReceivedEvent
from exeunt.events.event_types import Decided, EventType, Verdict
from exeunt.history.event import OutcomeEvent, RunEvent
from exeunt.history.stops import Stop, cause_of
from exeunt.run import bobrapet
from exeunt.run.snapshot import Snapshot
from exeunt_terminator.commands import (
    CancelChildren,
    ChildrenCanceled,
    ConditionLost,
    Delete,
    Deleted,
    Delivered,
    End,
    Forbidden,
    GetRun,
    Input,
    LastSignals,
    List,
    Listed,
    NotFound,
    Patch,
    Question,
    Record,
    Refused,
    RunRead,
    Signals,
    Written,
)
from exeunt_terminator.machine import Stopping
from exeunt_terminator.stop import Result
from exeunt_timeout_scheduler import commands as timeout_scheduler
from exeunt_timeout_scheduler.commands import Hold, Publish
from exeunt_timeout_scheduler.deadlines import Deadline
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_watcher.event_types import holds, leaves_step_runs


class Difference(Struct, frozen=True, kw_only=True):
    """Where today's decision is another: `expected` is what was recorded, `actual` what is decided now."""

    sequence: int
    place: str
    run: str
    what: str
    expected: str
    actual: str


class Checked(Struct, frozen=True, kw_only=True):
    """What came of a check. `unchecked` names outcomes whose cause is not in the history."""

    run_events: int = field(name="facts")
    outcomes: int
    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.differences and not self.unchecked


def check(stops: Iterable[Stop]) -> Checked:
    """Decide all of it again; differences come in the order of the stream."""
    run_events = outcomes = 0
    differences: list[Difference] = []
    unchecked: list[str] = []
    for stop in stops:
        run_events += len(stop.run_events)
        for event_type in stop.run_events:
            differences += check_event(event_type)
        for outcome in stop.outcomes:
            cause = cause_of(outcome, stop.run_events)
            if cause is None:
                where = f"the event at sequence {outcome.outcome.cause_sequence} is not in the history"
                unchecked.append(f"{outcome.record.place}: cannot decide on {outcome.cause} of {stop.run}: {where}")
                continue
            outcomes += 1
            differences += check_outcome(outcome, cause)
    return Checked(
        run_events=run_events,
        outcomes=outcomes,
        differences=tuple(sorted(differences, key=lambda difference: difference.sequence)),
        unchecked=tuple(unchecked),
    )


def check_event(recorded: RunEvent) -> Iterator[Difference]:
    """Whether its service would publish it again of this snapshot, and not earlier."""
    if recorded.event_type is EventType.DEADLINE_REACHED:
        scheduling, command = fire(recorded.snapshot, recorded.at)
        if isinstance(command, Hold):
            early = f"not before {format_instant(command.until)}", f"at {format_instant(recorded.at)}"
            yield _difference(recorded, str(recorded.event_type), *early)
        elif not isinstance(command, Publish):
            why = _name(*scheduling.decision[:2]) if scheduling.decision else "it has no deadline"
            yield _difference(recorded, str(recorded.event_type), "the stop is open", f"closed: {why}")
    elif recorded.event_type is EventType.RUN_DELETED:
        if not recorded.snapshot.realtime:
            yield _difference(recorded, str(recorded.event_type), "the run is realtime", "it is not")
    elif recorded.event_type is EventType.STEP_RUNS_LEFT:
        if not leaves_step_runs(recorded.snapshot):
            yield _difference(recorded, str(recorded.event_type), "Exeunt has ended the run", "it has not")
    elif not holds(recorded.event_type, recorded.snapshot):
        yield _difference(recorded, str(recorded.event_type), "it holds of its snapshot", "it does not")


def fire(snapshot: Snapshot, at: datetime) -> tuple[Scheduling, timeout_scheduler.Command]:
    """What the timeout-scheduler would do at `at`, the deadline's schedule having fired, and the run being as it is."""
    scheduling = Scheduling()
    deadline = Deadline(format_instant(snapshot.deadline or at), snapshot)
    command = scheduling.receive(timeout_scheduler.Fired(deadline), at)
    if isinstance(command, timeout_scheduler.GetRun):
        command = scheduling.receive(timeout_scheduler.RunRead(snapshot.run), at)
    return scheduling, command


def first_decision(event_type: EventType, snapshot: Snapshot, at: datetime) -> Decided:
    """What the terminator would decide first, if the event came at `at`, and the run were as it is."""
    attributes = cloudevents.Attributes(id="", source="", type=event_type, subject="", time=format_instant(at))
    stopping = Stopping(ReceivedEvent(attributes, event_type, snapshot), dry_run=False, propagate_cancel=False)
    stopping.receive(Delivered(0, 1, at), at)
    return stopping.trail[0]


def check_outcome(event: OutcomeEvent, cause: RunEvent) -> Iterator[Difference]:
    """Go through the stop again; the first difference ends it, because what follows stands on it."""
    recorded, again = event.outcome.trail, _again(event, cause)
    for number, (expected, actual) in enumerate(zip(recorded, again.trail, strict=False), 1):
        if _step(expected) != _step(actual):
            yield _difference(event, _decision(event, number), _step(expected), _step(actual))
            return
        if expected.result != actual.result:
            came = (f"came to: {step.result or 'nothing'}" for step in (expected, actual))
            yield _difference(event, _decision(event, number), *came)
            return
    if len(recorded) > len(again.trail):
        number = len(again.trail) + 1
        yield _difference(event, _decision(event, number), _step(recorded[number - 1]), "nothing more")
    elif len(recorded) < len(again.trail) or not again.whole:
        yield _difference(event, str(event.cause), "the end of the trail", f"more, after {_step(again.trail[-1])}")


class _Again(NamedTuple):
    """A stop gone through again: its trail, and whether it came to its end with the answers that there were."""

    trail: list[Decided]
    whole: bool


def _again(event: OutcomeEvent, cause: RunEvent) -> _Again:
    """At the same time for all of it: it decides only whether a deadline has come, and what was recorded knows that."""
    trail, snapshot = event.outcome.trail, cause.snapshot
    if event.outcome.without_bus and trail and trail[0].reread is not None:
        # It was decided from an event of its own, in place of which the history may have another's.
        unknown = any(step.result == Result.WRITTEN_STEP_RUNS_UNKNOWN for step in trail)
        snapshot = replace(trail[0].reread, step_runs=None if unknown else ())
    deadlines = (known.deadline for known in (cause.snapshot, *(step.reread for step in trail)) if known)
    at = max((event.at, *filter(None, deadlines)))
    stopping = Stopping(
        ReceivedEvent(cloudevents.from_headers(cause.record.headers), cause.event_type, snapshot),
        dry_run=event.outcome.dry_run,
        propagate_cancel=any(step.result == Result.UNREAD for step in trail),
    )
    read = bool(trail) and (trail[0].reread is not None or (_is_gone(trail[0]) and not cause.snapshot.run.deleting))
    heard: Input | None = Delivered(cause.record.sequence, 2 if read else 1, at)
    while heard is not None:
        command = stopping.receive(heard, at)
        if isinstance(command, Record | End):
            return _Again(stopping.trail, isinstance(command, Record) or stopping.recorded)
        heard = _answer(command, stopping, event, at)
    return _Again(stopping.trail, whole=False)


def _answer(asked: Question, stopping: Stopping, event: OutcomeEvent, at: datetime) -> Input | None:
    """What was answered then, as far as it was recorded or shows in what was."""
    trail = event.outcome.trail[max(0, len(stopping.trail) - 1) :]
    came = trail[0].result if stopping.trail and trail else ""
    match asked:
        case Patch():
            return _OF_WRITES.get(came)
        case GetRun(run) if came == Result.ANSWER_LOST:
            ours = {"ended_by_exeunt": True, "finished_at": format_status_time(at)}
            return RunRead(replace(run, phase=bobrapet.FINISHED, **ours), own=True)
        case GetRun():
            ahead = trail[1 if stopping.trail else 0 :]
            if not ahead or (ahead[0].reread is None and not _is_gone(ahead[0])):
                return None
            reread = ahead[0].reread
            return RunRead(reread.run, story=reread.story) if reread else NotFound()
        case List():
            return Listed()
        case LastSignals():
            return Signals(())
        case Delete():
            return Deleted(event.outcome.deleted_step_runs)
        case CancelChildren():
            return ChildrenCanceled(event.outcome.canceled_children)


_OF_WRITES: Final[dict[str, Input]] = {
    Result.WRITTEN: Written(),
    Result.WRITTEN_STEP_RUNS_UNKNOWN: Written(),
    Result.CONDITION_LOST: ConditionLost("then"),
    Result.ANSWER_LOST: ConditionLost("then", perhaps_done=True),
    Result.NOT_FOUND: NotFound(),
    Result.REFUSED: Refused("then"),
    Result.FORBIDDEN: Forbidden("then"),
}
"""What the kube-apiserver has answered, by what was noted of it."""


def _is_gone(step: Decided) -> bool:
    """Whether reading again found nothing."""
    return step.reread is None and (step.verdict, step.rule) == (Verdict.GONE, "deleted")


def _step(step: Decided) -> str:
    return _name(step.verdict, step.rule)


def _difference(recorded: RunEvent | OutcomeEvent, what: str, expected: str, actual: str) -> Difference:
    run = f"{recorded.cancellation.namespace}/{recorded.cancellation.name}"
    return Difference(
        sequence=recorded.record.sequence,
        place=recorded.record.place,
        run=run,
        what=what,
        expected=expected,
        actual=actual,
    )


def _decision(recorded: OutcomeEvent, number: int) -> str:
    count = len(recorded.outcome.trail)
    return f"decision {number} of {count} on {recorded.cause}" if count > 1 else f"the decision on {recorded.cause}"


def _name(verdict: Verdict, rule: str) -> str:
    return f"{verdict} by {rule}"
