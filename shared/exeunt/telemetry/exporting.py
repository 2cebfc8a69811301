"""Where traces and metrics go, by the standard OTEL_* variables. `spans` and `instruments` make them.

- Traces, and metrics beside /metrics, are exported over OTLP when an endpoint is set (OTEL_EXPORTER_OTLP_ENDPOINT, or
  that of one signal), or when OTEL_TRACES_EXPORTER or OTEL_METRICS_EXPORTER says "otlp"; "none" turns one off.
- Exporting happens in threads of the SDK with a bounded queue: a collector that hangs, refuses or dies costs what it
  should have received, and never a stop. At the end what is left is flushed for a few seconds at the most.
"""

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from exeunt import __version__
from exeunt.errors import UsageError
from exeunt.net.proxies import proxy_for
from exeunt.telemetry.configured import disabled
from exeunt.telemetry.instruments import Instrument
from exeunt.telemetry.stop_trace import StopIds
from exeunt.telemetry.tracing import start_tracing

_EXPORTERS: Final = {"traces": ("otlp", "none"), "metrics": ("otlp", "none", "prometheus")}
_PROTOCOLS: Final = {"http/protobuf": "http", "grpc": "grpc"}
_ENDPOINT: Final = "http://localhost:4318"  # the specification's default
_BRINGS_A_SESSION: Final = r"OTEL_PYTHON_EXPORTER_OTLP_HTTP_(TRACES_|METRICS_)?CREDENTIAL_PROVIDER"


def export(resource: Resource, instruments: Sequence[Instrument]) -> list[Callable[[], object]]:
    """Begin; returns what ends it. Raises UsageError for a variable that cannot be followed."""
    start_tracing()
    shutdowns = [_export(exporter, resource, instruments) for exporter in _exporters("metrics")]
    for exporter in _exporters("traces"):
        tracers = TracerProvider(resource=resource, id_generator=StopIds(), shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(tracers)
        shutdowns.append(tracers.shutdown)
    return shutdowns


def _export(exporter: Any, resource: Resource, instruments: Iterable[Instrument]) -> Callable[[], object]:
    """Have the figures exported as well; returns what ends that."""
    # Imported only when it is used: 1.5 MiB.
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415

    meters = MeterProvider([PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    for instrument in instruments:
        instrument.export(meters.get_meter("exeunt", __version__))
    return meters.shutdown


def resource(who: Mapping[str, str]) -> Resource:
    """What the environment says of this process, and for the rest what it knows itself."""
    return Resource.create(who).merge(OTELResourceDetector().detect())


def _exporters(signal: str) -> Iterable[Any]:
    """At most one exporter of `signal`."""
    if disabled():
        return
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    wanted = {word for part in os.environ.get(variable, "").split(",") if (word := part.strip().lower())}
    if unknown := wanted - {*_EXPORTERS[signal]}:
        known = ", ".join(_EXPORTERS[signal])
        raise UsageError(f"{variable}={', '.join(sorted(unknown))} is not supported; known are {known}")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    if "otlp" in wanted or (not wanted and any(os.environ.get(endpoint) for endpoint in endpoints)):
        yield _exporter(signal)


def _exporter(signal: str) -> Any:
    variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    variable = next((variable for variable in variables if os.environ.get(variable)), variables[1])
    protocol = os.environ.get(variable) or "http/protobuf"
    if protocol not in _PROTOCOLS:
        raise UsageError(f"{variable}={protocol} is not supported; known are {', '.join(_PROTOCOLS)}")
    module, name = {"traces": ("trace", "Span"), "metrics": ("metric", "Metric")}[signal]
    try:
        # Imported only when it is used: 20 MiB, and twice as much with gRPC, which is an extra.
        package = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{_PROTOCOLS[protocol]}.{module}_exporter")
    except ImportError as error:
        raise UsageError(
            f"OTLP over gRPC is not installed here ({error}): install exeunt[otlp-grpc],"
            " or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf and the endpoint's port for HTTP, usually 4318"
        ) from error
    arguments = {"session": _http_session(signal)} if protocol == "http/protobuf" else {}
    try:
        return getattr(package, f"OTLP{name}Exporter")(**arguments)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"the OTEL_EXPORTER_OTLP_* variables for {signal} cannot be used: {error}") from error


def _http_session(signal: str) -> Any:
    """None where the exporter is told of a session of its own. Raises UsageError for a proxy that cannot be used."""
    if any(re.fullmatch(_BRINGS_A_SESSION, variable) for variable in os.environ):
        return None
    variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = next((value for variable in variables if (value := os.environ.get(variable))), _ENDPOINT)
    return importlib.import_module("exeunt.telemetry.otlp_http").session(proxy_for(endpoint, os.environ))
