"""Spans of the real SDK: which trace a hop belongs to, which spans are exported, and what the environment says."""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import StatusCode, TraceFlags

from exeunt import __version__
from exeunt.errors import UsageError
from exeunt.events.event_types import Decided, EventType, Verdict
from exeunt.net.http_server import Request
from exeunt.run.models import TraceInfo
from exeunt.run.shutdown_timeout import ShutdownTimeout
from exeunt.run.snapshot import RunState, Snapshot, StoryState
from exeunt.telemetry import exporting, spans, tracing
from exeunt.telemetry.configured import configure_telemetry
from exeunt.telemetry.stop_trace import StopIds
from exeunt.telemetry.tracing import apart, calling, due, latency, processing, sending, sweeping

CANCELED = Snapshot(
    run=RunState(
        namespace="voice",
        name="call",
        uid="uid-call",
        resource_version="1",
        generation=2,
        attempt="first",
        phase="Running",
        cancel_requested=True,
        cancel_observed_at="2026-11-24T18:13:32.5Z",
        canceled_at="2026-11-24T18:13:32.5Z",
    ),
    story=StoryState(namespace="voice", name="talk", resource_version="1", realtime=True),
    shutdown=ShutdownTimeout(timeout="20s", rule="default"),
)
UNOBSERVED = replace(CANCELED, run=replace(CANCELED.run, cancel_observed_at=None))
DEFAULT = ParentBased(ALWAYS_ON)
RECORDED = TraceInfo(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", sampled=True)


def recorded(trace_info: TraceInfo) -> Snapshot:
    return replace(CANCELED, run=replace(CANCELED.run, trace=trace_info))


class Exported:
    """What one process exports, and what would let another one begin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._memory = InMemorySpanExporter()
        self.restart()

    def restart(self, sampler: Sampler = DEFAULT) -> None:
        """As configured by `telemetry`, in a process that has seen nothing of the others."""
        provider = TracerProvider(
            sampler=sampler, id_generator=StopIds(), resource=Resource({}), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self._monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        self._monkeypatch.setattr(tracing, "_spans", spans)
        self._monkeypatch.setattr(spans, "_tracer", provider.get_tracer("exeunt"))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._memory.get_finished_spans())

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    yield Exported(monkeypatch)
    assert not trace.get_current_span().get_span_context().is_valid


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def process(event_type: EventType, snapshot: Snapshot, headers: dict[str, str], number: int = 1) -> None:
    with processing(event_type, snapshot, headers, consumer="terminator", delivery=number):
        pass


def test_what_is_published_later_finds_the_stop_without_having_heard_of_it(exported: Exported) -> None:
    with sending(EventType.CANCEL_REQUESTED, CANCELED):
        pass
    exported.restart()
    with sending(EventType.TOPOLOGY_TERMINATED, UNOBSERVED):  # seen before bobrapet has observed the cancel was
        pass
    with sweeping(CANCELED):
        pass
    first = exported.one("send cancel-requested")
    assert parent(first) is None
    assert parent(exported.one("send topology-terminated")) == parent(exported.one("sweep")) == ids(first)


def test_another_attempt_and_another_run_are_other_stops(exported: Exported) -> None:
    for change in ({}, {"attempt": "redrive-1"}, {"uid": "another"}):
        with sending(EventType.CANCEL_REQUESTED, replace(CANCELED, run=replace(CANCELED.run, **change))):
            pass
    assert len({ids(span)[0] for span in exported.spans}) == 3


def test_a_stop_is_joined_to_the_trace_of_its_run(exported: Exported) -> None:
    snapshot = recorded(RECORDED)
    with sending(EventType.CANCEL_REQUESTED, snapshot) as hop:
        process(EventType.CANCEL_REQUESTED, snapshot, hop.headers)
    exported.restart()
    with sending(EventType.TOPOLOGY_TERMINATED, snapshot):
        pass
    first = exported.one("send cancel-requested")
    assert parent(first) == (int(RECORDED.trace_id, 16), int(RECORDED.span_id, 16))
    assert parent(exported.one("process cancel-requested")) == ids(first)
    assert parent(exported.one("send topology-terminated")) == ids(first)


@pytest.mark.parametrize(
    "broken",
    [
        TraceInfo(),
        TraceInfo(trace_id="no hex", span_id="b7"),
        TraceInfo(trace_id="0" * 32, span_id="0" * 16),
        TraceInfo(trace_id="f" * 5_000, span_id="b7"),
        TraceInfo(trace_id="-1", span_id="-b7"),
    ],
)
def test_a_trace_that_cannot_be_read_is_none(exported: Exported, broken: TraceInfo) -> None:
    with sending(EventType.CANCEL_REQUESTED, recorded(broken)):
        pass
    assert parent(exported.one("send cancel-requested")) is None


def test_a_deadline_is_a_child_of_the_stop_and_links_to_what_armed_it(exported: Exported) -> None:
    with sending(EventType.CANCEL_REQUESTED, CANCELED) as published:
        pass
    with processing(
        EventType.CANCEL_REQUESTED, CANCELED, published.headers, consumer="timeout-scheduler", delivery=1
    ) as armed:
        pass
    with due(CANCELED, armed.headers, consumer="timeout-scheduler-due", delivery=1):
        pass
    reached = exported.one("process deadline")
    assert parent(reached) == ids(exported.one("send cancel-requested"))
    assert [(link.context.trace_id, link.context.span_id) for link in reached.links] == [
        ids(exported.one("process cancel-requested"))
    ]


def test_what_is_published_of_a_run_that_nobody_canceled_belongs_to_no_stop(exported: Exported) -> None:
    running = replace(
        CANCELED, run=replace(CANCELED.run, cancel_requested=False, cancel_observed_at=None, canceled_at=None)
    )
    with sending(EventType.TOPOLOGY_TERMINATED, running) as hop:
        assert hop.headers == {}
        process(EventType.TOPOLOGY_TERMINATED, running, hop.headers)
    assert exported.spans == []


def test_a_hop_that_did_nothing_is_not_exported(exported: Exported) -> None:
    with sending(EventType.CANCEL_REQUESTED, CANCELED) as hop:
        hop.drop()
    assert exported.spans == []


def test_decisions_are_events_at_their_own_time(exported: Exported) -> None:
    trail = [
        Decided("2026-11-24T18:13:33.000001Z", Verdict.FINALIZE, "deadline", "so", result="condition lost (422)"),
        Decided("2026-11-24T18:13:33.000002Z", Verdict.GONE, "deleted", "the StoryRun is gone"),
    ]
    with processing(EventType.DEADLINE_REACHED, CANCELED, {}, consumer="terminator", delivery=2) as hop:
        hop.decided(trail)
    span = exported.one("process deadline-reached")
    times = [datetime.fromtimestamp(event.timestamp / 1e9, UTC) for event in span.events]
    assert [round(time.timestamp() % 1 * 1e6) for time in times] == [1, 2]
    assert [dict(event.attributes or {})["exeunt.rule"] for event in span.events] == ["deadline", "deleted"]
    assert span.attributes is not None
    assert (span.attributes["exeunt.verdict"], span.attributes["exeunt.delivery"]) == ("gone", 2)


def test_a_request_is_a_span_within_a_hop_and_none_outside(exported: Exported) -> None:
    with calling("GET", "/outside", "server"):
        pass
    with (
        processing(EventType.CANCEL_REQUESTED, CANCELED, {}, consumer="terminator", delivery=1),
        calling("PATCH", "/inside", "server"),
    ):
        pass
    assert [span.name for span in exported.spans] == ["PATCH /inside", "process cancel-requested"]
    assert parent(exported.spans[0]) == ids(exported.spans[1])


@pytest.mark.parametrize(("seconds", "late"), [(0.9, set()), (1.1, {"exeunt.late"})])
def test_a_hop_that_finds_its_stop_late_is_marked(exported: Exported, seconds: float, late: set[str]) -> None:
    with processing(EventType.CANCEL_REQUESTED, CANCELED, {}, consumer="terminator", delivery=1):
        latency(timedelta(seconds=seconds))
    attributes = exported.one("process cancel-requested").attributes or {}
    assert attributes["exeunt.stop.latency"] == seconds
    assert {"exeunt.late"} & attributes.keys() == late


def test_a_hop_that_fails_says_why(exported: Exported) -> None:
    with processing(EventType.CANCEL_REQUESTED, CANCELED, {}, consumer="terminator", delivery=1) as hop:
        hop.failed(LookupError("no"))
    with pytest.raises(RuntimeError), sweeping(CANCELED):
        raise RuntimeError("a bug")
    reported = {span.name: (span.status.status_code, span.status.description) for span in exported.spans}
    assert reported == {
        "process cancel-requested": (StatusCode.ERROR, "no"),
        "sweep": (StatusCode.ERROR, "RuntimeError: a bug"),
    }


def test_what_the_sampler_drops_is_not_exported_and_whoever_follows_hears_of_it(exported: Exported) -> None:
    exported.restart(ALWAYS_OFF)
    with (
        sending(EventType.CANCEL_REQUESTED, CANCELED) as sent,
        processing(EventType.CANCEL_REQUESTED, CANCELED, sent.headers, consumer="terminator", delivery=1),
        calling("PATCH", "/inside", "server") as request,
    ):
        request.failed("500")
    assert exported.spans == []
    assert not int(sent.headers["traceparent"].split("-")[3], 16) & TraceFlags.SAMPLED


def test_whoever_derives_a_stop_samples_it_as_its_first_span_was(exported: Exported) -> None:
    exported.restart(ParentBased(TraceIdRatioBased(0.5)))
    for number in range(40):
        snapshot = replace(CANCELED, run=replace(CANCELED.run, uid=f"uid-{number}"))
        for event_type in (EventType.CANCEL_REQUESTED, EventType.TOPOLOGY_TERMINATED):
            with sending(event_type, snapshot):
                pass
    per_trace = [ids(span)[0] for span in exported.spans]
    assert 0 < len(set(per_trace)) < 40
    assert all(per_trace.count(trace_id) == 2 for trace_id in per_trace)


def test_a_run_that_bobrapet_did_not_sample_is_not_sampled_here(exported: Exported) -> None:
    with sending(EventType.CANCEL_REQUESTED, recorded(replace(RECORDED, sampled=False))):
        pass
    assert exported.spans == []


@pytest.mark.parametrize("loaded", [False, True])
def test_without_an_endpoint_context_is_passed_on_and_nothing_else_is_done(
    monkeypatch: pytest.MonkeyPatch, *, loaded: bool
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(tracing, "_spans", spans if loaded else None)
    heard = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ce-id": "1"}
    with processing(EventType.CANCEL_REQUESTED, CANCELED, heard, consumer="terminator", delivery=1) as hop:
        assert hop.headers == {"traceparent": heard["traceparent"]}
        assert not trace.get_current_span().get_span_context().is_valid
    with sending(EventType.CANCEL_REQUESTED, CANCELED) as hop:
        assert hop.headers == {}


ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, 0),
        ({ENDPOINT: "http://127.0.0.1:1"}, 1),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, 1),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1/v1/metrics"}, 0),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, 1),
        ({ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, 0),
        ({ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"}, 0),
    ],
)
def test_the_environment_says_whether_traces_are_exported(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], wanted: int
) -> None:
    only(monkeypatch, environment)
    exporters = list(exporting._exporters("traces"))
    assert len(exporters) == wanted
    for exporter in exporters:
        exporter.shutdown()


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({ENDPOINT: "http://x:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "known are http/protobuf, grpc"),
        ({ENDPOINT: "http://x:1", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "tcp"}, "known are http/protobuf, grpc"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin is not supported; known are otlp, none"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], complaint: str
) -> None:
    only(monkeypatch, environment)
    with pytest.raises(UsageError, match=complaint):
        list(exporting._exporters("traces"))


def test_grpc_is_an_extra_and_its_absence_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {ENDPOINT: "http://x:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    monkeypatch.setitem(exporting._PROTOCOLS, "grpc", "grpc_that_nobody_installs")
    with pytest.raises(UsageError, match=r"install exeunt\[otlp-grpc\]"):
        list(exporting._exporters("traces"))


def test_the_environment_names_the_service_before_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = "service.instance.id=7,team=voice"
    for environment, wanted in (
        ({"HOSTNAME": "pod-1"}, {"service_name": "exeunt-watcher", "service_instance_id": "pod-1"}),
        (
            {"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": mine},
            {"service_name": "mine", "service_instance_id": "7", "team": "voice"},
        ),
    ):
        only(monkeypatch, environment)
        answer = configure_telemetry("exeunt-watcher").endpoint(Request("/metrics", "", {}))
        (line,) = re.findall(r"^target_info\{(.*)\} 1", answer.body.decode(), re.MULTILINE)
        shown = dict(re.findall(r'(\w+)="([^"]*)"', line))
        assert wanted.items() <= shown.items()
        assert shown["service_version"] == __version__


def only(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Nothing of OTEL_* but this."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_what_knows_no_run_is_a_trace_of_its_own(exported: Exported) -> None:
    """A webhook and the look that it leads to are one trace; a look after a wait links to it."""
    with apart("webhook", "SERVER", {}, {}) as webhook:
        pass
    with apart("look", "CONSUMER", webhook.headers, {}) as look:
        assert look.headers["traceparent"] != webhook.headers["traceparent"]
    with apart("later", "CONSUMER", webhook.headers, {}, waited=True):
        pass
    first, second, later = (exported.one(name) for name in ("webhook", "look", "later"))
    assert parent(first) is None
    assert parent(second) == ids(first)
    assert parent(later) is None
    assert ids(later)[0] != ids(first)[0]
    assert [(link.context.trace_id, link.context.span_id) for link in later.links] == [ids(first)]
