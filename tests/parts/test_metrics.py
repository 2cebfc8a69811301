"""The instruments as Prometheus reads them, parsed by Prometheus' own parser for OpenMetrics."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import pytest
from aiohttp import ClientSession
from msgspec.structs import replace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exeunt.net.http_server import Handler, HttpServer
from exeunt.net.listening import listen
from exeunt.run.shutdown_timeout import ShutdownTimeout
from exeunt.run.snapshot import Evidence, RunState, Snapshot, StoryState, Topology
from exeunt.telemetry.configured import configure_telemetry
from exeunt.telemetry.instruments import Counter, Gauge, Histogram, Instrument, Observable
from exeunt.telemetry.metrics import INSTRUMENTS
from exeunt.telemetry.prometheus import metrics_endpoint
from exeunt.telemetry.tracing import start_tracing
from exeunt_local.processes import free_port
from exeunt_watcher.lateness import Lateness, Pending
from exeunt_watcher.measures import measure_stops

RESOURCE = Resource({"service.name": "exeunt-test"})
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def parsed(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


class Scrape:
    """A /metrics of one's own, from the first look on. It shows `instruments`, or is that of a service."""

    def __init__(self) -> None:
        self.instruments: list[Instrument] = []
        self.endpoint: Handler | None = None
        self._port = free_port()
        self._server: HttpServer | None = None

    async def _serve(self) -> None:
        self._server = HttpServer(
            {"/metrics": self.endpoint or metrics_endpoint(RESOURCE.attributes, self.instruments)}
        )
        await self._server.serve(listen("ADDR", f"127.0.0.1:{self._port}"))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def text(self, **headers: str) -> str:
        if self._server is None:
            await self._serve()
        url = f"http://127.0.0.1:{self._port}/metrics"
        async with ClientSession() as http, http.get(url, headers=headers) as answer:
            assert answer.status == 200
            return await answer.text()

    async def families(self) -> dict[str, Metric]:
        text = await self.text(**OPEN_METRICS)
        return {family.name: family for family in parsed(text)}


@pytest.fixture
async def scrape() -> AsyncIterator[Scrape]:
    scrape = Scrape()
    yield scrape
    await scrape.close()


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}


async def test_each_kind_is_shown_as_prometheus_knows_it(scrape: Scrape) -> None:
    counter = Counter("t_things_total", "Things.", services="all", labels=("color",))
    gauge = Gauge("t_level", "A level.", services="all")
    observed = Observable("t_up", "Up.", services="all", labels=("what",))
    observed_counter = Observable("t_seen_total", "Seen.", services="all", kind="counter", labels=("what",))
    scrape.instruments += [counter, gauge, observed, observed_counter]
    observed.observe(lambda: {("nats",): True, ("kubernetes",): False})
    observed_counter.observe(lambda: {("it",): 3})
    counter.add(2, color="red")
    counter.add(color="red")
    gauge.set(5)
    gauge.set(4)
    found = await scrape.families()
    assert {name: found[name].type for name in ("t_things", "t_level", "t_up", "t_seen")} == {
        "t_things": "counter",
        "t_level": "gauge",
        "t_up": "gauge",
        "t_seen": "counter",
    }
    assert values(found["t_things"]) == {("t_things_total", "red"): 3}
    assert values(found["t_level"]) == {("t_level",): 4}
    assert values(found["t_up"]) == {("t_up", "nats"): 1, ("t_up", "kubernetes"): 0}
    assert values(found["t_seen"]) == {("t_seen_total", "it"): 3}
    assert found["t_things"].documentation == "Things."
    assert found["target"].samples[0].labels == {"service_name": "exeunt-test"}
    assert found["process_resident_memory_bytes"].samples[0].value > 0


