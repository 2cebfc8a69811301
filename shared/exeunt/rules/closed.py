"""When a stop is closed: there is nothing (more) for Exeunt to do about it, and why. Pure.

The terminator asks before it writes, the timeout-scheduler before it arms and again when a deadline has come. The rules
stand in one table, in the order in which they are asked; the first that applies decides.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from exeunt.events.event_types import EventType, Verdict
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import Snapshot


class Case(NamedTuple):
    """The event that was published, the cancellation that it was published for, and the run as it is known now."""

    event_type: EventType
    cancellation: Cancellation
    snapshot: Snapshot


class Rule(NamedTuple):
    """A named condition, the verdict that follows from it, and the reason in words for people."""

    name: str
    applies: Callable[[Case], bool]
    verdict: Verdict
    why: str


class Decision(NamedTuple):
    """The verdict and the rule that gave it."""

    verdict: Verdict
    rule: str
    why: str


CLOSED = (
    Rule(
        "deleted",
        lambda case: case.snapshot.run.deleting,
        Verdict.GONE,
        "the StoryRun is being deleted",
    ),
    Rule(
        "recreated",
        lambda case: case.snapshot.run.uid != case.cancellation.uid,
        Verdict.SUPERSEDED,
        "another StoryRun has this name now",
    ),
    Rule(
        "redriving",
        lambda case: case.snapshot.run.redriving,
        Verdict.SUPERSEDED,
        "bobrapet is redriving the run; it will be canceled again as a new cancellation",
    ),
    Rule(
        "ended-by-exeunt",
        lambda case: case.snapshot.run.terminal and case.snapshot.run.ended_by_exeunt,
        Verdict.ALREADY_TERMINAL,
        "Exeunt has ended the run already",
    ),
    Rule(
        "terminal",
        lambda case: case.snapshot.run.terminal,
        Verdict.ALREADY_TERMINAL,
        "the run is already in a terminal phase",
    ),
    Rule(
        "not-canceled",
        lambda case: not case.snapshot.run.cancel_requested,
        Verdict.LEAVE,
        "nobody asked to cancel the run",
    ),
    Rule(
        "new-episode",
        lambda case: case.snapshot.run.cancellation != case.cancellation,
        Verdict.SUPERSEDED,
        "the run is in another cancellation now",
    ),
    Rule(
        "opted-out",
        lambda case: not (case.snapshot.run.enabled and case.snapshot.story.enabled),
        Verdict.LEAVE,
        f'annotation {bobrapet.ENABLED}: "false" leaves the run to bobrapet',
    ),
    Rule(
        "not-realtime",
        lambda case: not case.snapshot.realtime,
        Verdict.LEAVE,
        "the run is not realtime",
    ),
    Rule(
        "unfenced",
        lambda case: case.snapshot.run.cancel_observed_at is None and not case.snapshot.run.observation_overdue,
        Verdict.WAIT,
        "bobrapet has not observed the cancel yet; until then it may still write the run",
    ),
)


def first_that_applies(rules: Iterable[Rule], case: Case) -> Decision | None:
    """The decision of the first rule that applies, or None when none does."""
    rule = next((rule for rule in rules if rule.applies(case)), None)
    return None if rule is None else Decision(rule.verdict, rule.name, rule.why)
