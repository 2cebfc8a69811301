"""Plays an OpenTelemetry collector: takes OTLP over HTTP and keeps the spans and the metric names that came."""

import asyncio
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from exeunt_local.processes import free_port

Manner = Literal["takes", "refuses", "hangs", "redirects", "shows a page", "rejects"]


@dataclass(frozen=True)
class Span:
    """One span as it was received; ids are hex, the parent's is empty for a root. Times are nanoseconds."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    links: tuple[str, ...]
    failed: bool

    def __str__(self) -> str:
        return f"{self.service.removeprefix('exeunt-')}: {self.name}"

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9


class Collector:
    """Entered as an async context manager. Keeps its port when it is closed and opened again."""

    def __init__(self, manner: Manner = "takes") -> None:
        self.manner = manner
        self.spans: list[Span] = []
        self.metrics: set[tuple[str, str]] = set()
        """Service and metric name."""
        self.requests = 0
        self.port = free_port()
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()

    @property
    def env(self) -> dict[str, str]:
        """What sends a service's telemetry here, spans at once."""
        return {
            "OTEL_SDK_DISABLED": "false",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }

    async def open(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/traces", self._traces)
        app.router.add_post("/v1/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _traces(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest()
        if not await self._took(request, message):
            return self._untaken()
        async with self._changed:
            for resource in message.resource_spans:
                service = _attributes(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_span(service, span) for span in scope.spans]
            self._changed.notify_all()
        return web.Response(content_type="application/x-protobuf")

    async def _metrics(self, request: web.Request) -> web.Response:
        message = ExportMetricsServiceRequest()
        if not await self._took(request, message):
            return self._untaken()
        async with self._changed:
            for resource in message.resource_metrics:
                service = _attributes(resource.resource.attributes)["service.name"]
                self.metrics |= {(service, metric.name) for scope in resource.scope_metrics for metric in scope.metrics}
            self._changed.notify_all()
        return web.Response(content_type="application/x-protobuf")

    async def _took(
        self, request: web.Request, message: ExportTraceServiceRequest | ExportMetricsServiceRequest
    ) -> bool:
        """Whether the body was taken, into `message`."""
        body = await request.read()
        async with self._changed:
            self.requests += 1
            self._changed.notify_all()
        if self.manner not in ("takes", "hangs"):
            return False
        if self.manner == "hangs":
            await self._closing.wait()
            return False
        message.ParseFromString(gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body)
        return True

    def _untaken(self) -> web.Response:
        match self.manner:
            case "redirects":
                return web.Response(status=308, headers={"Location": "https://sign-in.example.com/"})
            case "shows a page":
                return web.Response(text="<html>Sign in", content_type="text/html")
            case "rejects":  # wire format of both signals: partial_success {1: how many, 2: why}
                reported = ExportTracePartialSuccess(rejected_spans=7, error_message="quota exceeded")
                body = ExportTraceServiceResponse(partial_success=reported).SerializeToString()
                return web.Response(body=body, content_type="application/x-protobuf")
            case _:
                return web.Response(status=400)

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace, in the order of their start."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start)

    def of_run(self, uid: str) -> list[Span]:
        """The spans of all traces in which the run of that uid is spoken of, in the order of their start."""
        traces = {
            span.trace_id for span in self.spans if span.attributes.get("messaging.message.conversation_id") == uid
        }
        return sorted((span for span in self.spans if span.trace_id in traces), key=lambda span: span.start)

    async def wait_for_tree(self, uid: str, expected: list[str], within: float = 10) -> list[Span]:
        """The spans of the run, once they make up the expected tree; AssertionError tells the tree that they are."""
        try:
            await self.wait_for(lambda: tree(self.of_run(uid)) == expected, within)
        except AssertionError:
            found = "\n".join(tree(self.of_run(uid)))
            raise AssertionError(f"not within {within:g} s; received:\n{found}") from None
        return self.of_run(uid)

    async def wait_for(self, holds: Callable[[], bool], within: float = 10) -> None:
        """Returns when it holds, asked whenever something has come; AssertionError tells the spans so far."""
        try:
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError:
            raise AssertionError(f"not within {within:g} s; received: {[str(span) for span in self.spans]}") from None


def tree(spans: list[Span]) -> list[str]:
    """A trace as indented lines, siblings by name and then by start; a span whose parent is elsewhere is a root."""
    known = {span.span_id for span in spans}
    ordered = sorted(spans, key=lambda span: (str(span), span.start))

    def lines(parent: str | None, depth: int) -> list[str]:
        return [
            line
            for span in ordered
            if (span.parent_id == parent if parent else span.parent_id not in known)
            for line in (f"{'  ' * depth}{span}", *lines(span.span_id, depth + 1))
        ]

    return lines(None, 0)


def _span(service: str, span: trace_pb2.Span) -> Span:
    return Span(
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
        links=tuple(link.span_id.hex() for link in span.links),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _attributes(pairs: "list[KeyValue] | Any") -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