async def test_a_histogram_has_cumulative_buckets_and_its_exemplars_stay(scrape: Scrape) -> None:
    histogram = Histogram("t_seconds", "Seconds.", services="all", labels=("cause",), buckets=(0.1, 1))
    scrape.instruments.append(histogram)
    start_tracing()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    with tracer.start_as_current_span("a stop") as span:
        histogram.record(0.1, cause="gone")  # a bucket's limit belongs to it
        histogram.record(2, cause="gone")
    histogram.record(0.5, cause="gone")  # of no trace
    for _ in range(2):  # the second scrape is that of another Prometheus
        family = (await scrape.families())["t_seconds"]
        buckets = [sample for sample in family.samples if sample.name == "t_seconds_bucket"]
        assert [(sample.labels["le"], sample.value) for sample in buckets] == [("0.1", 1), ("1.0", 2), ("+Inf", 3)]
        assert values(family)["t_seconds_sum", "gone"] == pytest.approx(2.6)
        trace_id = f"{span.get_span_context().trace_id:032x}"
        exemplars = [sample.exemplar for sample in buckets]
        assert [exemplar and exemplar.value for exemplar in exemplars] == [0.1, None, 2]
        assert exemplars[0] is not None
        assert exemplars[0].labels["trace_id"] == trace_id
    assert "trace_id" not in await scrape.text(Accept="text/plain")


async def test_what_is_expected_is_there_before_it_has_happened(scrape: Scrape) -> None:
    counter = Counter("t_letters_total", "Letters.", services="all", labels=("consumer",))
    histogram = Histogram("t_seconds", "Seconds.", services="all", labels=("cause",), buckets=(0.1, 1))
    scrape.instruments += [counter, histogram]
    counter.expect(consumer="terminator")
    for cause in ("cancel", "gone", "gone"):
        histogram.expect(cause=cause)
    found = await scrape.families()
    assert values(found["t_letters"]) == {("t_letters_total", "terminator"): 0}
    counts = {key: value for key, value in values(found["t_seconds"]).items() if key[0] == "t_seconds_count"}
    assert counts == {("t_seconds_count", "cancel"): 0, ("t_seconds_count", "gone"): 0}
    histogram.record(0.5, cause="gone")
    counts = values((await scrape.families())["t_seconds"])
    assert (counts["t_seconds_count", "cancel"], counts["t_seconds_count", "gone"]) == (0, 1)


async def test_what_nobody_has_measured_yet_has_no_series_but_where_there_is_only_one(scrape: Scrape) -> None:
    scrape.instruments += [
        Counter("t_letters_total", "Letters.", services="all", labels=("consumer",)),
        Observable("t_up", "Up.", services="all", labels=("what",)),
        Gauge("t_level", "A level.", services="all"),
    ]
    found = await scrape.families()
    assert {name: len(found[name].samples) for name in ("t_letters", "t_up", "t_level")} == {
        "t_letters": 0,
        "t_up": 0,
        "t_level": 1,
    }
    assert "_created" not in await scrape.text(**OPEN_METRICS)


@pytest.mark.parametrize("off", ["false", "true"])
async def test_a_service_shows_what_it_reports_unless_telemetry_is_off(
    scrape: Scrape, monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", off)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    scrape.endpoint = configure_telemetry("exeunt-timeout-scheduler").endpoint
    found = {name for name in await scrape.families() if name.startswith("exeunt_")}
    reported = {i.name.removesuffix("_total") for i in INSTRUMENTS if i.services in ("all", "timeout-scheduler")}
    assert found == (set() if off == "true" else reported)


def test_opentelemetry_is_reported_the_same_figures() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], RESOURCE, shutdown_on_exit=False).get_meter("t")
    counter = Counter("t_things_total", "Things.", services="all", labels=("color",))
    gauge = Gauge("t_level", "A level.", services="all")
    seen = Observable("t_seen_total", "Seen.", services="all", kind="counter", labels=("what",))
    histogram = Histogram("t_seconds", "Seconds.", services="all", labels=("cause",), buckets=(0.1, 1))
    counter.add(color="red")  # what was counted before is exported, too
    for each in (counter, gauge, seen, histogram):
        each.export(meter)
    counter.add(2, color="red")
    gauge.set(4)
    seen.observe(lambda: {("it",): 7})
    histogram.record(0.5, cause="gone")
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    points = {name: next(iter(metric.data.data_points)) for name, metric in metrics.items()}
    reported = {n: (dict(p.attributes or {}), p.value) for n, p in points.items() if isinstance(p, NumberDataPoint)}
    assert reported == {
        "t_things_total": ({"color": "red"}, 3),
        "t_level": ({}, 4),
        "t_seen_total": ({"what": "it"}, 7),
    }
    of_histogram = points["t_seconds"]
    assert isinstance(of_histogram, HistogramDataPoint)
    assert (of_histogram.attributes, of_histogram.explicit_bounds) == ({"cause": "gone"}, (0.1, 1))
    assert list(of_histogram.bucket_counts) == [0, 1, 0]
    assert {name: metric.unit for name, metric in metrics.items() if metric.unit} == {"t_seconds": "s"}


