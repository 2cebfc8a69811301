"""Records understood: what was said about which episode, when and by whom. Pure.

A record that is no event of Exeunt, or of a schema that this version does not know, is a problem with its place and its
reason; the others are told without it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from exeunt import cloudevents
from exeunt.clock import parse_instant
from exeunt.codec import TYPE_PREFIX, VERSION, read_fact
from exeunt.episodes import Episode
from exeunt.errors import PoisonEvent
from exeunt.events import Fact, Outcome, episode_of
from exeunt.history.record import Problem, Record
from exeunt.snapshot import Snapshot
from exeunt.subjects import fact_subject, outcome_subject

_OUTCOME_TYPE: Final = f"{TYPE_PREFIX}outcome.{VERSION}"
_OUTCOME: Final = msgspec.json.Decoder(Outcome)


class SaidFact(NamedTuple):
    """A fact of a run, with the snapshot that it was read from. `service` said it at `at`, by its own clock."""

    record: Record
    at: datetime
    service: str
    episode: Episode
    fact: Fact
    snapshot: Snapshot


class SaidOutcome(NamedTuple):
    """How the fact `cause` of the episode was answered."""

    record: Record
    at: datetime
    service: str
    episode: Episode
    cause: Fact
    outcome: Outcome


Event = SaidFact | SaidOutcome


def understand(record: Record) -> Event:
    """What a record says. Raises PoisonEvent that says why it cannot be told."""
    attributes = cloudevents.from_headers(record.headers)
    kind, _, version = attributes.type.removeprefix(TYPE_PREFIX).rpartition(".")
    if not attributes.type.startswith(TYPE_PREFIX):
        raise PoisonEvent(f"a CloudEvent of type {attributes.type!r}, which is none of Exeunt's")
    if version != VERSION:
        raise PoisonEvent(f"{kind} in schema version {version}; this Exeunt reads {VERSION}")
    try:
        at = parse_instant(attributes.time or record.time)
    except ValueError as error:
        raise PoisonEvent(f"it says no time: {error}") from error
    service = attributes.source.rpartition("/")[2]
    if attributes.type == _OUTCOME_TYPE:
        return _outcome(record, at, service, attributes)
    said = read_fact(record.headers, record.data)
    episode = episode_of(said.fact, said.snapshot.run)
    if record.subject != fact_subject(episode, said.fact):
        raise PoisonEvent(f"{said.fact} of {episode} on the subject of something else, {record.subject}")
    return SaidFact(record, at, service, episode, said.fact, said.snapshot)


def _outcome(record: Record, at: datetime, service: str, attributes: cloudevents.Attributes) -> SaidOutcome:
    """An outcome names its episode on its subject only, where dots of a name are lost; `ce-subject` has them."""
    try:
        outcome = _OUTCOME.decode(record.data)
        for step in outcome.trail:
            parse_instant(step.at)
            if step.reread is not None:
                step.reread.check()
        *_, uid, token, _, cause = record.subject.split(".")
        namespace, _, name = attributes.subject.partition("/")
        episode, fact = Episode(namespace, name, uid, token), Fact(cause)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"the outcome does not decode: {error}") from error
    if record.subject != outcome_subject(episode, fact):
        raise PoisonEvent(f"an outcome about {attributes.subject} on the subject of something else, {record.subject}")
    return SaidOutcome(record, at, service, episode, fact, outcome)


def understand_all(records: Iterable[Record]) -> tuple[list[Event], list[Problem]]:
    """All that can be told, in the order given, and what cannot."""
    events: list[Event] = []
    problems: list[Problem] = []
    for record in records:
        try:
            events.append(understand(record))
        except PoisonEvent as error:
            problems.append(Problem(record.place, str(error)))
    return events, problems
