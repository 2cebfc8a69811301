"""Structured logs on stdout: JSON lines for machines, readable ones on a terminal.

Libraries that log through the standard library come out the same way, from warnings up.
"""

import logging
import sys
from typing import Any, TextIO

import msgspec
import structlog
from opentelemetry import trace

from exeunt.settings import Settings


def configure_logs(settings: Settings, *, service: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process; every line names its `service`."""
    out = stream or sys.stdout
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    people = settings.log_format == "console" or (settings.log_format == "auto" and out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        structlog.processors.format_exc_info,
    ]
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
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_ToStructlog()], force=True)


def _add_trace(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def _json(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=_text).decode()


def _text(value: Any) -> str:
    return str(value)


class _ToStructlog(logging.Handler):
    """Hands what a library logged to structlog, with the library's name."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