def test_names_are_those_of_prometheus_and_labels_are_bounded() -> None:
    bounded = {
        "answer", "cause", "clock", "code", "consumer", "dependency", "ended_by", "error_type", "event", "fact",
        "resource", "result", "stream", "verb", "verdict",
    }  # fmt: skip
    for instrument in INSTRUMENTS:
        assert re.fullmatch(r"exeunt_[a-z_]+", instrument.name)
        assert instrument.name.endswith("_total") == (instrument.kind == "counter"), instrument.name
        assert set(instrument.labels) <= bounded
        assert list(instrument.labels) == sorted(instrument.labels)
        assert instrument.services in ("all", "watcher", "terminator", "timeout-scheduler", "livekit-bridge")
    assert len({instrument.name for instrument in INSTRUMENTS}) == len(INSTRUMENTS)


class Gauges(NamedTuple):
    pending: float
    age: float
    overdue: float


_GAUGES = ("STOPS_PENDING", "STOPS_PENDING_AGE", "STOPS_OVERDUE")


class Reading:
    """The gauges of `measure_stops`, as they are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gauges = [Gauge(name.lower(), "", services="watcher") for name in _GAUGES]
        for name, gauge in zip(_GAUGES, self._gauges, strict=True):
            monkeypatch.setattr(f"exeunt_watcher.measures.{name}", gauge)

    def read(self) -> Gauges:
        return Gauges(*(sample.value for gauge in self._gauges for sample in gauge.figures.collect()[0].samples))


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    return Reading(monkeypatch)


NOW = datetime(2026, 11, 24, 18, 14, 0, tzinfo=UTC)


def canceled(seconds_ago: float, timeout: str = "20s", **changes: object) -> Snapshot:
    at = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    run = RunState(
        namespace="voice",
        name="call",
        uid="uid",
        resource_version="1",
        generation=2,
        attempt="first",
        phase="Running",
        cancel_requested=True,
        cancel_observed_at=at,
        canceled_at=at,
    )
    return Snapshot(
        run=replace(run, **changes),
        story=StoryState(namespace="voice", name="talk", resource_version="1", realtime=True),
        shutdown=ShutdownTimeout(timeout=timeout, rule="default"),
    )


def stops(*snapshots: Snapshot, at: datetime = NOW) -> Pending:
    """Those of a watcher that sees these runs at that time."""
    lateness = Lateness()
    for number, snapshot in enumerate(snapshots):
        lateness.see(None, replace(snapshot, run=replace(snapshot.run, name=f"call-{number}")), at)
    return lateness.pending()


def test_stops_under_way_are_counted_and_their_oldest_is_reported(reading: Reading) -> None:
    measure_stops(stops(canceled(5), canceled(12, "2m"), canceled(25, "24s")), NOW)
    assert reading.read() == Gauges(3, 25, 1)
    left = replace(canceled(12, "2m"), topology=Topology(gone=Evidence("bindings-gone", 2, "")))
    measure_stops(stops(canceled(25, "24s"), left, at=NOW - timedelta(seconds=4)), NOW)
    assert reading.read() == Gauges(2, 25, 4)
    measure_stops(stops(), NOW)
    assert reading.read() == Gauges(0, 0, 0)


def test_what_exeunt_is_not_to_end_is_not_counted(reading: Reading) -> None:
    batch = replace(canceled(50), story=StoryState(namespace="voice", name="talk", resource_version="1"))
    opted_out = canceled(50, enabled=False)
    not_observed_yet = canceled(50, cancel_observed_at=None)
    measure_stops(stops(batch, opted_out, not_observed_yet, canceled(50, deleting=True)), NOW)
    assert reading.read() == Gauges(0, 0, 0)


def test_a_snapshot_carries_the_drain_for_reporting_and_older_ones_are_read() -> None:
    with_drain = replace(canceled(1), story=StoryState(namespace="voice", name="talk", drain=120.0))
    assert msgspec.json.decode(msgspec.json.encode(with_drain), type=Snapshot) == with_drain
    without = msgspec.json.decode(msgspec.json.encode(canceled(1)), type=Snapshot)
    assert without.story.drain is None
