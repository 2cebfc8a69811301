"""A stop that is late says so, and by how much; one that hangs says on what, from its history alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from exeunt.clock import format_instant, parse_instant
from exeunt.events.event_types import EventType, Outcome
from exeunt.history.event import RunEvent
from exeunt.history.lateness import due, late_by, missing
from exeunt.history.record import Record
from exeunt.history.rendering import cause_in_words, render, render_by_time
from exeunt.history.stops import Ending, Stop
from exeunt.settings import Settings
from exeunt_cli.explain import explained
from exeunt_cli.hanging import hangs_on
from exeunt_cli.output import Columns
from exeunt_cli.page import page
from exeunt_cli.runs import row_of
from exeunt_cli.source import read_file, understood
from exeunt_cli.timeline import heading
from exeunt_terminator.stop import Result

FOLDER: Final = Path(__file__).parents[1] / "histories"
OUTAGE: Final = timedelta(minutes=5, seconds=24)
SETTINGS: Final = Settings()


def records_of(name: str) -> list[Record]:
    return read_file(str(FOLDER / f"{name}.jsonl")).records


def stop_of(records: list[Record]) -> Stop:
    (stop,) = understood(records).stops
    return stop


def later(record: Record, by: timedelta) -> Record:
    """The same, said later; an outcome's write came later, too."""
    headers = record.headers | {"ce-time": format_instant(parse_instant(record.headers["ce-time"]) + by)}
    data = record.data
    if ".outcome." in record.subject:
        outcome = msgspec.json.decode(data, type=Outcome)
        if outcome.stop_latency_ms is not None:
            latency = outcome.stop_latency_ms + by / timedelta(milliseconds=1)
            data = msgspec.json.encode(replace(outcome, stop_latency_ms=latency))
    return replace(record, headers=headers, data=data)


def after_an_outage() -> Stop:
    """Its deadline came while NATS was down: who says so and who answers was heard only after that."""
    records = records_of("deadline-default")
    published = next(at for at, record in enumerate(records) if record.subject.endswith(EventType.DEADLINE_REACHED))
    return stop_of([*records[:published], *(later(record, OUTAGE) for record in records[published:])])


def unanswered() -> Stop:
    """Everybody has left and the deadline was said, twice, but no terminator has said anything."""
    return stop_of([record for record in records_of("overdue-again")[:-1] if ".outcome." not in record.subject][:4])


def in_words(stop: Stop, now: datetime) -> dict[str, str]:
    """What each view says of it, on one line."""
    return {
        "runs": " ".join(row_of(stop, now, SETTINGS)),
        "timeline": " ".join(line.plain for line in heading(stop, now)),
        "explain": " ".join(explained(stop, None, SETTINGS, now)),
        "page": page([stop], [], version="0", now=now, looked_at=now),
    }


def test_a_stop_that_ended_after_it_was_due_is_late_in_every_view() -> None:
    stop = after_an_outage()
    assert stop.ending is Ending.FINALIZED
    assert due(stop) == stop.deadline
    late = late_by(stop)
    assert late is not None
    assert late >= OUTAGE
    views = in_words(stop, datetime.now(UTC))
    assert {view for view, message in views.items() if "late by 5m24" in message} == set(views)
    assert 'class="took"' not in views["page"]  # no celebratory green


def test_a_stop_in_time_is_late_in_none() -> None:
    stop = stop_of(records_of("deadline-default"))
    assert late_by(stop) is None
    views = in_words(stop, datetime.now(UTC))
    assert [view for view, message in views.items() if "late by" in message] == []
    assert 'class="took"' in views["page"]


def test_late_is_red_on_a_terminal() -> None:
    (_, line) = Columns(("OUTCOME", "CAUSE")).lines([("finalized, late by 5m24s", "deadline")])
    assert "red" in str(line.spans[0].style)
    console = Console(force_terminal=True, color_system="standard", width=80)
    with console.capture() as printed:
        console.print(
            next(field for field in heading(after_an_outage(), datetime.now(UTC)) if "late by" in field.plain)
        )
    assert "\x1b[1;31m" in printed.get()


def test_an_overdue_stop_says_since_when_and_on_what_it_hangs() -> None:
    stop = unanswered()
    assert stop.deadline is not None
    now = stop.deadline + timedelta(minutes=12)
    for view, message in in_words(stop, now).items():
        assert "late by 12m0s" in message, view
        assert "the terminator has not answered 2 events: is it running?" in message, view


def test_an_event_that_may_still_be_redelivered_is_nothing_to_report() -> None:
    stop = unanswered()
    assert missing(stop, stop.events[-1].at + timedelta(seconds=5)) == []


def test_a_deadline_that_nobody_said_names_the_timeout_scheduler() -> None:
    stop = stop_of(records_of("cancel-then-gone")[:3])  # established, canceled, wait
    assert stop.deadline is not None
    now = stop.deadline + timedelta(minutes=1)
    assert missing(stop, now) == ["its deadline was not published: is the timeout-scheduler running?"]
    assert missing(stop, stop.deadline) == []


def test_a_topology_that_came_back_before_the_deadline_made_nothing_due() -> None:
    """Somebody left and returned: the event that all had gone stays in the history, and its answer never came."""
    records = records_of("deadline-default")
    gone = next(record for record in records_of("cancel-then-gone") if "topology-terminated" in record.subject)
    events = list(stop_of(records).events)
    (canceled,) = [
        event for event in events if isinstance(event, RunEvent) and event.event_type is EventType.CANCEL_REQUESTED
    ]
    topology = next(
        event.snapshot.topology
        for event in stop_of(records_of("cancel-then-gone")).events
        if isinstance(event, RunEvent) and event.record.sequence == gone.sequence
    )
    left = canceled._replace(
        event_type=EventType.TOPOLOGY_TERMINATED, snapshot=replace(canceled.snapshot, topology=topology), at=canceled.at
    )
    stop = Stop((*events[:2], left, *events[2:]))
    assert due(stop) == stop.deadline
    assert late_by(stop) is None


