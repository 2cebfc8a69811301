"""Events to NATS messages and back: one place for subject, attributes, payload and exactly-once key. Pure."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from exeunt.clock import format_instant
from exeunt.errors import PoisonEvent
from exeunt.events import cloudevents
from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Outcome, cancellation_of
from exeunt.events.messages import Message
from exeunt.events.subjects import event_subject, outcome_subject
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import NO_CONDITIONS, Snapshot

TYPE_PREFIX: Final = "io.bubustack.exeunt."
VERSION: Final = "v1"
"""Version of the payloads' schema; part of the event type, so that a reader knows before it decodes."""

_EVENT_TYPES: Final = {f"{TYPE_PREFIX}{event_type}.{VERSION}": event_type for event_type in EventType}
_OUTCOME_TYPE: Final = f"{TYPE_PREFIX}outcome.{VERSION}"
_SNAPSHOT: Final = msgspec.json.Decoder(Snapshot)


class ReceivedEvent(NamedTuple):
    """An event as it was received."""

    attributes: cloudevents.Attributes
    event_type: EventType
    snapshot: Snapshot


def event_message(
    event_type: EventType, snapshot: Snapshot, *, source: str, now: datetime, context: Mapping[str, str]
) -> Message:
    """The message that publishes `event_type` once: a second one on its subject is refused by the stream (ADR 3).

    `context` is W3C trace context for the headers.
    """
    cancellation = cancellation_of(event_type, snapshot.run)
    return Message(
        subject=event_subject(cancellation, event_type),
        payload=msgspec.json.encode(_shortened(carried(event_type, snapshot))),
        headers=_headers(f"{TYPE_PREFIX}{event_type}.{VERSION}", cancellation, str(event_type), source, now, context),
        expected_last_subject_sequence=0,
    )


def carried(event_type: EventType, snapshot: Snapshot) -> Snapshot:
    """What an event has of the snapshot that it was read from (ADR 2).

    What a finalizing write may stand on has all of it. Nobody acts on the other events before the run is read: they go
    without its conditions, which are half of a snapshot, and those about which nothing is to be deleted without names.
    """
    run, gone = snapshot.run, snapshot.topology.gone
    due = run.cancel_requested and (gone is not None or event_type is EventType.DEADLINE_REACHED)
    if due and event_type in STOPPING_EVENT_TYPES:
        return snapshot
    run = replace(run, conditions=NO_CONDITIONS, started_at=None, trigger_token=None)
    if not run.terminal:
        run = replace(run, message=None)
    elif gone is not None:
        gone = replace(gone, detail="", since=None, traceparent=None)
    named = event_type in (EventType.CANCEL_REQUESTED, EventType.STEP_RUNS_LEFT)
    topology = replace(snapshot.topology, gone=gone)
    return replace(snapshot, run=run, topology=topology, step_runs=snapshot.step_runs if named else None)


def _shortened(snapshot: Snapshot) -> Snapshot:
    """Without what another part of it says: the time of the cancel where it is that at which bobrapet has observed it,
    and the Story's namespace where it is the run's.
    """
    run, story = snapshot.run, snapshot.story
    if run.canceled_at == run.cancel_observed_at:
        run = replace(run, canceled_at=None)
    if story.namespace == run.namespace:
        story = replace(story, namespace="")
    return replace(snapshot, run=run, story=story)


def whole(snapshot: Snapshot) -> Snapshot:
    """With it again, as whoever reads one has to make it."""
    run, story = snapshot.run, snapshot.story
    if run.canceled_at is None:
        run = replace(run, canceled_at=run.cancel_observed_at)
    if not story.namespace:
        story = replace(story, namespace=run.namespace)
    return replace(snapshot, run=run, story=story)


def outcome_message(
    outcome: Outcome,
    cancellation: Cancellation,
    cause: EventType,
    *,
    source: str,
    now: datetime,
    context: Mapping[str, str],
) -> Message:
    """The message that records how `cause` was answered, once."""
    return Message(
        subject=outcome_subject(cancellation, cause),
        payload=msgspec.json.encode(outcome),
        headers=_headers(_OUTCOME_TYPE, cancellation, f"outcome/{cause}", source, now, context),
        expected_last_subject_sequence=0,
    )


def _headers(
    kind: str, cancellation: Cancellation, what: str, source: str, now: datetime, context: Mapping[str, str]
) -> dict[str, str]:
    # The subject says all that the id stands for: it need not say so again, and only has to be unique.
    event_id = sha256(f"{cancellation.uid}/{cancellation.token}/{what}".encode()).hexdigest()[:16]
    attributes = cloudevents.Attributes(
        id=event_id,
        source=source,
        type=kind,
        subject=f"{cancellation.namespace}/{cancellation.name}",
        time=format_instant(now),
    )
    return {**cloudevents.to_headers(attributes), **context}


def read_event(headers: Mapping[str, str], payload: bytes) -> ReceivedEvent:
    """Understand a message as an event. Raises PoisonEvent that says what is wrong with it."""
    attributes = cloudevents.from_headers(headers)
    event_type = _EVENT_TYPES.get(attributes.type)
    if event_type is None:
        raise PoisonEvent(f"event type {attributes.type!r} is no event that this version of Exeunt knows")
    try:
        snapshot = whole(_SNAPSHOT.decode(payload))
        snapshot.check()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"the payload of {attributes.type} does not decode: {error}") from error
    return ReceivedEvent(attributes, event_type, snapshot)
