"""One trace for each stop, over all services and NATS, inside the run's own trace when it has one.

A hop is one short span, never open over a wait; `spans` makes them, of OpenTelemetry, which is loaded only where a
variable asks for it (`configured`). Everywhere else a hop is nothing, and hands on what somebody else has traced.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import Final, Literal

from exeunt.events.event_types import Decided, EventType
from exeunt.run.snapshot import Snapshot

_PROPAGATED: Final = ("traceparent", "tracestate", "baggage")
"""The headers of OpenTelemetry's own choice; with another one of OTEL_PROPAGATORS, it is loaded."""


class Hop:
    """One hop. `headers` carry its context on to the message that follows from it."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers
        self.dropped = False

    def attribute(self, name: str, value: str | float) -> None:
        """What somebody will search by."""

    def event(self, name: str, **attributes: str | float) -> None:
        """Something that was decided or done on the way."""

    def decided(self, trail: Sequence[Decided]) -> None:
        """Every step of a decision, at its own time; the last one also as attributes, to search by."""

    def failed(self, why: Exception | str) -> None:
        """The hop did not do what it is for."""

    def drop(self) -> None:
        """The hop did nothing, as when somebody else had published the event: its span would only blur the picture."""
        self.dropped = True


_UNTRACED: Final = nullcontext(Hop({}))


_spans: ModuleType | None = None


def start_tracing() -> None:
    """Load OpenTelemetry, and have hops be spans from now on."""
    global _spans  # noqa: PLW0603 - once in a process, before anything is traced
    _spans = import_module("exeunt.telemetry.spans")


def sending(event_type: EventType, snapshot: Snapshot) -> AbstractContextManager[Hop]:
    """Around publishing `event_type` of a stop. What is published about a run that is not canceled belongs to none."""
    return _spans.sending(event_type, snapshot) if _spans else _UNTRACED


def processing(
    event_type: EventType, snapshot: Snapshot, headers: Mapping[str, str], *, consumer: str, delivery: int
) -> AbstractContextManager[Hop]:
    """Around answering `event_type`, a child of the hop that published it."""
    passed_on = {name: headers[name] for name in _PROPAGATED if name in headers}
    return (
        _spans.processing(event_type, snapshot, headers, consumer=consumer, delivery=delivery)
        if _spans
        else nullcontext(Hop(passed_on))
    )


def due(snapshot: Snapshot, headers: Mapping[str, str], *, consumer: str, delivery: int) -> AbstractContextManager[Hop]:
    """Around a deadline whose instant has come; links to the hop that armed it, whose `headers` these are."""
    return _spans.due(snapshot, headers, consumer=consumer, delivery=delivery) if _spans else _UNTRACED


def sweeping(snapshot: Snapshot) -> AbstractContextManager[Hop]:
    """Around what the sweep does for one stop."""
    return _spans.sweeping(snapshot) if _spans else _UNTRACED


def apart(
    name: str,
    kind: Literal["SERVER", "CONSUMER"],
    headers: Mapping[str, str],
    attributes: Mapping[str, str | int],
    *,
    waited: bool = False,
) -> AbstractContextManager[Hop]:
    """Around what knows no run, and so no stop: a child of the hop whose `headers` these are, or a trace of its own,
    which links to that hop, where a wait lay between.
    """
    return _spans.apart(name, kind, headers, attributes, waited=waited) if _spans else _UNTRACED


def calling(method: str, template: str, server: str) -> AbstractContextManager[Hop]:
    """Around one request within a hop. `template` is the path without names."""
    return _spans.calling(method, template, server) if _spans else _UNTRACED


def latency(since_cause: timedelta) -> None:
    """Note on the current span how late after its cause the stop, or the word of its deadline, has come."""
    if _spans:
        _spans.latency(since_cause)


def current_ids(*, sampled: bool = False) -> dict[str, str]:
    """`trace_id` and `span_id` of the current span, if there is one; with `sampled`, only if it is exported."""
    return _spans.current_ids(sampled=sampled) if _spans else {}
