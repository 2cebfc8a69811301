"""Structured logs on stdout: JSON lines for machines, readable ones on a terminal.

A line that belongs to a run names it (`bind_run`, for the task that handles it), and within a hop of its stop also the
trace. Every decision is one line at info. Warnings repeat while something is away, so they are rate-limited; errors and
decisions never are. Libraries that log through the standard library come out the same way, from warnings up.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TextIO

import msgspec
import structlog

from exeunt.run.cancellations import Cancellation
from exeunt.settings import Settings
from exeunt.telemetry.tracing import current_ids


def configure_logs(settings: Settings, *, service: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process; every line names its `service`."""
    out = stream or sys.stdout
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    people = settings.log_format == "console" or (settings.log_format == "auto" and out.isatty())

    def name_service(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service  # not bound to the context: threads of libraries have another
        return event

    shared: list[structlog.typing.Processor] = [
        name_service,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        RateLimit(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        structlog.processors.format_exc_info,
    ]
    if not people:
        shared.append(_in_order)
    if people:
        shared.pop()  # the console renderer shows exceptions itself
        shared.append(structlog.dev.ConsoleRenderer(colors=out.isatty()))
    else:
        shared.append(_json)
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_ToStructlog()], force=True)


def bind_run(cancellation: Cancellation) -> None:
    """Let the lines of this task name the run, as one word to search for and in its parts."""
    structlog.contextvars.bind_contextvars(
        run=str(cancellation), namespace=cancellation.namespace, name=cancellation.name, uid=cancellation.uid
    )


class RateLimit:
    """Lets through BURST warnings of one kind in each PERIOD; the next one tells how many were `suppressed`.

    A kind is the constant text of our own lines and the logger of a library, whose errors are limited, too.
    """

    BURST: Final = 20
    PERIOD: Final = 10.0
    """Seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def __call__(self, _logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        library = event.get("logger")
        if method != "warning" and not (library and method in ("error", "exception", "critical")):
            return event
        now = self._clock()
        window = self._windows.setdefault(library or event["event"], _Window(now))
        if now - window.since >= self.PERIOD:
            suppressed = window.lines - self.BURST
            window.since, window.lines = now, 0
            if suppressed > 0:
                event["suppressed"] = suppressed
        window.lines += 1
        if window.lines > self.BURST:
            raise structlog.DropEvent
        return event


@dataclass(slots=True)
class _Window:
    since: float
    lines: int = 0


def _add_trace(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.update(current_ids())
    return event


def _in_order(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When, how grave and what first: that is where the eye begins."""
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return first | {key: value for key, value in event.items() if key not in first}


def _json(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=_text).decode()


def _text(value: Any) -> str:
    return str(value)


class _ToStructlog(logging.Handler):
    """Hands what a library logged to structlog, with the library's name."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
