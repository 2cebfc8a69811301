"""Every recorded decision, decided again by the cores of today and compared with what was recorded. Pure.

- A fact of the watcher: the condition under which it is said still holds of the snapshot that it carries.
- A deadline: the timeout-scheduler's machine is driven again, at the time when it was said, and says so still.
- An outcome: the terminator's machine is driven again. What it asks is answered as the trail tells that it was: the run
  as it was read again, and what came of each write. What a trail does not tell was as the outcome shows: the evidence
  was still there when something was written, and what is not among the StepRuns that were deleted was not there.

Verdicts, rules and results are compared, not the words for them.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exeunt import bobrapet, cloudevents
from exeunt.clock import format_instant, format_status_time
from exeunt.codec import FactEvent
from exeunt.events import Decided, Fact, Verdict
from exeunt.history.event import SaidFact, SaidOutcome
from exeunt.history.stops import Stop, cause_of
from exeunt.snapshot import Snapshot
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
from exeunt_watcher.facts import holds


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

    facts: int
    outcomes: int
    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.differences and not self.unchecked


def check(stops: Iterable[Stop]) -> Checked:
    """Decide all of it again; differences come in the order of the stream."""
    facts = outcomes = 0
    differences: list[Difference] = []
    unchecked: list[str] = []
    for stop in stops:
        facts += len(stop.facts)
        for fact in stop.facts:
            differences += check_fact(fact)
        for outcome in stop.outcomes:
            cause = cause_of(outcome, stop.facts)
            if cause is None:
                where = f"the fact at sequence {outcome.outcome.cause_sequence} is not in the history"
                unchecked.append(f"{outcome.record.place}: cannot decide on {outcome.cause} of {stop.run}: {where}")
                continue
            outcomes += 1
            differences += check_outcome(outcome, cause)
    return Checked(
        facts=facts,
        outcomes=outcomes,
        differences=tuple(sorted(differences, key=lambda difference: difference.sequence)),
        unchecked=tuple(unchecked),
    )


def check_fact(said: SaidFact) -> Iterator[Difference]:
    """Whether its service would say it again of this snapshot, and not earlier."""
    if said.fact is Fact.DEADLINE_REACHED:
        scheduling, command = fire(said.snapshot, said.at)
        if isinstance(command, Hold):
            early = f"not before {format_instant(command.until)}", f"at {format_instant(said.at)}"
            yield _difference(said, str(said.fact), *early)
        elif not isinstance(command, Publish):
            why = _name(*scheduling.decision[:2]) if scheduling.decision else "it has no deadline"
            yield _difference(said, str(said.fact), "the stop is open", f"closed: {why}")
    elif said.fact is Fact.RUN_DELETED:
        if not said.snapshot.realtime:
            yield _difference(said, str(said.fact), "the run is realtime", "it is not")
    elif not holds(said.fact, said.snapshot):
        yield _difference(said, str(said.fact), "it holds of its snapshot", "it does not")


def fire(snapshot: Snapshot, at: datetime) -> tuple[Scheduling, timeout_scheduler.Command]:
    """What the timeout-scheduler would do at `at`, the deadline's schedule having fired, and the run being as it is."""
    scheduling = Scheduling()
    deadline = Deadline(format_instant(snapshot.deadline or at), snapshot)
    command = scheduling.receive(timeout_scheduler.Fired(deadline), at)
    if isinstance(command, timeout_scheduler.GetRun):
        command = scheduling.receive(timeout_scheduler.RunRead(snapshot.run), at)
    return scheduling, command


def check_outcome(said: SaidOutcome, cause: SaidFact) -> Iterator[Difference]:
    """Go through the stop again; the first difference ends it, because what follows stands on it."""
    recorded, again = said.outcome.trail, _again(said, cause)
    for number, (expected, actual) in enumerate(zip(recorded, again.trail, strict=False), 1):
        if _step(expected) != _step(actual):
            yield _difference(said, _decision(said, number), _step(expected), _step(actual))
            return
        if expected.result != actual.result:
            came = (f"came to: {step.result or 'nothing'}" for step in (expected, actual))
            yield _difference(said, _decision(said, number), *came)
            return
    if len(recorded) > len(again.trail):
        number = len(again.trail) + 1
        yield _difference(said, _decision(said, number), _step(recorded[number - 1]), "nothing more")
    elif len(recorded) < len(again.trail) or not again.whole:
        yield _difference(said, str(said.cause), "the end of the trail", f"more, after {_step(again.trail[-1])}")
    elif _name(said.outcome.verdict, said.outcome.rule) != _step(recorded[-1]):
        yield _difference(said, str(said.cause), _name(said.outcome.verdict, said.outcome.rule), _step(recorded[-1]))


class _Again(NamedTuple):
    """A stop gone through again: its trail, and whether it came to its end with the answers that there were."""

    trail: list[Decided]
    whole: bool


def _again(said: SaidOutcome, cause: SaidFact) -> _Again:
    """At the same time for all of it, the outcome's: it decides nothing here."""
    trail = said.outcome.trail
    stopping = Stopping(
        FactEvent(cloudevents.from_headers(cause.record.headers), cause.fact, cause.snapshot),
        dry_run=said.outcome.dry_run,
        propagate_cancel=any(step.result == Result.UNREAD for step in trail),
    )
    read = bool(trail) and (trail[0].reread is not None or (_is_gone(trail[0]) and not cause.snapshot.run.deleting))
    heard: Input | None = Delivered(cause.record.sequence, 2 if read else 1, said.at)
    while heard is not None:
        command = stopping.receive(heard, said.at)
        if isinstance(command, Record | End):
            return _Again(stopping.trail, isinstance(command, Record))
        heard = _answer(command, stopping, said)
    return _Again(stopping.trail, whole=False)


def _answer(asked: Question, stopping: Stopping, said: SaidOutcome) -> Input | None:
    """What was answered then, as far as it was recorded or shows in what was."""
    trail = said.outcome.trail[max(0, len(stopping.trail) - 1) :]
    came = trail[0].result if stopping.trail and trail else ""
    match asked:
        case Patch():
            return _OF_WRITES.get(came)
        case GetRun(run) if came == Result.ANSWER_LOST:
            ours = {"ended_by_exeunt": True, "finished_at": format_status_time(said.at)}
            return RunRead(replace(run, phase=bobrapet.FINISHED, **ours))
        case GetRun():
            ahead = trail[1 if stopping.trail else 0 :]
            if not ahead or (ahead[0].reread is None and not _is_gone(ahead[0])):
                return None
            return RunRead(ahead[0].reread.run) if ahead[0].reread else NotFound()
        case List():
            return Listed()
        case LastSignals():
            return Signals(())
        case Delete():
            return Deleted(said.outcome.deleted_step_runs)
        case CancelChildren():
            return ChildrenCanceled(said.outcome.canceled_children)


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


def _difference(said: SaidFact | SaidOutcome, what: str, expected: str, actual: str) -> Difference:
    run = f"{said.episode.namespace}/{said.episode.name}"
    return Difference(
        sequence=said.record.sequence, place=said.record.place, run=run, what=what, expected=expected, actual=actual
    )


def _decision(said: SaidOutcome, number: int) -> str:
    count = len(said.outcome.trail)
    return f"decision {number} of {count} on {said.cause}" if count > 1 else f"the decision on {said.cause}"


def _name(verdict: Verdict, rule: str) -> str:
    return f"{verdict} by {rule}"
