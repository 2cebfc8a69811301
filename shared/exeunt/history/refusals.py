"""Writes that the kube-apiserver refused, in words: by whom, how often, and when the next try comes. Pure."""

import re
from datetime import datetime
from typing import Final

from exeunt.clock import format_instant, readable_instant
from exeunt.events.event_types import Outcome
from exeunt.history.stops import Stop

_POLICY: Final = re.compile(r"""ValidatingAdmissionPolicy '[^']+'|admission webhook "[^"]+\"""")
_DENIED: Final = re.compile(r": \d{3} \w+: (?:.*? is forbidden: )?(.+)", re.DOTALL)


def refused(outcome: Outcome) -> str:
    """Who refused the write, as far as the kube-apiserver said so: a policy, or the right that is missing."""
    if policy := _POLICY.search(outcome.why):
        return f"refused by {policy[0]}"
    denied = _DENIED.search(outcome.why)
    return f"refused: {denied[1] if denied else outcome.why.removeprefix('the write was refused: ')}"


def attempts(stop: Stop) -> int:
    """How many writes of this stop were refused: an event that comes again counts its tries, another event is
    another.
    """
    tries: dict[int, int] = {}
    for recorded in stop.refusals:
        sequence = recorded.outcome.cause_sequence
        tries[sequence] = max(tries.get(sequence, 0), recorded.outcome.attempt)
    return sum(tries.values())


def next_try(stop: Stop) -> datetime | None:
    """When the event that was refused last comes again; None when it is a dead letter."""
    return readable_instant(stop.refusals[-1].outcome.next_at) if stop.refusals else None


def attempt_in_words(outcome: Outcome) -> str:
    """Which try of its event this was, and when the next comes."""
    at = readable_instant(outcome.next_at)
    then = f", the next at {format_instant(at)}" if at else "; the event is a dead letter"
    return f"attempt {outcome.attempt}{then}"
