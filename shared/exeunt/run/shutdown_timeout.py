"""How long a canceled run may take to stop, and which rule said so. Pure.

Run annotation > Story annotation > Story `spec.policy.timeouts.gracefulShutdownTimeout` > the service's default.
One that cannot be used is rejected with its reason: no Go duration, negative, or longer than a year.
A transport's `drainTimeoutSeconds` is never consulted: that is what Exeunt exists for (bobrapet issue #87).
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from msgspec import Struct

from exeunt.clock import format_duration, parse_duration
from exeunt.run import bobrapet

RUN_ANNOTATION: Final = "StoryRun annotation"
STORY_ANNOTATION: Final = "Story annotation"
STORY_POLICY: Final = "Story policy"
DEFAULT: Final = "default"
"""The rules, from the strongest to the weakest."""

LONGEST: Final = timedelta(days=365)
"""More than any call lasts. "Never" as a duration would give deadlines beyond 2262, which nothing here can hold."""


class Rejected(Struct, frozen=True):
    """A value that was found and could not be used; the next rule was."""

    rule: str
    value: str
    why: str


class ShutdownTimeout(Struct, frozen=True, omit_defaults=True):
    """The resolved shutdown timeout: Go duration text, the rule that won, and what was rejected on the way."""

    timeout: str
    rule: str
    rejected: tuple[Rejected, ...] = ()

    @property
    def duration(self) -> timedelta:
        return parse_duration(self.timeout)


def resolve(
    run_annotations: Mapping[str, str],
    story_annotations: Mapping[str, str],
    story_policy: object,
    default: timedelta,
) -> ShutdownTimeout:
    """Find the first rule with a usable value.

    `story_policy` is the raw `gracefulShutdownTimeout`: the CRD lets any string pass (contract §4.2), and a value of
    another type must not hide the run, so everything but None is looked at here.
    """
    rejected: list[Rejected] = []
    for rule, value in (
        (RUN_ANNOTATION, run_annotations.get(bobrapet.SHUTDOWN_TIMEOUT)),
        (STORY_ANNOTATION, story_annotations.get(bobrapet.SHUTDOWN_TIMEOUT)),
        (STORY_POLICY, story_policy),
    ):
        if value is None:
            continue
        value = value.strip() if isinstance(value, str) else value  # noqa: PLW2901 - blanks beside it mean nothing
        why = _objection(value)
        if why is None:
            return ShutdownTimeout(str(value), rule, tuple(rejected))
        rejected.append(Rejected(rule, str(value)[:64], why))
    return ShutdownTimeout(format_duration(default), DEFAULT, tuple(rejected))


def _objection(value: object) -> str | None:
    if not isinstance(value, str):
        return f"a {type(value).__name__} is no Go duration text"
    try:
        duration = parse_duration(value)
    except ValueError as error:
        return str(error)
    if duration < timedelta(0):
        return "a shutdown timeout cannot be negative"
    if duration > LONGEST:
        return f"a shutdown timeout cannot be longer than a year ({format_duration(LONGEST)})"
    return None
