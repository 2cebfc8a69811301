"""One trace for each stop, over all services and NATS, inside the run's own trace when it has one.

A span for each hop, none that stays open over a wait. The operator records its trace in `StoryRun.status.trace`
(contract §6); the first hop joins it, and W3C trace context in the message headers carries it on. Attribute names are
OpenTelemetry's (messaging and Kubernetes conventions); `bobrapet.*` are ours. All of it is configured by the standard
`OTEL_*` variables; without `OTEL_EXPORTER_OTLP_ENDPOINT` nothing is recorded and nothing is spent.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from exeunt import __version__
from exeunt.events import Fact
from exeunt.snapshot import Snapshot

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer: Final = trace.get_tracer("exeunt", __version__)


def configure_tracing(*, service: str) -> TracerProvider | None:
    """Export spans over OTLP/HTTP when an endpoint is set; the provider, to be shut down at the end."""
    if not any(os.environ.get(endpoint) for endpoint in _ENDPOINTS):
        return None
    # Imported only when it is used: 20 MiB.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    resource = Resource.create({"service.name": service, "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


@contextmanager
def producing(fact: Fact, snapshot: Snapshot) -> Iterator[dict[str, str]]:
    """A span around saying `fact`; yields the headers that carry its context."""
    with _tracer.start_as_current_span(
        f"send {fact}",
        context=_run_context(snapshot),
        kind=SpanKind.PRODUCER,
        attributes=_attributes(fact, snapshot) | {"messaging.operation.type": "send"},
    ):
        yield _headers()


@contextmanager
def consuming(fact: Fact, snapshot: Snapshot, headers: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A span around answering `fact`, a child of the one that said it; yields the headers for what follows from it."""
    with _tracer.start_as_current_span(
        f"process {fact}",
        context=propagate.extract(headers) if "traceparent" in headers else _run_context(snapshot),
        kind=SpanKind.CONSUMER,
        attributes=_attributes(fact, snapshot) | {"messaging.operation.type": "process"},
    ):
        yield _headers()


def _headers() -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def _run_context(snapshot: Snapshot) -> Context | None:
    """The run's own trace as a remote parent; None starts a trace of our own."""
    recorded = snapshot.run.trace
    if recorded is None:
        return None
    try:
        trace_id, span_id = int(recorded.trace_id, 16), int(recorded.span_id, 16)
    except ValueError:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if recorded.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent.is_valid else None


def _attributes(fact: Fact, snapshot: Snapshot) -> dict[str, str]:
    return {
        "messaging.system": "nats",
        "messaging.destination.template": f"exeunt.runs.{{namespace}}.{{name}}.{{uid}}.{{episode}}.{fact}",
        "messaging.message.conversation_id": snapshot.run.uid,
        "k8s.namespace.name": snapshot.run.namespace,
        "bobrapet.storyrun.name": snapshot.run.name,
        "bobrapet.story.name": snapshot.story.name,
    }
