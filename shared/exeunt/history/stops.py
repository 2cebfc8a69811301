"""The events of runs, put together into stops: each event with the decisions that it caused, and how it all ended.
Pure.

A stop is one cancellation with what led to it: what was published in the run's attempt before bobrapet has observed the
cancel (its topology was established, or was gone already) belongs to the first cancellation of that attempt.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from exeunt.clock import parse_instant
from exeunt.events.event_types import EventType, Verdict
from exeunt.history.event import Event, OutcomeEvent, RunEvent
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import Snapshot


class Ending(StrEnum):
    """How far a stop has come, as its history tells."""

    RUNNING = "running"
    """Nobody has asked for it yet."""
    STOPPING = "stopping"
    """Canceled, and not at its end."""
    FINALIZED = "finalized"
    """Exeunt has ended it."""
    ENDED_ELSEWHERE = "ended elsewhere"
    """Somebody else has: bobrapet itself, as a rule."""
    LEFT = "left"
    """Exeunt leaves it alone, by a rule."""
    FAILED = "failed"
    """The write was refused, by a policy or for want of a right."""
    DELETED = "deleted"
    """The StoryRun was deleted before it had ended."""
    SUPERSEDED = "superseded"
    """The run was redriven, or another one has its name: this stop is over, a later one may follow."""


_UNENDED = {Verdict.LEAVE: Ending.LEFT, Verdict.FAILED: Ending.FAILED, Verdict.SUPERSEDED: Ending.SUPERSEDED}
"""What the last decision says about a canceled run of which no end was seen."""


class Step(NamedTuple):
    """An event and the decisions that it caused. `event_type` is None for a decision whose cause is not in the
    history.
    """

    event_type: RunEvent | None
    outcomes: tuple[OutcomeEvent, ...]

    @property
    def at(self) -> datetime:
        return self.event_type.at if self.event_type else self.outcomes[0].at


@dataclass(frozen=True)
class Stop:
    """One stop. `events` are in the order of the stream, and there is at least one."""

    events: tuple[Event, ...]

    @cached_property
    def cancellation(self) -> Cancellation:
        """Its cancellation; that of its attempt, while bobrapet has not observed the cancel."""
        attempts = {run_event.snapshot.run.attempt_key for run_event in self.run_events}
        observed_cancel = (event.cancellation for event in reversed(self.events) if event.cancellation not in attempts)
        return next(observed_cancel, self.events[-1].cancellation)

    @property
    def run(self) -> str:
        return f"{self.cancellation.namespace}/{self.cancellation.name}"

    @cached_property
    def run_events(self) -> tuple[RunEvent, ...]:
        return tuple(event for event in self.events if isinstance(event, RunEvent))

    @cached_property
    def outcomes(self) -> tuple[OutcomeEvent, ...]:
        return tuple(event for event in self.events if isinstance(event, OutcomeEvent))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The events, each with what was decided on it, in the order of the stream."""
        answers: dict[int | None, list[OutcomeEvent]] = {}
        for outcome in self.outcomes:
            cause = cause_of(outcome, self.run_events)
            answers.setdefault(cause.record.sequence if cause else None, []).append(outcome)
        steps = [Step(event, tuple(answers.get(event.record.sequence, ()))) for event in self.run_events]
        orphans = [Step(None, (orphan,)) for orphan in answers.get(None, ())]
        return tuple(sorted(steps + orphans, key=_sequence))

    @cached_property
    def by_time(self) -> tuple[Event, ...]:
        """Its events as they happened, by the clocks of those who published them; no decision before its cause."""

        def at(event: Event) -> tuple[datetime, int]:
            cause = cause_of(event, self.run_events) if isinstance(event, OutcomeEvent) else None
            return max(event.at, cause.at if cause else event.at), event.record.sequence

        return tuple(sorted(self.events, key=at))

    @cached_property
    def refusals(self) -> tuple[OutcomeEvent, ...]:
        """Where the kube-apiserver refused the write."""
        return tuple(recorded for recorded in self.outcomes if recorded.outcome.verdict is Verdict.FAILED)

    @cached_property
    def opted_out(self) -> bool:
        """Whether the run is left to bobrapet, as it was last heard of: perhaps only since after the cancel."""
        last = self.run_events[-1].snapshot if self.run_events else None
        return last is not None and not (last.run.enabled and last.story.enabled)

    @cached_property
    def canceled(self) -> Snapshot | None:
        """The latest snapshot in which the cancel was asked for: it has the resolved shutdown timeout."""
        before = (event for event in self.run_events if event.event_type is not EventType.STEP_RUNS_LEFT)
        snapshots = (event.snapshot for event in reversed(tuple(before)))
        return next((snapshot for snapshot in snapshots if snapshot.run.cancel_requested), None)

    @property
    def asked_at(self) -> datetime | None:
        """The cancel_observed_at, else when the cancel was written or first seen."""
        canceled_at = self.canceled.run.canceled_at if self.canceled else None
        return parse_instant(canceled_at) if canceled_at else None

    @property
    def deadline(self) -> datetime | None:
        return self.canceled.deadline if self.canceled else None

    @property
    def drain(self) -> timedelta | None:
        """What bobrapet alone would have waited, as far as the Story says; Exeunt itself never looks at it."""
        seconds = self.canceled.story.drain if self.canceled else None
        return timedelta(seconds=seconds) if seconds else None

    @cached_property
    def finalizing(self) -> OutcomeEvent | None:
        """The decision whose write ended the run, where it was recorded."""
        written = (event for event in self.outcomes if not event.outcome.dry_run)
        return next((event for event in written if event.outcome.verdict is Verdict.FINALIZE), None)

    @cached_property
    def cause(self) -> RunEvent | None:
        """The event on which the run was finalized."""
        return cause_of(self.finalizing, self.run_events) if self.finalizing else None

    @cached_property
    def ending(self) -> Ending:
        terminal = self._first(EventType.RUN_TERMINAL)
        by_us = [recorded for recorded in self.outcomes if recorded.outcome.rule == "ended-by-exeunt"]
        if self.finalizing or by_us or (terminal and terminal.snapshot.run.ended_by_exeunt):
            return Ending.FINALIZED
        if terminal or any(recorded.outcome.rule == "terminal" for recorded in self.outcomes):
            return Ending.ENDED_ELSEWHERE
        if self._first(EventType.RUN_DELETED) or any(
            recorded.outcome.verdict is Verdict.GONE for recorded in self.outcomes
        ):
            return Ending.DELETED
        if self.canceled is None:
            return Ending.RUNNING
        return _UNENDED.get(self.outcomes[-1].outcome.verdict, Ending.STOPPING) if self.outcomes else Ending.STOPPING

    @cached_property
    def ended_at(self) -> datetime | None:
        """The finalizing write, where it was recorded; else when the end was seen."""
        written = self.finalizing.outcome.stop_latency_ms if self.finalizing else None
        if written is not None and self.asked_at is not None:
            return self.asked_at + timedelta(milliseconds=written)
        if self.finalizing is not None:
            return self.finalizing.at
        seen = self._first(EventType.RUN_TERMINAL) or self._first(EventType.RUN_DELETED)
        return seen.at if seen else None

    @property
    def latency(self) -> timedelta | None:
        """From the cancel to the end."""
        if self.asked_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.asked_at

    @property
    def started_at(self) -> datetime:
        """What elapsed time is counted from: the cancel, or the first event of a stop that nobody asked for."""
        return self.asked_at or self.events[0].at

    @cached_property
    def trace_id(self) -> str | None:
        """The run's own trace, else the one that its events are in."""
        own = next(
            (run_event.snapshot.run.trace for run_event in self.run_events if run_event.snapshot.run.trace), None
        )
        if own is not None and own.trace_id:
            return own.trace_id
        parents = (event.record.headers.get("traceparent", "").split("-") for event in self.events)
        return next((parent[1] for parent in parents if len(parent) == 4), None)

    def _first(self, event_type: EventType) -> RunEvent | None:
        return next((recorded for recorded in self.run_events if recorded.event_type is event_type), None)


