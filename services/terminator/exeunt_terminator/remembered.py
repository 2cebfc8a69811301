"""What this process has heard of cancels: without the bus, all that is left of what was fixed at the cancel. Pure."""

from typing import Final

from exeunt.events.codec import ReceivedEvent
from exeunt.events.event_types import EventType, cancellation_of
from exeunt.events.subjects import event_subject
from exeunt.run.snapshot import Snapshot

MOST: Final = 2_000
"""Cancels, some 3 KB each: more stops than that are hardly ever under way at once."""


class Remembered:
    """The snapshots of the last cancels, by the subjects of their events."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._snapshots: dict[str, Snapshot] = {}

    def keep(self, event: ReceivedEvent) -> None:
        """Of several events of one cancel the first counts, as in the stream."""
        subject = event_subject(cancellation_of(event.event_type, event.snapshot.run), event.event_type)
        if event.event_type is not EventType.CANCEL_REQUESTED or subject in self._snapshots:
            return
        self._snapshots[subject] = event.snapshot
        if len(self._snapshots) > self._most:
            del self._snapshots[next(iter(self._snapshots))]

    def at(self, subject: str) -> Snapshot | None:
        """The snapshot of the event on this subject, if it was heard and is not forgotten."""
        return self._snapshots.get(subject)
