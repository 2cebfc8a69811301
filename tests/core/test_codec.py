import msgspec
import pytest
from msgspec.structs import replace

from core.objects import CANCEL_OBSERVED_AT, NOW, condition, run_state, snapshot, step_run, story_run
from exeunt.errors import PoisonEvent
from exeunt.events.codec import carried, event_message, outcome_message, read_event
from exeunt.events.event_types import STOPPING_EVENT_TYPES, Decided, EventType, Outcome, Verdict
from exeunt.events.subjects import event_subject, outcome_subject
from exeunt.run.models import TraceInfo
from exeunt.run.shutdown_timeout import Rejected, ShutdownTimeout
from exeunt.run.snapshot import Evidence, Snapshot, StepRunRef, Topology

TRACE = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}


def full() -> Snapshot:
    """A snapshot in which every field says something."""
    run = run_state(
        story_run(
            cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[condition("Ready", "False", "Running")], message="m"
        )
    )
    current = snapshot(
        replace(
            run, trace=TraceInfo(trace_id="ab" * 16, span_id="cd" * 8, sampled=True), finished_at="2026-11-24T18:13:40Z"
        ),
        topology=Topology(established=True, step_runs_seen=True, gone=Evidence("bindings-gone", 2, "no binding")),
        step_runs=(StepRunRef("call-listen", step_run().metadata.uid),),
    )
    return replace(current, streams=True, shutdown=ShutdownTimeout("5s", "Story policy", (Rejected("a", "b", "c"),)))


def poisoned(**fields: object) -> bytes:
    """The payload of `full` with some fields of the run replaced."""
    body = msgspec.json.decode(msgspec.json.encode(full()))
    body["run"] |= fields
    return msgspec.json.encode(body)


@pytest.mark.parametrize("event_type", EventType)
def test_an_event_survives_being_said_and_read(event_type: EventType) -> None:
    recorded = full()
    message = event_message(event_type, recorded, source="/exeunt/watcher", now=NOW, context=TRACE)
    event = read_event(message.headers, message.payload)
    assert (event.event_type, event.snapshot) == (event_type, carried(event_type, recorded))
    assert event.attributes.subject == "voice/call"
    assert event.attributes.time == "2026-11-24T18:13:33.000000Z"
    assert message.headers["traceparent"] == TRACE["traceparent"]


@pytest.mark.parametrize("event_type", STOPPING_EVENT_TYPES)
def test_what_a_write_may_stand_on_is_carried_whole(event_type: EventType) -> None:
    recorded = full()
    message = event_message(event_type, recorded, source="/s", now=NOW, context={})
    event = read_event(message.headers, message.payload)
    assert event.snapshot == recorded
    assert bytes(event.snapshot.run.conditions) == bytes(recorded.run.conditions)


@pytest.mark.parametrize(
    ("event_type", "is_named"),
    [(EventType.CANCEL_REQUESTED, True), (EventType.TOPOLOGY_ESTABLISHED, False), (EventType.RUN_TERMINAL, False)],
)
def test_what_nobody_acts_on_before_the_run_is_read_goes_without_its_conditions(
    event_type: EventType, *, is_named: bool
) -> None:
    up = replace(full(), topology=Topology(established=True))
    slim = carried(event_type, up)
    assert bytes(slim.run.conditions) == b"null"
    assert slim.step_runs == (up.step_runs if is_named else None)
    same = ("cancellation", "attempt_key", "phase", "cancel_requested", "canceled_at", "enabled_as_read", "trace")
    assert [getattr(slim.run, name) for name in same] == [getattr(up.run, name) for name in same]
    assert (slim.story, slim.shutdown, slim.realtime, slim.deadline) == (
        up.story,
        up.shutdown,
        up.realtime,
        up.deadline,
    )


def test_the_end_of_a_run_says_by_what_its_topology_was_gone_and_not_again_in_which_words() -> None:
    over = full()
    over = replace(over, run=replace(over.run, phase="Finished"))
    assert carried(EventType.RUN_TERMINAL, over).topology.gone == Evidence("bindings-gone", 2, "")


def test_a_cancel_that_was_observed_says_its_time_once() -> None:
    recorded = full()
    assert recorded.run.canceled_at == recorded.run.cancel_observed_at
    message = event_message(EventType.CANCEL_REQUESTED, recorded, source="/s", now=NOW, context={})
    assert b"canceled_at" not in message.payload
    assert read_event(message.headers, message.payload).snapshot.run.canceled_at == recorded.run.canceled_at


def test_a_story_beside_its_run_goes_without_its_namespace() -> None:
    recorded = full()
    assert recorded.story.namespace == recorded.run.namespace
    message = event_message(EventType.CANCEL_REQUESTED, recorded, source="/s", now=NOW, context={})
    assert b"namespace" not in message.payload.partition(b'"story":')[2]
    assert read_event(message.headers, message.payload).snapshot.story == recorded.story


