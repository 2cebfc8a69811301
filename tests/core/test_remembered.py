"""What a terminator still knows of cancels when nobody can be asked."""

from typing import Any

from core.objects import NOW, snapshot
from exeunt.codec import FactEvent, fact_message, read_fact
from exeunt.events import Fact
from exeunt.subjects import fact_subject
from exeunt_terminator.remembered import Remembered


def heard(fact: Fact = Fact.CANCEL_REQUESTED, **changes: Any) -> FactEvent:
    message = fact_message(fact, snapshot(**changes), source="/exeunt/watcher", now=NOW, context={})
    return read_fact(message.headers, message.payload)


def subject_of(event: FactEvent) -> str:
    return fact_subject(event.snapshot.run.episode, event.fact)


def test_of_one_cancel_the_first_event_counts() -> None:
    remembered, first = Remembered(), heard()
    remembered.keep(first)
    remembered.keep(heard(phase="Stopping"))
    assert remembered.at(subject_of(first)) == first.snapshot


def test_other_events_fix_nothing() -> None:
    remembered, other = Remembered(), heard(Fact.TOPOLOGY_TERMINATED)
    remembered.keep(other)
    assert remembered.at(subject_of(other)) is None


def test_the_oldest_make_room() -> None:
    remembered, events = Remembered(most=2), [heard(uid=f"uid-{number}") for number in range(3)]
    for event in events:
        remembered.keep(event)
    assert [remembered.at(subject_of(event)) for event in events] == [None, events[1].snapshot, events[2].snapshot]