def test_after_an_opt_out_nothing_is_due_and_that_is_the_cause() -> None:
    stop = stop_of(records_of("opted-out"))
    assert due(stop) is None
    assert cause_in_words(stop) == "opted-out"
    assert 'enabled: "false" by now' in render(stop).events[-1].why


def refused_for_a_while(attempt: int, *, ended: bool) -> Stop:
    """As a terminator without the right to write records it: an attempt, and when the next comes."""
    why = (
        "the write was refused: patch storyruns/status livekit-voice/dead-letter: 403 Forbidden: "
        'storyruns.runs.bubustack.io "dead-letter" is forbidden: User "system:serviceaccount:exeunt:exeunt-terminator" '
        'cannot patch resource "storyruns/status"'
    )
    records = records_of("dead-letter")
    at = next(at for at, record in enumerate(records) if record.subject.endswith("outcome.topology-terminated"))
    outcome = msgspec.json.decode(records[at].data, type=Outcome)
    tried, failed = outcome.trail
    trail = (replace(tried, result=str(Result.FORBIDDEN)), replace(failed, why=why))
    forbidden = replace(outcome, trail=trail, attempt=attempt, next_at="2026-11-24T09:27:00.000000Z")
    records[at] = replace(records[at], data=msgspec.json.encode(forbidden))
    return stop_of(records if ended else records[: at + 1])


def test_a_forbidden_write_is_reported_with_its_attempt_and_the_next() -> None:
    stop = refused_for_a_while(4, ended=False)
    assert stop.ending is Ending.FAILED
    now = stop.events[-1].at + timedelta(seconds=2)
    for view, message in in_words(stop, now).items():
        assert 'cannot patch resource "storyruns/status"' in message, view
        assert "attempt 4, the next at 2026-11-24T09:27:00.000000Z" in message, view
    assert "late by 2.0" in in_words(stop, now)["runs"]


def test_what_was_refused_and_ended_by_others_has_our_cause() -> None:
    stop = refused_for_a_while(4, ended=True)
    assert stop.ending is Ending.ENDED_ELSEWHERE
    cause = cause_in_words(stop)
    assert cause is not None
    assert cause.startswith('refused: User "system:serviceaccount:exeunt:exeunt-terminator" cannot patch')


def test_a_refused_event_that_is_a_dead_letter_comes_with_the_deadline() -> None:
    records = records_of("dead-letter")[:-1]
    stop = stop_of(records)
    assert stop.ending is Ending.FAILED
    assert stop.deadline is not None
    before, after = stop.deadline - timedelta(seconds=1), stop.deadline + timedelta(seconds=1)
    overdue = SETTINGS.overdue_after
    assert hangs_on(stop, before, overdue) == [f"attempt 1, the next at its deadline, {format_instant(stop.deadline)}"]
    assert hangs_on(stop, after, overdue) == ["attempt 1, and no other is known to come"]


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.jsonl"))])
def test_a_timeline_is_in_order_of_time_and_no_decision_before_its_cause(name: str) -> None:
    for stop in read_file(str(FOLDER / f"{name}.jsonl")).stops:
        reported = render_by_time(stop)
        assert len(reported) == len(stop.events)
        assert [event.elapsed_ms for event in reported] == sorted(event.elapsed_ms for event in reported)
        shown = [event.sequence for event in reported]
        for event in reported:
            if event.cause_sequence in shown and event.kind == "outcome":
                assert shown.index(event.cause_sequence) < shown.index(event.sequence)


def test_before_cancel_observed_at_the_live_object_says_what_is_waited_for() -> None:
    """bobrapet has not stamped it, so nothing is published for the cancel yet; the run in the cluster knows of it."""
    stop = stop_of(records_of("cancel-then-gone")[:1])
    assert stop.ending is Ending.RUNNING
    seen, asked = stop.run_events[-1].snapshot, stop.events[-1].at + timedelta(seconds=1)
    run = replace(seen.run, cancel_requested=True, canceled_at=format_instant(asked))
    message = " ".join(explained(stop, replace(seen, run=run), SETTINGS, asked + timedelta(seconds=2)))
    assert f"Its cancel was asked for at {format_instant(asked)}." in message
    assert "Nobody has asked" not in message
    assert f"It waits for bobrapet's cancel_observed_at until {format_instant(asked + SETTINGS.fence_wait)}:" in message


def test_explain_decides_as_plan_does_once_the_deadline_has_passed() -> None:
    stop = stop_of(records_of("cancel-then-gone")[:3])
    assert stop.canceled is not None
    assert stop.deadline is not None
    before, after = stop.deadline - timedelta(seconds=1), stop.deadline + timedelta(seconds=1)
    assert "would wait (topology-up)" in " ".join(explained(stop, stop.canceled, SETTINGS, before))
    assert "would finalize the run (deadline)" in " ".join(explained(stop, stop.canceled, SETTINGS, after))


def test_an_opt_out_after_the_cancel_is_shown() -> None:
    stop = stop_of(records_of("cancel-then-gone")[:3])
    assert stop.canceled is not None
    live = replace(stop.canceled, run=replace(stop.canceled.run, enabled=False))
    message = " ".join(explained(stop, live, SETTINGS, stop.events[-1].at))
    assert "would leave it alone (opted-out)" in message
    assert "The cancel came first: whoever opted it out did so after that." in message