def test_a_story_elsewhere_is_told_with_its_namespace() -> None:
    recorded = full()
    recorded = replace(recorded, story=replace(recorded.story, namespace="stories"))
    message = event_message(EventType.CANCEL_REQUESTED, recorded, source="/s", now=NOW, context={})
    assert read_event(message.headers, message.payload).snapshot.story == recorded.story


def test_an_event_is_published_once_on_the_subject_of_its_cancellation() -> None:
    recorded = full()
    cancel = event_message(EventType.CANCEL_REQUESTED, recorded, source="/s", now=NOW, context={})
    assert cancel.expected_last_subject_sequence == 0
    assert cancel.subject == event_subject(recorded.run.cancellation, EventType.CANCEL_REQUESTED)
    again = event_message(EventType.CANCEL_REQUESTED, recorded, source="/s", now=NOW, context={})
    others = [event_message(event_type, recorded, source="/s", now=NOW, context={}) for event_type in EventType]
    assert again.headers["ce-id"] == cancel.headers["ce-id"]
    assert len({other.headers["ce-id"] for other in others}) == len(EventType)


def test_a_topology_is_established_once_in_a_attempt_whatever_cancel_observed_at() -> None:
    before, after = snapshot(story_run()), snapshot(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    subjects = {
        event_message(EventType.TOPOLOGY_ESTABLISHED, recorded, source="/s", now=NOW, context={}).subject
        for recorded in (before, after)
    }
    assert subjects == {"exeunt.runs.voice.call.uid-call.first.topology-established"}


def test_an_outcome_is_recorded_once_beside_its_cause() -> None:
    cancellation = full().run.cancellation
    outcome = Outcome(
        cause_sequence=3,
        trail=(Decided("2026-11-24T18:13:33Z", Verdict.FINALIZE, "topology-gone", "w", reread=full()),),
    )
    message = outcome_message(outcome, cancellation, EventType.CANCEL_REQUESTED, source="/s", now=NOW, context=TRACE)
    assert message.subject == outcome_subject(cancellation, EventType.CANCEL_REQUESTED)
    assert message.expected_last_subject_sequence == 0
    assert msgspec.json.decode(message.payload, type=Outcome) == outcome
    assert (outcome.verdict, outcome.rule, outcome.why) == (Verdict.FINALIZE, "topology-gone", "w")
    with pytest.raises(PoisonEvent, match=r"'io\.bubustack\.exeunt\.outcome\.v1' is no event"):
        read_event(message.headers, message.payload)


def headers_of(event_type: EventType = EventType.CANCEL_REQUESTED) -> dict[str, str]:
    return event_message(event_type, full(), source="/s", now=NOW, context={}).headers


def test_fields_of_later_versions_are_skipped() -> None:
    body = msgspec.json.decode(poisoned(added=[1, {"x": 2}]))
    body["added"] = {"deep": [None]}
    assert read_event(headers_of(), msgspec.json.encode(body)).snapshot == full()


@pytest.mark.parametrize("kind", ["io.bubustack.exeunt.cancel-requested.v2", "io.bubustack.exeunt.nonsense.v1", "x"])
def test_an_unknown_type_is_named(kind: str) -> None:
    with pytest.raises(PoisonEvent, match=f"event type '{kind}' is no event"):
        read_event(headers_of() | {"ce-type": kind}, poisoned())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff",
        b'{"run": {}}',
        b'{"x":' + b"[" * 200_000,
        poisoned(uid=None),
        poisoned(generation="two"),
        # What decodes, but would stop the decision: an instant, a timeout or conditions that cannot be read.
        poisoned(canceled_at="soon"),
        poisoned(fence="2026-11-24*18:13:32Z"),
        poisoned(conditions=5),
        poisoned(conditions=[{"reason": "x"}]),
        msgspec.json.encode(replace(full(), shutdown=ShutdownTimeout("soon", "default"))),
    ],
)
def test_a_payload_that_cannot_be_used_is_poison_and_names_the_type(payload: bytes) -> None:
    with pytest.raises(
        PoisonEvent, match=r"the payload of io\.bubustack\.exeunt\.cancel-requested\.v1 does not decode: ."
    ):
        read_event(headers_of(), payload)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-24T18:13:00,5Z"])
def test_a_time_that_kubernetes_takes_unread_is_passed_on_as_it_is(text: str) -> None:
    recorded = read_event(headers_of(), poisoned(started_at=text, finished_at=text))
    assert (recorded.snapshot.run.started_at, recorded.snapshot.run.finished_at) == (text, text)


def test_a_message_that_is_no_event_is_poison() -> None:
    with pytest.raises(PoisonEvent, match="header ce-specversion"):
        read_event({}, poisoned())
