"""The events of runs, put together into stops: each fact with the decisions that it caused, and how it all ended. Pure.

A stop is one episode with what led to it: what was said in the run's life before there was a fence (its topology was
established, or was gone already) belongs to the first episode of that life.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from exeunt.clock import parse_instant
from exeunt.episodes import Episode
from exeunt.events import Fact, Verdict
from exeunt.history.event import Event, SaidFact, SaidOutcome
from exeunt.snapshot import Snapshot


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
    """A fact and the decisions that it caused. `fact` is None for a decision whose cause is not in the history."""

    fact: SaidFact | None
    outcomes: tuple[SaidOutcome, ...]

    @property
    def at(self) -> datetime:
        return self.fact.at if self.fact else self.outcomes[0].at


@dataclass(frozen=True)
class Stop:
    """One stop. `events` are in the order of the stream, and there is at least one."""

    events: tuple[Event, ...]

    @cached_property
    def episode(self) -> Episode:
        """Its episode; that of its life, while there is no fence."""
        lives = {fact.snapshot.run.life_episode for fact in self.facts}
        fenced = (event.episode for event in reversed(self.events) if event.episode not in lives)
        return next(fenced, self.events[-1].episode)

    @property
    def run(self) -> str:
        return f"{self.episode.namespace}/{self.episode.name}"

    @cached_property
    def facts(self) -> tuple[SaidFact, ...]:
        return tuple(event for event in self.events if isinstance(event, SaidFact))

    @cached_property
    def outcomes(self) -> tuple[SaidOutcome, ...]:
        return tuple(event for event in self.events if isinstance(event, SaidOutcome))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The facts, each with what was decided on it, in the order of the stream."""
        answers: dict[int | None, list[SaidOutcome]] = {}
        for outcome in self.outcomes:
            cause = cause_of(outcome, self.facts)
            answers.setdefault(cause.record.sequence if cause else None, []).append(outcome)
        steps = [Step(fact, tuple(answers.get(fact.record.sequence, ()))) for fact in self.facts]
        orphans = [Step(None, (orphan,)) for orphan in answers.get(None, ())]
        return tuple(sorted(steps + orphans, key=_sequence))

    @cached_property
    def by_time(self) -> tuple[Event, ...]:
        """Its events as they happened, by the clocks of those who said them; no decision before its cause."""

        def at(event: Event) -> tuple[datetime, int]:
            cause = cause_of(event, self.facts) if isinstance(event, SaidOutcome) else None
            return max(event.at, cause.at if cause else event.at), event.record.sequence

        return tuple(sorted(self.events, key=at))

    @cached_property
    def refusals(self) -> tuple[SaidOutcome, ...]:
        """Where the kube-apiserver refused the write."""
        return tuple(said for said in self.outcomes if said.outcome.verdict is Verdict.FAILED)

    @cached_property
    def opted_out(self) -> bool:
        """Whether the run is left to bobrapet, as it was last heard of: perhaps only since after the cancel."""
        last = self.facts[-1].snapshot if self.facts else None
        return last is not None and not (last.run.enabled and last.story.enabled)

    @cached_property
    def canceled(self) -> Snapshot | None:
        """The latest snapshot in which the cancel was asked for: it has the resolved shutdown timeout."""
        snapshots = (fact.snapshot for fact in reversed(self.facts))
        return next((snapshot for snapshot in snapshots if snapshot.run.cancel_requested), None)

    @property
    def asked_at(self) -> datetime | None:
        """The fence, else when the cancel was written or first seen."""
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
    def finalizing(self) -> SaidOutcome | None:
        """The decision whose write ended the run, where it was recorded."""
        written = (said for said in self.outcomes if not said.outcome.dry_run)
        return next((said for said in written if said.outcome.verdict is Verdict.FINALIZE), None)

    @cached_property
    def cause(self) -> SaidFact | None:
        """The fact on which the run was finalized."""
        return cause_of(self.finalizing, self.facts) if self.finalizing else None

    @cached_property
    def ending(self) -> Ending:
        terminal = self._first(Fact.RUN_TERMINAL)
        by_us = [said for said in self.outcomes if said.outcome.rule == "ended-by-exeunt"]
        if self.finalizing or by_us or (terminal and terminal.snapshot.run.ended_by_exeunt):
            return Ending.FINALIZED
        if terminal or any(said.outcome.rule == "terminal" for said in self.outcomes):
            return Ending.ENDED_ELSEWHERE
        if self._first(Fact.RUN_DELETED) or any(said.outcome.verdict is Verdict.GONE for said in self.outcomes):
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
        seen = self._first(Fact.RUN_TERMINAL) or self._first(Fact.RUN_DELETED)
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
        own = next((fact.snapshot.run.trace for fact in self.facts if fact.snapshot.run.trace), None)
        if own is not None and own.trace_id:
            return own.trace_id
        parents = (event.record.headers.get("traceparent", "").split("-") for event in self.events)
        return next((parent[1] for parent in parents if len(parent) == 4), None)

    def _first(self, fact: Fact) -> SaidFact | None:
        return next((said for said in self.facts if said.fact is fact), None)


def stops(events: Iterable[Event]) -> list[Stop]:
    """The stops that events tell of, ordered by their first event; `events` are in the order of the stream."""
    events = list(events)
    homes = _homes(event for event in events if isinstance(event, SaidFact))
    gathered: dict[Episode, list[Event]] = {}
    for event in events:
        gathered.setdefault(homes.get(event.episode, event.episode), []).append(event)
    return [Stop(tuple(said)) for said in gathered.values()]


def _homes(facts: Iterable[SaidFact]) -> dict[Episode, Episode]:
    """Where each episode's events are gathered: with those of its life, unless an earlier episode is there already."""
    homes: dict[Episode, Episode] = {}
    taken: set[Episode] = set()
    for fact in facts:
        life = fact.snapshot.run.life_episode
        if fact.episode == life:
            homes[life] = life
        elif fact.episode not in homes:
            homes[fact.episode] = fact.episode if life in taken else life
            taken.add(life)
    return homes


def cause_of(said: SaidOutcome, facts: Iterable[SaidFact]) -> SaidFact | None:
    """The fact that an outcome answers: the one with its sequence, else the last of its kind and episode before it.

    Sequences differ from those that were recorded when a stream was restored from elsewhere.
    """
    of_its_kind = [fact for fact in facts if (fact.episode, fact.fact) == (said.episode, said.cause)]
    by_sequence = (fact for fact in of_its_kind if fact.record.sequence == said.outcome.cause_sequence)
    before = (fact for fact in reversed(of_its_kind) if fact.record.sequence < said.record.sequence)
    return next(by_sequence, None) or next(before, None)


def _sequence(step: Step) -> int:
    return (step.fact or step.outcomes[0]).record.sequence
