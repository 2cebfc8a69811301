"""Which trace a stop belongs to, and the ids of its first span.

They are derived from the run's identity. So whoever has something to say of the stop later on (another watcher, a
service started anew, the sweep) finds the same trace without having heard of it. The operator records its own trace in
`StoryRun.status.trace` (contract §6); where it does, the first span is a child of that.
"""

from contextvars import ContextVar
from hashlib import sha256
from typing import Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags

from exeunt.events.event_types import EventType
from exeunt.run.snapshot import Snapshot


class _Ids(NamedTuple):
    trace_id: int
    span_id: int


_next_ids: Final[ContextVar[_Ids | None]] = ContextVar("next-ids", default=None)


class StopIds(RandomIdGenerator):
    """Ids by chance, except for the first span of a stop."""

    def generate_trace_id(self) -> int:
        ids = _next_ids.get()
        return ids.trace_id if ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        ids = _next_ids.get()
        _next_ids.set(None)
        return ids.span_id if ids else super().generate_span_id()


def begin(snapshot: Snapshot) -> Context:
    """The next span is the first one of the stop; its parent."""
    _next_ids.set(_ids(snapshot))
    return _run_context(snapshot)


def _ids(snapshot: Snapshot) -> _Ids:
    """The trace of the stop and its first span. Of the run's attempt, because a stop begins before bobrapet has
    observed the cancel.
    """
    digest = sha256(str(snapshot.run.attempt_key).encode()).digest()
    return _Ids(int.from_bytes(digest[:16]), int.from_bytes(digest[16:24]))


def _run_context(snapshot: Snapshot) -> Context:
    """The run's own trace as a remote parent, or no parent."""
    recorded = snapshot.run.trace
    if recorded is None:
        return Context()
    try:
        trace_id, span_id = int(recorded.trace_id, 16), int(recorded.span_id, 16)
    except ValueError:
        return Context()
    parent = _remote(trace_id, span_id, sampled=recorded.sampled)
    return trace.set_span_in_context(parent, Context()) if parent.get_span_context().is_valid else Context()


def stop_context(snapshot: Snapshot) -> Context:
    """The first span of the stop as a remote parent, whoever made it."""
    ids = _ids(snapshot)
    run = trace.get_current_span(_run_context(snapshot)).get_span_context()
    if run.is_valid:
        first = _remote(run.trace_id, ids.span_id, sampled=run.trace_flags.sampled)
    else:
        first = _remote(*ids, sampled=_samples(ids.trace_id))
    return trace.set_span_in_context(first, Context())


def _samples(trace_id: int) -> bool:
    """What the sampler says of the first span of this trace, whoever made that: it goes by the id."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        return False
    asked = provider.sampler.should_sample(None, trace_id, f"send {EventType.CANCEL_REQUESTED}")
    return asked.decision is Decision.RECORD_AND_SAMPLE


def _remote(trace_id: int, span_id: int, *, sampled: bool) -> Span:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags))
