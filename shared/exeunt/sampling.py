"""Which spans are exported: those that the sampler wants, and those of every slow or failed stop.

The sampler is the standard one (OTEL_TRACES_SAMPLER). What it does not want is recorded all the same and kept until the
hop has ended, because only then it is known whether the stop was late or failed. A hop sees its own spans only: traces
that are whole need a sampler that keeps all (the default), or tail sampling in a collector (docs/tracing.md).
"""

from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context, create_key, get_value
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from exeunt import semconv

AS_FIRST: Final = create_key("exeunt-as-first")
"""Set in a context whose parent was only derived, not heard of: the sampler is asked as for a trace's first span."""

_MOST_HELD: Final = 10_000
"""Unsampled spans held at once, about 20 MiB; beyond it those of the oldest hops are let go."""


class RecordAll(Sampler):
    """Asks `sampler`, and has recorded what it would drop."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        parent = Context() if get_value(AS_FIRST, parent_context) else parent_context
        result = self._sampler.should_sample(parent, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is not Decision.DROP:
            return result
        return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)

    def get_description(self) -> str:
        return f"RecordAll({self._sampler.get_description()})"


class KeepLateAndFailed(SpanProcessor):
    """Hands on to `exporting` what is sampled at once, and an unsampled hop when one of its spans is late or failed."""

    def __init__(self, exporting: SpanProcessor) -> None:
        self._exporting = exporting
        self._held: dict[int, list[ReadableSpan]] = {}
        self._count = 0

    def on_end(self, span: ReadableSpan) -> None:
        attributes = span.attributes or {}
        if semconv.DROPPED in attributes or span.context is None:
            return
        if span.context.trace_flags.sampled:
            self._exporting.on_end(span)
            return
        trace_id = span.context.trace_id
        self._held.setdefault(trace_id, []).append(span)
        self._count += 1
        if span.parent is None or span.parent.is_remote:  # the hop itself has ended
            hop = self._let_go(trace_id)
            if any(map(_is_late_or_failed, hop)):
                for kept in hop:
                    self._exporting.on_end(_sampled(kept))
        while self._count > _MOST_HELD:
            self._let_go(next(iter(self._held)))

    def _let_go(self, trace_id: int) -> list[ReadableSpan]:
        hop = self._held.pop(trace_id)
        self._count -= len(hop)
        return hop

    def shutdown(self) -> None:
        self._exporting.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporting.force_flush(timeout_millis)


def _is_late_or_failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR or semconv.LATE in (span.attributes or {})


def _sampled(span: ReadableSpan) -> ReadableSpan:
    assert span.context is not None  # noqa: S101 - it was looked at
    context = span.context
    flags = TraceFlags(context.trace_flags | TraceFlags.SAMPLED)
    return ReadableSpan(
        name=span.name,
        context=SpanContext(context.trace_id, context.span_id, context.is_remote, flags, context.trace_state),
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
