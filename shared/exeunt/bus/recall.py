"""What the streams have of a run: the snapshot that an event was published with, and the last signals about it."""

import asyncio

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.publisher import StoredMessage, last_message
from exeunt.errors import PoisonEvent
from exeunt.events.codec import read_event
from exeunt.events.event_types import EventType
from exeunt.events.signals import Signal, read_signal
from exeunt.events.subjects import RUNS, SIGNALS, event_subject, signal_subject, trigger_token_subject
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import Snapshot

log = structlog.get_logger()


def snapshot_of(message: StoredMessage | None) -> Snapshot | None:
    """None where there is no such message, or it is no event: then the log tells why."""
    if message is None:
        return None
    try:
        return read_event(message.headers, message.data).snapshot
    except PoisonEvent as error:
        log.warning("what the stream remembers is no event", sequence=message.sequence, error=str(error))
        return None


async def recalled(bus: Bus, cancellation: Cancellation, event_type: EventType) -> Snapshot | None:
    """The snapshot of the event that is stored, if it is. Raises BusUnavailable, NoResponders (no stream)."""
    return snapshot_of(await last_message(bus, RUNS, event_subject(cancellation, event_type)))


async def last_signals(bus: Bus, namespace: str, name: str, trigger_token: str | None) -> list[Signal]:
    """The last signal about a run by its name, and by its trigger token, where there are any.

    Raises BusUnavailable, NoResponders (no stream), PermissionDenied.
    """
    subjects = [signal_subject(namespace, name)]
    if trigger_token:
        subjects.append(trigger_token_subject(trigger_token))
    found = await asyncio.gather(*(last_message(bus, SIGNALS, subject) for subject in subjects))
    signals = []
    for message in found:
        if message is not None:
            try:
                signal = read_signal(message.subject, message.headers, message.data)
            except PoisonEvent:
                continue  # the watcher sets it aside, with the reason
            if not signal.is_ahead_of(message.timestamp):
                signals.append(signal)
    return signals
