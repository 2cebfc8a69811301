"""The kinds of metric, over OpenTelemetry's instruments: `metrics` is the table of those that there are.

They differ from OpenTelemetry's in three things: a name is Prometheus' already, a series can be shown before its first
event, and a counter costs a tenth.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from exeunt import __version__

Kind = Literal["counter", "gauge", "histogram"]
Read = Callable[[], Mapping[tuple[str, ...], float]]
"""Values of an observed metric by their label values. Called from any thread: it only reads."""

_METER: Final = metrics.get_meter("exeunt", __version__)
_UNITS: Final = {"_seconds": "s", "_seconds_total": "s"}


class Instrument:
    """One metric. `services` says who reports it: the name of a service, or "all"."""

    kind: Kind

    def __init__(self, name: str, description: str, *, services: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.description = description
        self.services = services
        self.labels = labels

    @property
    def unit(self) -> str:
        return next((unit for suffix, unit in _UNITS.items() if self.name.endswith(suffix)), "")


class Observed(Instrument):
    """A counter or a gauge whose values are read when somebody asks, from what is there anyway."""

    def __init__(
        self, name: str, description: str, *, services: str, kind: Kind = "gauge", labels: tuple[str, ...] = ()
    ) -> None:
        super().__init__(name, description, services=services, labels=labels)
        self.kind = kind

    def observe(self, read: Read) -> None:
        """Have `read` asked from now on."""

        def observations(_: CallbackOptions) -> Iterator[Observation]:
            for values, value in read().items():
                yield Observation(float(value), dict(zip(self.labels, values, strict=True)))

        create = _METER.create_observable_counter if self.kind == "counter" else _METER.create_observable_gauge
        create(self.name, [observations], self.unit, self.description)


class Counter(Observed):
    """Counts. It is an observed one because that is ten times cheaper than OpenTelemetry's own.

    `expect` shows a series at 0 before anything has happened, or its first event would be no increase.
    """

    def __init__(self, name: str, description: str, *, services: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__(name, description, services=services, kind="counter", labels=labels)
        self._values: dict[tuple[str, ...], float] = {}
        self.observe(self._values.copy)

    def add(self, amount: float = 1, **labels: str) -> None:
        key = tuple([labels[name] for name in self.labels])
        self._values[key] = self._values.get(key, 0) + amount

    def expect(self, **labels: str) -> None:
        self.add(0, **labels)


class Gauge(Observed):
    """A level, as it was set last."""

    def __init__(self, name: str, description: str, *, services: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__(name, description, services=services, labels=labels)
        self._values: dict[tuple[str, ...], float] = {}
        self.observe(self._values.copy)

    def set(self, value: float, **labels: str) -> None:
        self._values[tuple([labels[name] for name in self.labels])] = value


class Histogram(Instrument):
    """A distribution, with exemplars. `expect` as for counters."""

    kind = "histogram"

    def __init__(
        self, name: str, description: str, *, services: str, buckets: Sequence[float], labels: tuple[str, ...] = ()
    ) -> None:
        super().__init__(name, description, services=services, labels=labels)
        self.buckets = tuple(buckets)
        self.expected: list[dict[str, str]] = []
        self._histogram = _METER.create_histogram(
            name, self.unit, description, explicit_bucket_boundaries_advisory=self.buckets
        )

    def record(self, value: float, **labels: str) -> None:
        self._histogram.record(value, labels)

    def expect(self, **labels: str) -> None:
        if labels not in self.expected:
            self.expected.append(labels)
