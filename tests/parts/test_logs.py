"""What a process writes: one JSON object a line, with who and what it is about, and no flood of warnings."""

import ast
import io
import json
import logging
import re
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from exeunt.run.cancellations import Cancellation
from exeunt.settings import Settings
from exeunt.telemetry.logs import RateLimit, bind_run, configure_logs
from exeunt.telemetry.tracing import start_tracing

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    out = io.StringIO()
    configure_logs(Settings(log_format="json"), service="exeunt-test", stream=out)
    yield out
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_names_the_service_the_run_and_within_a_hop_the_trace(out: io.StringIO) -> None:
    log = structlog.get_logger()
    cancellation = Cancellation("voice", "call", "uid", "first")
    bind_run(cancellation)
    start_tracing()
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("hop") as span:
        log.info("finalize", rule="topology-gone")
    log.info("after")
    within, after = lines(out)
    assert within["service"] == after["service"] == "exeunt-test"
    assert within["run"] == after["run"] == str(cancellation)
    assert (within["namespace"], within["name"], within["uid"]) == ("voice", "call", "uid")
    assert list(within)[:3] == ["timestamp", "level", "event"]
    assert within["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert within["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in after
    assert (within["event"], within["rule"], within["level"]) == ("finalize", "topology-gone", "info")


def test_a_library_in_a_thread_of_its_own_is_named_too(out: io.StringIO) -> None:
    thread = threading.Thread(target=lambda: logging.getLogger("some.exporter").error("cannot export %d spans", 3))
    thread.start()
    thread.join(5)
    (line,) = lines(out)
    assert (line["service"], line["logger"], line["event"]) == ("exeunt-test", "some.exporter", "cannot export 3 spans")


def through(limit: RateLimit, method: str, event: dict[str, Any]) -> MutableMapping[str, Any] | None:
    try:
        return limit(None, method, event)
    except structlog.DropEvent:
        return None


def events_of(path: Path) -> Iterator[str]:
    """The constant texts that a module logs."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(
                func=ast.Attribute(attr=method, value=ast.Name(id=name)), args=[ast.Constant(value=text), *_]
            ):
                if name.endswith("log") and method in ("debug", "info", "warning", "error", "exception"):
                    yield str(text)


def test_what_happened_is_said_in_words() -> None:
    events = [
        event for part in ("shared", "services") for path in (ROOT / part).rglob("*.py") for event in events_of(path)
    ]
    assert len(events) > 60
    assert [event for event in events if re.search(r"\w\.\w", event)] == []


def test_warnings_of_a_kind_are_limited_and_the_next_one_tells_how_many_there_were() -> None:
    time = 100.0
    limit = RateLimit(lambda: time)
    reported = [through(limit, "warning", {"event": "still trying", "n": n}) for n in range(limit.BURST + 5)]
    assert sum(line is not None for line in reported) == limit.BURST
    assert through(limit, "warning", {"event": "another kind"}) == {"event": "another kind"}
    time += limit.PERIOD
    assert through(limit, "warning", {"event": "still trying"}) == {"event": "still trying", "suppressed": 5}
    assert through(limit, "warning", {"event": "still trying"}) == {"event": "still trying"}


def test_decisions_and_errors_are_never_suppressed_but_those_of_libraries_are() -> None:
    limit = RateLimit(lambda: 100.0)
    for method, event in (("info", "finalize"), ("error", "dead letter")):
        reported = [through(limit, method, {"event": event}) for _ in range(limit.BURST * 2)]
        assert None not in reported
    library = [through(limit, "error", {"event": f"failed {n}", "logger": "otlp"}) for n in range(limit.BURST * 2)]
    assert library.count(None) == limit.BURST
