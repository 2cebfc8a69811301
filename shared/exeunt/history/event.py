"""Records understood: what was published about which cancellation, when and by whom. Pure.

A record that is no event of Exeunt, or of a schema that this version does not know, is a problem with its place and its
reason; the others are shown without it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from exeunt.clock import parse_instant
from exeunt.errors import PoisonEvent
from exeunt.events import cloudevents
from exeunt.events.codec import TYPE_PREFIX, VERSION, read_event
from exeunt.events.event_types import EventType, Outcome, cancellation_of
from exeunt.events.subjects import event_subject, outcome_subject
from exeunt.history.record import Problem, Record
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import Snapshot

_OUTCOME_TYPE: Final = f"{TYPE_PREFIX}outcome.{VERSION}"
_OUTCOME: Final = msgspec.json.Decoder(Outcome)


class RunEvent(NamedTuple):
    """An event of a run, with the snapshot that it was read from. `service` published it at `at`, by its own clock."""

    record: Record
    at: datetime
    service: str
    cancellation: Cancellation
    event_type: EventType
    snapshot: Snapshot


class OutcomeEvent(NamedTuple):
    """How the event `cause` of the cancellation was answered."""

    record: Record
    at: datetime
    service: str
    cancellation: Cancellation
    cause: EventType
    outcome: Outcome


Event = RunEvent | OutcomeEvent


def understand(record: Record) -> Event:
    """What a record says. Raises PoisonEvent that says why it cannot be shown."""
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
    recorded = read_event(record.headers, record.data)
    cancellation = cancellation_of(recorded.event_type, recorded.snapshot.run)
    if record.subject != event_subject(cancellation, recorded.event_type):
        raise PoisonEvent(f"{recorded.event_type} of {cancellation} on the subject of something else, {record.subject}")
    return RunEvent(record, at, service, cancellation, recorded.event_type, recorded.snapshot)


def _outcome(record: Record, at: datetime, service: str, attributes: cloudevents.Attributes) -> OutcomeEvent:
    """An outcome names its cancellation on its subject only, where dots of a name are lost; `ce-subject` has them."""
    try:
        outcome = _OUTCOME.decode(record.data)
        for step in outcome.trail:
            parse_instant(step.at)
            if step.reread is not None:
                step.reread.check()
        *_, uid, token, _, cause = record.subject.split(".")
        namespace, _, name = attributes.subject.partition("/")
        cancellation, event_type = Cancellation(namespace, name, uid, token), EventType(cause)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"the outcome does not decode: {error}") from error
    if record.subject != outcome_subject(cancellation, event_type):
        raise PoisonEvent(f"an outcome about {attributes.subject} on the subject of something else, {record.subject}")
    if not outcome.trail:
        raise PoisonEvent("an outcome of nothing that was decided")
    return OutcomeEvent(record, at, service, cancellation, event_type, outcome)


def understand_all(records: Iterable[Record]) -> tuple[list[Event], list[Problem]]:
    """All that can be shown, in the order given, and what cannot."""
    events: list[Event] = []
    problems: list[Problem] = []
    for record in records:
        try:
            events.append(understand(record))
        except PoisonEvent as error:
            problems.append(Problem(record.place, str(error)))
    return events, problems
