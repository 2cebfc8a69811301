"""Every recorded decision, decided again by the cores of today and compared with what was recorded. Pure.

- A fact: the condition under which its service says it still holds of the snapshot that it carries.
- An outcome: its trail is walked again through the terminator's table, each decision taken from the snapshot that it
  was taken from then (the fact's own, or the one that was read again).

Verdicts and rules are compared, not the words for them.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from exeunt.clock import format_instant
from exeunt.events import DRY_RUN, Decided, Fact, Verdict
from exeunt.history.event import SaidFact, SaidOutcome
from exeunt.history.stops import Stop, cause_of
from exeunt_terminator.decision import decide
from exeunt_terminator.stop import TRANSITIONS, Result, State
from exeunt_timeout_scheduler.deadlines import closed
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
        decision, deadline = closed(said.snapshot), said.snapshot.deadline
        if decision is not None:
            yield _difference(said, str(said.fact), "the stop is open", f"closed: {_name(*decision[:2])}")
        elif deadline is None or said.at < deadline:
            due = format_instant(deadline) if deadline else "never"
            yield _difference(said, str(said.fact), f"not before {due}", f"at {format_instant(said.at)}")
    elif said.fact is Fact.RUN_DELETED:
        if not said.snapshot.realtime:
            yield _difference(said, str(said.fact), "the run is realtime", "it is not")
    elif not holds(said.fact, said.snapshot):
        yield _difference(said, str(said.fact), "it holds of its snapshot", "it does not")


def check_outcome(said: SaidOutcome, cause: SaidFact) -> Iterator[Difference]:
    """Walk the recorded trail again; the first difference ends it, because what follows stands on it."""
    trail = said.outcome.trail
    coming: State | Result | None = State.DECIDING
    for number, step in enumerate(trail, 1):
        expected, actual = _name(step.verdict, step.rule), _again(coming, step, cause)
        if actual != expected:
            yield _difference(said, _decision(said, number), expected, actual)
            return
        coming = _came(step)
        if coming is None:
            allowed = ", ".join(_CAME_OF_WRITES)
            yield _difference(
                said, _decision(said, number), f"came to: {step.result or 'nothing'}", f"one of: {allowed}"
            )
            return
    if coming is not State.DONE:
        yield _difference(said, str(said.cause), "the end of the trail", f"a further decision, after {coming}")
    elif _name(said.outcome.verdict, said.outcome.rule) != _name(trail[-1].verdict, trail[-1].rule):
        last = _name(trail[-1].verdict, trail[-1].rule)
        yield _difference(said, str(said.cause), _name(said.outcome.verdict, said.outcome.rule), last)


_GONE: Final = "gone by deleted"
_REFUSED: Final = "failed by refused"
_NOTED: Final = {Result.NOT_FOUND: _GONE, Result.REFUSED: _REFUSED, Result.FORBIDDEN: _REFUSED}
"""What the kube-apiserver answered is noted as a step of its own, in which the rules have no part."""
_CAME_OF_WRITES: Final = (*TRANSITIONS[State.PATCHING], Result.ANSWER_LOST)
"""The last is found out by reading, and noted in place of the lost condition that it seemed to be."""


def _again(coming: State | Result | None, step: Decided, cause: SaidFact) -> str:
    """The verdict and rule that a step must have by today's cores, after what came before it."""
    if coming is State.DONE:
        return "nothing more"
    if isinstance(coming, Result):
        return _NOTED[coming]
    if step.reread is not None:
        return _name(*decide(cause.fact, cause.episode, step.reread)[:2])
    if _name(step.verdict, step.rule) == _GONE:
        return _GONE  # reading again found nothing
    if coming is State.READING:
        return "a decision on the run as it was read again"
    return _name(*decide(cause.fact, cause.episode, cause.snapshot)[:2])


def _came(step: Decided) -> State | Result | None:
    """What must come after a step: a state to go on in, an answer to note, DONE; None when its result cannot be."""
    if step.result == Result.UNREAD:
        return State.READING
    if step.verdict is not Verdict.FINALIZE or step.result == DRY_RUN:
        return State.DONE
    result = next((result for result in _CAME_OF_WRITES if result == step.result), None)
    if result is None or result in _NOTED:
        return result
    return State.READING if result is Result.CONDITION_LOST else State.DONE


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