def stops(events: Iterable[Event]) -> list[Stop]:
    """The stops that events tell of, ordered by their first event; `events` are in the order of the stream."""
    events = list(events)
    homes = _homes(event for event in events if isinstance(event, RunEvent))
    gathered: dict[Cancellation, list[Event]] = {}
    for event in events:
        gathered.setdefault(homes.get(event.cancellation, event.cancellation), []).append(event)
    return [Stop(tuple(published)) for published in gathered.values()]


def _homes(run_events: Iterable[RunEvent]) -> dict[Cancellation, Cancellation]:
    """Where each cancellation's events are gathered: with those of its attempt, unless an earlier cancellation is there
    already.
    """
    homes: dict[Cancellation, Cancellation] = {}
    taken: set[Cancellation] = set()
    for event in run_events:
        attempt = event.snapshot.run.attempt_key
        if event.cancellation == attempt:
            homes[attempt] = attempt
        elif event.cancellation not in homes:
            homes[event.cancellation] = event.cancellation if attempt in taken else attempt
            taken.add(attempt)
    return homes


def cause_of(event: OutcomeEvent, run_events: Iterable[RunEvent]) -> RunEvent | None:
    """The event that an outcome answers: the one with its sequence, else the last of its kind and cancellation before
    it.

    Sequences differ from those that were recorded when a stream was restored from elsewhere.
    """
    of_its_kind = [
        run_event
        for run_event in run_events
        if (run_event.cancellation, run_event.event_type) == (event.cancellation, event.cause)
    ]
    by_sequence = (run_event for run_event in of_its_kind if run_event.record.sequence == event.outcome.cause_sequence)
    before = (run_event for run_event in reversed(of_its_kind) if run_event.record.sequence < event.record.sequence)
    return next(by_sequence, None) or next(before, None)


def _sequence(step: Step) -> int:
    return (step.event_type or step.outcomes[0]).record.sequence
