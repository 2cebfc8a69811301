"""Which proxy spans take on their way to the collector."""

import asyncio
from base64 import b64encode

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult

from actors.collector import Collector
from actors.connect_proxy import ConnectProxy
from exeunt.errors import UsageError
from exeunt.telemetry import exporting

BASIC = "Basic " + b64encode("us@er:päss".encode()).decode()


async def export() -> bool:
    """Whether a span gets through, by the environment as it is."""
    exporter = exporting._exporter("traces")
    provider = TracerProvider(resource=Resource({"service.name": "exeunt-test"}), shutdown_on_exit=False)
    ended = _Last()
    provider.add_span_processor(ended)
    provider.get_tracer("test").start_span("sent").end()
    try:
        return await asyncio.to_thread(exporter.export, ended.spans) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()


class _Last(SimpleSpanProcessor):
    def __init__(self) -> None:
        self.spans: list[object] = []

    def on_end(self, span: object) -> None:
        self.spans.append(span)

    def shutdown(self) -> None:
        pass


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")


async def test_a_collector_on_loopback_is_not_looked_for_behind_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        for host in ("127.0.0.1", "localhost"):
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{collector.port}")
            assert await export()
        assert collector.requests == 2


async def test_another_is_reached_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector, ConnectProxy(collector.port, credentials=BASIC) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"us%40er:p%C3%A4ss@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://notexample.com:4318")
        monkeypatch.setenv("NO_PROXY", "example.com")
        assert await export()
        assert proxy.asked == [("POST", "http://notexample.com:4318/v1/traces", BASIC)]
        monkeypatch.setenv("NO_PROXY", "notexample.com:4318")
        assert not await export()
        assert len(proxy.asked) == 1


async def test_a_proxy_that_cannot_be_used_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector.example/v1/traces")
    with pytest.raises(UsageError, match="HTTPS_PROXY: a socks5 proxy is not supported"):
        exporting._exporter("traces")
