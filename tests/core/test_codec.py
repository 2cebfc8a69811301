import msgspec
import pytest
from msgspec.structs import replace

from core.objects import FENCE, NOW, condition, run_state, snapshot, step_run, story_run
from exeunt.codec import fact_message, outcome_message, read_fact
from exeunt.errors import PoisonEvent
from exeunt.events import Decided, Fact, Outcome, Verdict
from exeunt.kube.models import TraceInfo
from exeunt.shutdown_timeout import Rejected, ShutdownTimeout
from exeunt.snapshot import Evidence, Snapshot, StepRunRef, Topology
from exeunt.subjects import fact_subject, outcome_subject

TRACE = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}


def full() -> Snapshot:
    """A snapshot in which every field says something."""
    run = run_state(story_run(fence=FENCE, conditions=[condition("Ready", "False", "Running")], message="m"))
    said = snapshot(
        replace(
            run, trace=TraceInfo(trace_id="ab" * 16, span_id="cd" * 8, sampled=True), finished_at="2026-11-24T18:13:40Z"
        ),
        topology=Topology(established=True, step_runs_seen=True, gone=Evidence("bindings-gone", 2, "no binding")),
        step_runs=(StepRunRef("call-listen", step_run().metadata.uid),),
    )
    return replace(said, streams=True, shutdown=ShutdownTimeout("5s", "Story policy", (Rejected("a", "b", "c"),)))


def poisoned(**fields: object) -> bytes:
    """The payload of `full` with some fields of the run replaced."""
    body = msgspec.json.decode(msgspec.json.encode(full()))
    body["run"] |= fields
    return msgspec.json.encode(body)


@pytest.mark.parametrize("fact", Fact)
def test_a_fact_survives_being_said_and_read(fact: Fact) -> None:
    said = full()
    message = fact_message(fact, said, source="/exeunt/watcher", now=NOW, context=TRACE)
    event = read_fact(message.headers, message.payload)
    assert (event.fact, event.snapshot) == (fact, said)
    assert bytes(event.snapshot.run.conditions) == bytes(said.run.conditions)
    assert event.attributes.subject == "voice/call"
    assert event.attributes.time == "2026-11-24T18:13:33.000000Z"
    assert message.headers["traceparent"] == TRACE["traceparent"]


def test_a_fact_is_said_once_on_the_subject_of_its_episode() -> None:
    said = full()
    cancel = fact_message(Fact.CANCEL_REQUESTED, said, source="/s", now=NOW, context={})
    assert cancel.expected_last_subject_sequence == 0
    assert cancel.subject == fact_subject(said.run.episode, Fact.CANCEL_REQUESTED)
    assert cancel.headers["ce-id"] == f"uid-call/{said.run.episode.token}/cancel-requested"


def test_a_topology_is_established_once_in_a_life_whatever_the_fence() -> None:
    before, after = snapshot(story_run()), snapshot(story_run(fence=FENCE))
    subjects = {
        fact_message(Fact.TOPOLOGY_ESTABLISHED, said, source="/s", now=NOW, context={}).subject
        for said in (before, after)
    }
    assert subjects == {"exeunt.runs.voice.call.uid-call.first.topology-established"}


def test_an_outcome_is_recorded_once_beside_its_cause() -> None:
    episode = full().run.episode
    outcome = Outcome(
        verdict=Verdict.FINALIZE,
        rule="topology-gone",
        why="w",
        cause_id="uid-call/token/cancel-requested",
        cause_sequence=3,
        trail=(Decided("2026-11-24T18:13:33Z", Verdict.FINALIZE, "topology-gone", "w", reread=full()),),
    )
    message = outcome_message(outcome, episode, Fact.CANCEL_REQUESTED, source="/s", now=NOW, context=TRACE)
    assert message.subject == outcome_subject(episode, Fact.CANCEL_REQUESTED)
    assert message.expected_last_subject_sequence == 0
    assert msgspec.json.decode(message.payload, type=Outcome) == outcome
    with pytest.raises(PoisonEvent, match=r"'io\.bubustack\.exeunt\.outcome\.v1' is no fact"):
        read_fact(message.headers, message.payload)


def headers_of(fact: Fact = Fact.CANCEL_REQUESTED) -> dict[str, str]:
    return fact_message(fact, full(), source="/s", now=NOW, context={}).headers


def test_fields_of_later_versions_are_skipped() -> None:
    body = msgspec.json.decode(poisoned(added=[1, {"x": 2}]))
    body["added"] = {"deep": [None]}
    assert read_fact(headers_of(), msgspec.json.encode(body)).snapshot == full()


@pytest.mark.parametrize("kind", ["io.bubustack.exeunt.cancel-requested.v2", "io.bubustack.exeunt.nonsense.v1", "x"])
def test_an_unknown_type_is_named(kind: str) -> None:
    with pytest.raises(PoisonEvent, match=f"event type '{kind}' is no fact"):
        read_fact(headers_of() | {"ce-type": kind}, poisoned())


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
        read_fact(headers_of(), payload)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-24T18:13:00,5Z"])
def test_a_time_that_kubernetes_takes_unread_is_passed_on_as_it_is(text: str) -> None:
    said = read_fact(headers_of(), poisoned(started_at=text, finished_at=text))
    assert (said.snapshot.run.started_at, said.snapshot.run.finished_at) == (text, text)


def test_a_message_that_is_no_event_is_poison() -> None:
    with pytest.raises(PoisonEvent, match="header ce-specversion"):
        read_fact({}, poisoned())
