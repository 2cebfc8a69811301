"""Events to NATS messages and back: one place for subject, attributes, payload and exactly-once key. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from exeunt import cloudevents
from exeunt.bus.messages import Message
from exeunt.clock import format_instant
from exeunt.episodes import Episode
from exeunt.errors import PoisonEvent
from exeunt.events import Fact, Outcome, episode_of
from exeunt.snapshot import Snapshot
from exeunt.subjects import fact_subject, outcome_subject

TYPE_PREFIX: Final = "io.bubustack.exeunt."
VERSION: Final = "v1"
"""Version of the payloads' schema; part of the event type, so that a reader knows before it decodes."""

_FACT_TYPES: Final = {f"{TYPE_PREFIX}{fact}.{VERSION}": fact for fact in Fact}
_OUTCOME_TYPE: Final = f"{TYPE_PREFIX}outcome.{VERSION}"
_SNAPSHOT: Final = msgspec.json.Decoder(Snapshot)


class FactEvent(NamedTuple):
    """A fact as it was received."""

    attributes: cloudevents.Attributes
    fact: Fact
    snapshot: Snapshot


def fact_message(fact: Fact, snapshot: Snapshot, *, source: str, now: datetime, context: Mapping[str, str]) -> Message:
    """The message that says `fact` once: a second one on its subject is refused by the stream (ADR 3).

    `context` is W3C trace context for the headers.
    """
    episode = episode_of(fact, snapshot.run)
    return Message(
        subject=fact_subject(episode, fact),
        payload=msgspec.json.encode(snapshot),
        headers=_headers(f"{TYPE_PREFIX}{fact}.{VERSION}", episode, str(fact), source, now, context),
        expected_last_subject_sequence=0,
    )


def outcome_message(
    outcome: Outcome, episode: Episode, cause: Fact, *, source: str, now: datetime, context: Mapping[str, str]
) -> Message:
    """The message that records how `cause` was answered, once."""
    return Message(
        subject=outcome_subject(episode, cause),
        payload=msgspec.json.encode(outcome),
        headers=_headers(_OUTCOME_TYPE, episode, f"outcome/{cause}", source, now, context),
        expected_last_subject_sequence=0,
    )


def _headers(
    kind: str, episode: Episode, what: str, source: str, now: datetime, context: Mapping[str, str]
) -> dict[str, str]:
    attributes = cloudevents.Attributes(
        id=f"{episode.uid}/{episode.token}/{what}",
        source=source,
        type=kind,
        subject=f"{episode.namespace}/{episode.name}",
        time=format_instant(now),
    )
    return {**cloudevents.to_headers(attributes), **context}


def read_fact(headers: Mapping[str, str], payload: bytes) -> FactEvent:
    """Understand a message as a fact. Raises PoisonEvent that says what is wrong with it."""
    attributes = cloudevents.from_headers(headers)
    fact = _FACT_TYPES.get(attributes.type)
    if fact is None:
        raise PoisonEvent(f"event type {attributes.type!r} is no fact that this version of Exeunt knows")
    try:
        snapshot = _SNAPSHOT.decode(payload)
        snapshot.check()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"the payload of {attributes.type} does not decode: {error}") from error
    return FactEvent(attributes, fact, snapshot)
