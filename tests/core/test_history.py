"""Histories as files and as told: what is broken is said with its place, and the rest is reported all the same."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from exeunt.errors import UsageError
from exeunt.events.event_types import EventType
from exeunt.history.event import OutcomeEvent, RunEvent, understand_all
from exeunt.history.file import History, read_history, write_history
from exeunt.history.record import Record
from exeunt.history.redaction import redacted
from exeunt.history.rendering import render
from exeunt.history.state import KnownState, after, differences
from exeunt.history.stops import Ending, Stop, stops
from exeunt_cli.check import check
from exeunt_cli.what_if import otherwise, read_setting

FOLDER: Final = Path(__file__).parents[1] / "histories"
NOW: Final = datetime(2026, 11, 24, 18, 20, tzinfo=UTC)


def lines_of(name: str) -> list[bytes]:
    return (FOLDER / f"{name}.jsonl").read_bytes().splitlines(keepends=True)


def reported(history: History) -> tuple[list[Stop], list[str]]:
    """Its stops, and every problem in words."""
    events, problems = understand_all(history.records)
    return stops(events), [str(problem) for problem in [*history.problems, *problems]]


def golden(name: str) -> Stop:
    (stop,), problems = reported(read_history(lines_of(name)))
    assert problems == []
    return stop


def written(records: Sequence[Record]) -> list[bytes]:
    return list(write_history(records, run="ns/call", now=NOW))


record_values = st.builds(
    Record,
    sequence=st.integers(1, 2**53),
    time=st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
        lambda instant: instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    ),
    subject=st.text(),
    headers=st.dictionaries(st.text(), st.text(), max_size=3),
    data=st.one_of(st.binary(), st.recursive(st.integers() | st.text(), st.lists).map(msgspec.json.encode)),
)


@given(st.lists(record_values, max_size=4, unique_by=lambda record: record.sequence))
def test_what_is_written_is_read_back(records: list[Record]) -> None:
    history = read_history(written(sorted(records, key=lambda record: record.sequence)))
    assert history.problems == []
    assert history.header is not None
    assert history.header.run == "ns/call"
    assert [comparable(record) for record in history.records] == [
        comparable(record) for record in sorted(records, key=lambda record: record.sequence)
    ]


def comparable(record: Record) -> tuple[Record, object]:
    """JSON is kept as such: the space around its tokens may go."""
    try:
        return replace(record, line=0, data=b""), msgspec.json.decode(record.data)
    except msgspec.DecodeError:
        return replace(record, line=0), None


def test_an_exported_history_is_the_same_bytes_when_it_is_written_again() -> None:
    lines = lines_of("condition-lost")
    assert list(written(read_history(lines).records))[1:] == lines[1:]


def test_line_breaks_between_tokens_do_not_break_a_line() -> None:
    record = Record(sequence=1, time="2026-11-24T18:13:32Z", subject="s", headers={}, data=b'{\r\n"a": "\\n"\n}\n')
    (read,) = read_history(written([record])).records
    assert msgspec.json.decode(read.data) == {"a": "\n"}


def test_step_runs_that_an_outcome_has_no_room_for_are_counted() -> None:
    lines = lines_of("cancel-then-gone")
    at = next(n for n, line in enumerate(lines) if b'"deleted_step_runs":' in line)
    lines[at] = lines[at].replace(b'"deleted_step_runs":', b'"more_deleted_step_runs":7,"deleted_step_runs":', 1)
    (stop,), problems = reported(read_history(lines))
    assert problems == []
    assert any(event.why.endswith("cancel-then-gone-speak and 7 more") for event in render(stop).events)


def test_unknown_fields_are_kept() -> None:
    lines = lines_of("cancel-then-gone")
    lines[2] = lines[2].replace(b'{"sequence"', b'{"color":{"of":"rain"},"sequence"', 1)
    lines[3] = lines[3].replace(b'"data":{', b'"data":{"mood":["calm"],', 1)
    history = read_history(lines)
    assert reported(history)[1] == []
    again = list(written(history.records))
    assert msgspec.json.decode(again[2])["color"] == {"of": "rain"}
    assert msgspec.json.decode(again[3])["data"]["mood"] == ["calm"]


def test_a_cut_file_is_reported_up_to_the_cut() -> None:
    lines = lines_of("cancel-then-gone")
    lines[-1] = lines[-1][:200]
    found, problems = reported(read_history(lines))
    (problem,) = problems
    assert problem.startswith("line 7: no JSON object")
    assert problem.endswith("the file ends within it")
    assert [len(stop.events) for stop in found] == [5]


def test_a_lost_beginning_is_published_and_the_rest_is_reported() -> None:
    found, problems = reported(read_history(lines_of("cancel-then-gone")[3:]))
    assert problems == [
        'line 1: no header such as {"exeunt": "history", "version": 1, ...}; was the beginning cut off?'
    ]
    (stop,) = found
    assert stop.ending is Ending.FINALIZED
    checked = check(found)
    assert not checked.differences
    (unchecked,) = checked.unchecked
    assert unchecked.startswith(
        "line 1: cannot decide on cancel-requested of livekit-voice/cancel-then-gone: the event"
    )


def test_duplicates_are_left_out_and_copies_are_reported_from_contradictions() -> None:
    lines = lines_of("cancel-then-gone")
    changed = lines[2].replace(b"watcher", b"watched")
    found, problems = reported(read_history([*lines[:3], lines[2], changed, *lines[3:]]))
    assert problems == [
        "line 4: sequence 2 was on line 3 already, this is a copy; it is left out",
        "line 5: sequence 2 was on line 3 already, this is not the same; it is left out",
    ]
    assert check(found).passed
    assert len(found[0].events) == 6


def test_lines_out_of_order_are_put_back() -> None:
    lines = lines_of("cancel-then-gone")
    found, problems = reported(read_history([lines[0], *reversed(lines[1:])]))
    assert problems[0] == "line 3: sequence 5 comes after 6; it is put back into its place"
    assert len(problems) == 5
    assert render(found[0]) == render(golden("cancel-then-gone"))


def test_a_newer_file_format_is_reported_as_far_as_it_is_understood() -> None:
    lines = lines_of("cancel-then-gone")
    lines[0] = lines[0].replace(b'"version":1', b'"version":2')
    found, problems = reported(read_history(lines))
    (problem,) = problems
    assert problem.startswith("line 1: format version 2 is newer than 1, which this Exeunt reads;")
    assert check(found).passed


def test_events_of_a_newer_schema_are_published_and_the_rest_is_reported() -> None:
    lines = lines_of("cancel-then-gone")
    lines[2] = lines[2].replace(b"cancel-requested.v1", b"cancel-requested.v2")
    found, problems = reported(read_history(lines))
    assert problems == ["line 3: cancel-requested in schema version v2; this Exeunt reads v1"]
    assert [len(stop.events) for stop in found] == [5]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"io.bubustack.exeunt.cancel", b"com.example.order", "a CloudEvent of type 'com.example.order-requested.v1'"),
        (b'"ce-type"', b'"x-type"', "no CloudEvent in binary mode: header ce-type is missing"),
        (b'"run":{', b'"ran":{', "does not decode: Object missing required field `run`"),
        (b'"phase":"Running"', b'"phase":7', "does not decode: Expected `str | null`, got `int`"),
        (b'"subject":"exeunt.runs.livekit', b'"subject":"exeunt.runs.kitlive', "on the subject of something else"),
        (b'"time":"2026', b'"time":"noon', "no record of an event"),
        (b'"subject":"', b'"object":"', "no record of an event: Object missing required field `subject`"),
    ],
)
def test_what_is_no_event_is_published_with_its_line(old: bytes, new: bytes, reason: str) -> None:
    lines = lines_of("cancel-then-gone")
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new, 1)
    found, problems = reported(read_history(lines))
    (problem,) = problems
    assert problem.startswith("line 3: ")
    assert reason in problem
    assert [len(stop.events) for stop in found] == [5]


@given(st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), min_size=1, max_size=8))
@example([(4828, 0x80)])  # in what a condition has beside its known fields
def test_no_damage_to_a_file_raises(damage: list[tuple[int, int]]) -> None:
    content = bytearray(b"".join(lines_of("dead-letter")))
    for position, byte in damage:
        content[position % len(content)] = byte
    found, _ = reported(read_history(bytes(content).splitlines(keepends=True)))
    check(found)
    for stop in found:
        render(stop)
        otherwise(stop, read_setting("shutdown-timeout=1s"))


def test_decisions_stand_under_the_events_that_caused_them() -> None:
    steps = golden("racing").steps
    recorded = [step.event_type.event_type for step in steps if step.event_type]
    assert recorded[:4] == [
        EventType.TOPOLOGY_ESTABLISHED,
        EventType.CANCEL_REQUESTED,
        EventType.DEADLINE_REACHED,
        EventType.TOPOLOGY_TERMINATED,
    ]
    causes = [[recorded.cause for recorded in step.outcomes] for step in steps]
    assert causes == [
        [],
        [EventType.CANCEL_REQUESTED],
        [EventType.DEADLINE_REACHED],
        [EventType.TOPOLOGY_TERMINATED],
        [],
    ]


def test_causes_are_found_where_the_stream_has_other_sequences() -> None:
    """As when a stream was restored, or a history was published again into another one."""
    history = read_history(lines_of("redriven"))
    moved = [replace(record, sequence=record.sequence + 1000) for record in history.records]
    events, problems = understand_all(moved)
    assert problems == []
    checked = check(stops(events))
    assert checked.passed
    assert checked.outcomes == 4


def test_a_decision_that_cannot_be_in_the_table_is_a_difference() -> None:
    lines = lines_of("condition-lost")
    broken = [line.replace(b'"result":"condition lost (422)"', b'"result":"written"') for line in lines]
    (difference,) = check(reported(read_history(broken))[0]).differences
    assert (difference.expected, difference.actual) == ("finalize by topology-gone", "nothing more")
    assert difference.what == "decision 2 of 2 on topology-terminated"


def test_a_deadline_that_was_early_is_a_difference() -> None:
    lines = lines_of("deadline-default")
    broken = [line.replace(b'"timeout":"900ms"', b'"timeout":"9s"') for line in lines]
    (difference,) = check(reported(read_history(broken))[0]).differences
    assert difference.what == "deadline-reached"
    assert difference.expected.startswith("not before ")


def test_the_state_before_and_after_each_event() -> None:
    states = [KnownState()]
    for event in golden("cancel-then-gone").events:
        states.append(after(states[-1], event))
    cancel = differences(states[1], states[2])
    assert cancel["cancel_requested"] == (False, True)
    assert cancel["cancel_observed_at"][0] is None
    wait = differences(states[2], states[3])
    assert wait == {"decided": (None, "wait by topology-up")}
    assert states[-1].phase == "Finished"
    assert states[-1].step_runs == ()
    assert states[-1].deleted_step_runs == ("cancel-then-gone-listen", "cancel-then-gone-speak")


def test_a_shorter_timeout_would_have_ended_it_at_its_deadline() -> None:
    found = otherwise(golden("cancel-then-gone"), read_setting("shutdown-timeout=10ms"))
    assert found is not None
    assert (found.latency_ms, found.cause, found.at_the_latest) == (10.0, "deadline", False)


def test_a_longer_timeout_changes_nothing_where_the_topology_had_gone() -> None:
    stop = golden("cancel-then-gone")
    found = otherwise(stop, read_setting("shutdown-timeout=1h"))
    assert found is not None
    assert found.cause == "topology-gone"
    assert found.latency_ms is not None
    assert stop.latency is not None
    assert timedelta(milliseconds=found.latency_ms) <= stop.latency


def test_a_longer_timeout_would_have_ended_it_at_the_latest_then() -> None:
    found = otherwise(golden("deadline-default"), read_setting("shutdown-timeout=5s"))
    assert found is not None
    assert (found.latency_ms, found.cause, found.at_the_latest) == (5000.0, "deadline", True)


def test_a_write_that_was_refused_would_have_been_refused() -> None:
    found = otherwise(golden("dead-letter"), read_setting("shutdown-timeout=1h"))
    assert found is not None
    assert found.cause == "Finished: StoryRun gracefully canceled"
    assert found.latency_ms is not None
    assert found.latency_ms > 2000


def test_no_timeout_ends_a_run_that_is_opted_out() -> None:
    found = otherwise(golden("opted-out"), read_setting("shutdown-timeout=1ms"))
    assert found is not None
    assert found.cause == "Finished: StoryRun gracefully canceled"


@pytest.mark.parametrize("text", ["drain=5s", "shutdown-timeout", "shutdown-timeout=soon", "shutdown-timeout=-1s"])
def test_other_questions_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_setting(text)


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.jsonl"))])
def test_a_redacted_history_holds_no_name_and_is_decided_as_the_whole_one(name: str) -> None:
    whole = read_history(lines_of(name))
    lines = list(write_history(redacted(whole.records), run="namespace-1/run-1", now=NOW, redacted=True))
    content = b"".join(lines)
    for secret in (
        f'"name":"{name}"',
        f"/{name}",
        f".{name}.",
        "livekit",
        "listen",
        "speak",
        "streaming topology",
        "traceparent",
        "only bobrapet may",
    ):
        assert secret.encode() not in content
    found, problems = reported(read_history(lines))
    assert problems == []
    checked, unredacted = check(found), check(reported(whole)[0])
    assert checked.passed
    assert (checked.run_events, checked.outcomes) == (unredacted.run_events, unredacted.outcomes)
    verdicts = [recorded.outcome.verdict for stop in found for recorded in stop.outcomes]
    events, _ = understand_all(whole.records)
    assert sorted(verdicts) == sorted(
        recorded.outcome.verdict for recorded in events if isinstance(recorded, OutcomeEvent)
    )


def test_what_is_left_of_a_run_that_has_ended_changes_nothing_else_that_was_known() -> None:
    states = [KnownState()]
    events = golden("late-step-run").events
    for event in events:
        states.append(after(states[-1], event))
    (at,) = (
        at
        for at, each in enumerate(events)
        if isinstance(each, RunEvent) and each.event_type is EventType.STEP_RUNS_LEFT
    )
    changed = differences(states[at], states[at + 1])
    assert changed["step_runs"] == ((), ("late-step-run-late",))
    assert set(changed) <= {"step_runs", "resource_version"}
    assert states[-1].step_runs == ()
