"""What a terminator still knows of cancels when nobody can be asked."""

from typing import Any

from core.objects import NOW, snapshot
from exeunt.events.codec import ReceivedEvent, event_message, read_event
from exeunt.events.event_types import EventType
from exeunt.events.subjects import event_subject
from exeunt_terminator.remembered import Remembered


def heard(event_type: EventType = EventType.CANCEL_REQUESTED, **changes: Any) -> ReceivedEvent:
    message = event_message(event_type, snapshot(**changes), source="/exeunt/watcher", now=NOW, context={})
    return read_event(message.headers, message.payload)


def subject_of(event: ReceivedEvent) -> str:
    return event_subject(event.snapshot.run.cancellation, event.event_type)


def test_of_one_cancel_the_first_event_counts() -> None:
    remembered, first = Remembered(), heard()
    remembered.keep(first)
    remembered.keep(heard(phase="Stopping"))
    assert remembered.at(subject_of(first)) == first.snapshot


def test_other_events_fix_nothing() -> None:
    remembered, other = Remembered(), heard(EventType.TOPOLOGY_TERMINATED)
    remembered.keep(other)
    assert remembered.at(subject_of(other)) is None


def test_the_oldest_make_room() -> None:
    remembered, events = Remembered(most=2), [heard(uid=f"uid-{number}") for number in range(3)]
    for event in events:
        remembered.keep(event)
    assert [remembered.at(subject_of(event)) for event in events] == [None, events[1].snapshot, events[2].snapshot]
