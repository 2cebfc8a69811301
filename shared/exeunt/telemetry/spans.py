"""The spans of `tracing`, made with OpenTelemetry.

The first span of a stop says "cancel requested"; `stop_trace` tells its trace, which anybody finds again, and W3C trace
context in the message headers joins the hops between.

Where a wait lies between hops, as between the arming of a deadline and its instant, the later hop is a child of the
first span and links to the earlier one. `semconv` has the names, `exporting` decides where they go.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
)

from exeunt import __version__
from exeunt.clock import format_instant, parse_instant
from exeunt.events.event_types import Decided, EventType
from exeunt.run.snapshot import Snapshot
from exeunt.telemetry import semconv
from exeunt.telemetry.stop_trace import begin, stop_context
from exeunt.telemetry.tracing import Hop

LATE_AFTER: Final = timedelta(seconds=1)
"""The service level that is promised: a stop ends within a second of its cause. Later ones are marked."""

_tracer: Final = trace.get_tracer("exeunt", __version__)


class SpanHop(Hop):
    """A hop with a span around it."""

    def __init__(self, span: Span, headers: dict[str, str]) -> None:
        super().__init__(headers)
        self._span = span

    def attribute(self, name: str, value: str | float) -> None:
        self._span.set_attribute(name, value)

    def event(self, name: str, **attributes: str | float) -> None:
        self._span.add_event(name, attributes)

    def decided(self, trail: Sequence[Decided]) -> None:
        if not self._span.is_recording():
            return
        for step in trail:
            attributes = {
                semconv.VERDICT: str(step.verdict),
                semconv.RULE: step.rule,
                semconv.WHY: step.why,
                semconv.RESULT: step.result,
            }
            self._span.add_event("decided", attributes, int(parse_instant(step.at).timestamp() * 1e9))
        self._span.set_attributes({semconv.VERDICT: str(trail[-1].verdict), semconv.RULE: trail[-1].rule})

    def failed(self, why: Exception | str) -> None:
        self._span.set_attribute(semconv.ERROR_TYPE, why if isinstance(why, str) else type(why).__qualname__)
        self._span.set_status(StatusCode.ERROR, str(why))


_UNTRACED: Final = Hop({})


@contextmanager
def sending(event_type: EventType, snapshot: Snapshot) -> Iterator[Hop]:
    if not (_is_tracing() and snapshot.run.cancel_requested):
        yield _UNTRACED
        return
    first = event_type is EventType.CANCEL_REQUESTED
    attributes = _messaging(event_type, "send", snapshot)
    if snapshot.topology.gone is not None:
        attributes[semconv.EVIDENCE] = snapshot.topology.gone.kind
    if first and snapshot.deadline is not None:
        attributes[semconv.DEADLINE] = format_instant(snapshot.deadline)
    context = begin(snapshot) if first else stop_context(snapshot)
    with _hop(f"send {event_type}", context, SpanKind.PRODUCER, attributes, _signaled_by(snapshot)) as hop:
        yield hop


@contextmanager
def processing(
    event_type: EventType, snapshot: Snapshot, headers: Mapping[str, str], *, consumer: str, delivery: int
) -> Iterator[Hop]:
    if not _is_tracing():
        passed_on = {name: headers[name] for name in propagate.get_global_textmap().fields if name in headers}
        yield Hop(passed_on)
        return
    heard = propagate.extract(headers)
    traced = trace.get_current_span(heard).get_span_context().is_valid
    if not (traced or snapshot.run.cancel_requested):
        yield _UNTRACED
        return
    attributes = _messaging(event_type, "process", snapshot) | {semconv.MESSAGING_CONSUMER_GROUP: consumer}
    attributes[semconv.DELIVERY] = delivery
    if message_id := headers.get("ce-id"):
        attributes[semconv.MESSAGING_MESSAGE_ID] = message_id
    context = heard if traced else stop_context(snapshot)
    with _hop(f"process {event_type}", context, SpanKind.CONSUMER, attributes) as hop:
        yield hop


@contextmanager
def due(snapshot: Snapshot, headers: Mapping[str, str], *, consumer: str, delivery: int) -> Iterator[Hop]:
    if not _is_tracing():
        yield _UNTRACED
        return
    armed = trace.get_current_span(propagate.extract(headers)).get_span_context()
    attributes = _messaging(EventType.DEADLINE_REACHED, "process", snapshot)
    attributes |= {
        semconv.MESSAGING_DESTINATION_TEMPLATE: "exeunt.deadlines.due.{namespace}.{name}.{uid}.{episode}",
        semconv.MESSAGING_CONSUMER_GROUP: consumer,
        semconv.DELIVERY: delivery,
    }
    links = [Link(armed)] if armed.is_valid else []
    with _hop("process deadline", stop_context(snapshot), SpanKind.CONSUMER, attributes, links) as hop:
        yield hop


@contextmanager
def sweeping(snapshot: Snapshot) -> Iterator[Hop]:
    if not _is_tracing():
        yield _UNTRACED
        return
    with _hop("sweep", stop_context(snapshot), SpanKind.INTERNAL, _attributes(snapshot)) as hop:
        yield hop


@contextmanager
def apart(
    name: str, kind: str, headers: Mapping[str, str], attributes: Mapping[str, str | int], *, waited: bool = False
) -> Iterator[Hop]:
    if not _is_tracing():
        yield _UNTRACED
        return
    heard = propagate.extract(headers)
    before = trace.get_current_span(heard).get_span_context()
    links = [Link(before)] if waited and before.is_valid else []
    with _hop(name, Context() if waited else heard, SpanKind[kind], attributes, links) as hop:
        yield hop


@contextmanager
def calling(method: str, template: str, server: str) -> Iterator[Hop]:
    if not trace.get_current_span().is_recording():
        yield _UNTRACED
        return
    attributes = {semconv.HTTP_METHOD: method, semconv.URL_TEMPLATE: template, semconv.SERVER_ADDRESS: server}
    with _tracer.start_as_current_span(
        f"{method} {template}",
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,  # whoever calls knows which answer is none that was hoped for
        set_status_on_exception=False,
    ) as span:
        yield SpanHop(span, {})


def latency(since_cause: timedelta) -> None:
    span = trace.get_current_span()
    span.set_attribute(semconv.STOP_LATENCY, since_cause.total_seconds())
    if since_cause > LATE_AFTER:
        span.set_attribute(semconv.LATE, True)


def current_ids(*, sampled: bool) -> dict[str, str]:
    span = trace.get_current_span().get_span_context()
    if not span.is_valid or (sampled and not span.trace_flags.sampled):
        return {}
    return {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}


def _signaled_by(snapshot: Snapshot) -> list[Link]:
    """A link to the hop, of a bridge for example, that said what the evidence is."""
    gone = snapshot.topology.gone
    if gone is None or gone.traceparent is None:
        return []
    published = trace.get_current_span(propagate.extract({"traceparent": gone.traceparent})).get_span_context()
    return [Link(published)] if published.is_valid else []


@contextmanager
def _hop(
    name: str,
    context: Context,
    kind: SpanKind,
    attributes: Mapping[str, str | int],
    links: Sequence[Link] = (),
) -> Iterator[Hop]:
    span = _tracer.start_span(name, context, kind, attributes, links)
    hop = SpanHop(span, {})
    try:
        with trace.use_span(span):
            propagate.inject(hop.headers)
            yield hop
    finally:
        if not hop.dropped:  # what is never ended is never exported
            span.end()


def _is_tracing() -> bool:
    return isinstance(trace.get_tracer_provider(), TracerProvider)


def _messaging(event_type: EventType, operation: str, snapshot: Snapshot) -> dict[str, str | int]:
    return _attributes(snapshot) | {
        semconv.MESSAGING_SYSTEM: "nats",
        semconv.MESSAGING_OPERATION_NAME: operation,
        semconv.MESSAGING_OPERATION_TYPE: operation,
        semconv.MESSAGING_DESTINATION_TEMPLATE: f"exeunt.runs.{{namespace}}.{{name}}.{{uid}}.{{episode}}.{event_type}",
        semconv.MESSAGING_CONVERSATION_ID: snapshot.run.uid,
    }


def _attributes(snapshot: Snapshot) -> dict[str, str | int]:
    return {
        semconv.K8S_NAMESPACE: snapshot.run.namespace,
        semconv.STORY_RUN_NAME: snapshot.run.name,
        semconv.STORY_RUN_PHASE: snapshot.run.phase or "",
        semconv.STORY_NAME: snapshot.story.name,
        semconv.CANCELLATION: snapshot.run.cancellation.token,
    }
