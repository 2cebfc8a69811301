"""The metrics as Prometheus reads them: a bridge from OpenTelemetry's reader, with exemplars.

OpenTelemetry's own Prometheus exporter has no exemplars, and they are how a figure leads to its trace.
"""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from math import inf
from typing import Final

from aiohttp import web
from opentelemetry.sdk.metrics import Exemplar as OtelExemplar
from opentelemetry.sdk.metrics.export import (
    Gauge,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as OtelMetric
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from exeunt.instruments import Histogram, Instrument

_SCOPE: Final = "exeunt"

Labels = tuple[str, ...]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bridge(Collector):
    """Collects what `reader` holds of `instruments`, in the families of prometheus_client.

    A scrape takes the exemplars out of the reader; the last one of each bucket is kept here, for the next scrape.
    """

    def __init__(self, reader: InMemoryMetricReader, resource: Resource, instruments: Iterable[Instrument]) -> None:
        self._reader = reader
        self._resource = resource
        self._instruments = instruments
        self._exemplars: dict[tuple[str, Labels, int], Exemplar] = {}

    def collect(self) -> Iterator[Metric]:
        target = InfoMetricFamily("target", "Who is asked: the attributes of the OpenTelemetry resource.")
        target.add_metric([], {key.replace(".", "_"): str(value) for key, value in self._resource.attributes.items()})
        yield target
        data = self._reader.get_metrics_data()
        found = {
            metric.name: metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            if scope.scope.name == _SCOPE
            for metric in scope.metrics
        }
        for instrument in self._instruments:
            metric = found.get(instrument.name)
            if isinstance(instrument, Histogram) and (metric is not None or instrument.expected):
                yield self._histogram(instrument, metric)
            elif metric is not None:
                yield self._numbers(instrument.labels, metric)

    def _numbers(self, names: Labels, metric: OtelMetric) -> Metric:
        data = metric.data
        assert isinstance(data, (Sum, Gauge))  # noqa: S101 - what the other instruments are
        counts = isinstance(data, Sum) and data.is_monotonic
        family = (CounterMetricFamily if counts else GaugeMetricFamily)(
            metric.name, metric.description or "", labels=names
        )
        for point in data.data_points:
            family.add_metric(_values(names, point), point.value)
        return family

    def _histogram(self, instrument: Histogram, metric: OtelMetric | None) -> Metric:
        family = HistogramMetricFamily(instrument.name, instrument.description, labels=instrument.labels)
        points = metric.data.data_points if metric is not None and isinstance(metric.data, HistogramData) else ()
        missing = [tuple(labels[name] for name in instrument.labels) for labels in instrument.expected]
        for point in points:
            assert isinstance(point, HistogramDataPoint)  # noqa: S101 - what our views make
            values = _values(instrument.labels, point)
            if values in missing:
                missing.remove(values)
            for exemplar in point.exemplars:
                if not exemplar.trace_id:
                    continue
                at = bisect_left(instrument.buckets, exemplar.value)
                self._exemplars[instrument.name, values, at] = _exemplar(exemplar)
            self._add(family, instrument, values, point.bucket_counts, point.sum)
        for values in missing:
            self._add(family, instrument, values, (0,) * (len(instrument.buckets) + 1), 0)
        return family

    def _add(
        self,
        family: HistogramMetricFamily,
        instrument: Histogram,
        values: Labels,
        counts: Sequence[int],
        total: float,
    ) -> None:
        limits = map(floatToGoString, (*instrument.buckets, inf))
        buckets = [
            (limit, count, self._exemplars.get((instrument.name, values, at)))
            for at, (limit, count) in enumerate(zip(limits, accumulate(counts), strict=True))
        ]
        family.add_metric(values, buckets, total)  # type: ignore[arg-type]  # None is no exemplar there, too


def _values(names: Labels, point: NumberDataPoint | HistogramDataPoint) -> Labels:
    attributes = point.attributes or {}
    return tuple(str(attributes[name]) for name in names)


def _exemplar(exemplar: OtelExemplar) -> Exemplar:
    assert exemplar.trace_id is not None  # noqa: S101 - asked before
    labels = {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"}
    return Exemplar(labels, exemplar.value, exemplar.time_unix_nano / 1e9)


def metrics_endpoint(reader: InMemoryMetricReader, resource: Resource, instruments: Iterable[Instrument]) -> Handler:
    """An aiohttp handler for /metrics: OpenMetrics with exemplars, or plain text, as the client accepts."""
    registry = CollectorRegistry()
    registry.register(Bridge(reader, resource, instruments))
    ProcessCollector(registry=registry)
    return make_aiohttp_handler(registry)
