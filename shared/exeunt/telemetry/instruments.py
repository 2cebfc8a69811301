"""The kinds of metric: `metrics` is the table of those that there are.

The figures are prometheus_client's: it has exemplars, shows a series at 0 before its first event, and costs a fraction
of OpenTelemetry's instruments. Where metrics go out over OTLP as well, OpenTelemetry's SDK reads these figures whenever
it exports; only what a histogram records it has to be reported one by one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exeunt.telemetry.tracing import current_ids

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
    from opentelemetry.metrics import Histogram as ExportedHistogram

Kind = Literal["counter", "gauge", "histogram"]
Read = Callable[[], Mapping[tuple[str, ...], float]]
"""Values of an observed metric by their label values. Called from any thread: it only reads."""

_UNITS: Final = {"_seconds": "s", "_seconds_total": "s"}

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Instrument:
    """One metric. `services` says who reports it: the name of a service, or "all"."""

    kind: Kind

    def __init__(
        self, name: str, description: str, *, services: str, labels: tuple[str, ...] = (), **options: Any
    ) -> None:
        self.name = name
        self.description = description
        self.services = services
        self.labels = labels
        self.figures = self._figures(**options)
        self._known: dict[tuple[tuple[str, str], ...], Any] = {}
        """Series that were asked for, as prometheus_client takes longer to find one than to count."""

    def _figures(self, **options: Any) -> Any:
        """What has them, of prometheus_client: by default its metric of the same kind."""
        kind = getattr(prometheus_client, type(self).__name__)
        return kind(self.name, self.description, self.labels, registry=None, **options)

    @property
    def unit(self) -> str:
        return next((unit for suffix, unit in _UNITS.items() if self.name.endswith(suffix)), "")

    def expect(self, **labels: str) -> None:
        """Show a series at 0 before anything has happened, or its first event would be no increase."""
        self._series(labels)

    def _series(self, labels: Mapping[str, str]) -> Any:
        if not self.labels:
            return self.figures
        if (series := self._known.get(values := tuple(labels.items()))) is None:
            series = self._known[values] = self.figures.labels(**labels)
        return series

    def export(self, meter: "Meter") -> None:
        """Have `meter` report it, too."""
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - it is loaded where something is exported

        def observations(_: "CallbackOptions") -> "Iterator[Observation]":
            for family in self.figures.collect():
                for sample in family.samples:
                    yield Observation(sample.value, sample.labels)

        create = meter.create_observable_counter if self.kind == "counter" else meter.create_observable_gauge
        create(self.name, [observations], self.unit, self.description)


class Counter(Instrument):
    kind = "counter"

    def add(self, amount: float = 1, **labels: str) -> None:
        self._series(labels).inc(amount)


class Gauge(Instrument):
    """A level, as it was set last."""

    kind = "gauge"

    def set(self, value: float, **labels: str) -> None:
        self._series(labels).set(value)


class Histogram(Instrument):
    """A distribution, with exemplars that lead to traces."""

    kind = "histogram"

    def __init__(
        self, name: str, description: str, *, services: str, buckets: Sequence[float], labels: tuple[str, ...] = ()
    ) -> None:
        super().__init__(name, description, services=services, labels=labels, buckets=buckets)
        self.buckets = tuple(buckets)
        self._exported: ExportedHistogram | None = None

    def record(self, value: float, **labels: str) -> None:
        self._series(labels).observe(value, current_ids(sampled=True) or None)
        if self._exported is not None:
            self._exported.record(value, labels)

    def export(self, meter: "Meter") -> None:
        self._exported = meter.create_histogram(
            self.name, self.unit, self.description, explicit_bucket_boundaries_advisory=self.buckets
        )


class Observable(Instrument, Collector):
    """A counter or a gauge whose values are read when somebody asks, from what is there anyway."""

    def __init__(
        self, name: str, description: str, *, services: str, kind: Kind = "gauge", labels: tuple[str, ...] = ()
    ) -> None:
        super().__init__(name, description, services=services, labels=labels)
        self.kind = kind
        self._read: Read = dict

    def _figures(self, **_: Any) -> "Observable":
        return self

    def observe(self, read: Read) -> None:
        """Have `read` asked from now on."""
        self._read = read

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        seen = family(self.name, self.description, labels=self.labels)
        for values, value in self._read().items():
            seen.add_metric(values, float(value))
        return [seen]
