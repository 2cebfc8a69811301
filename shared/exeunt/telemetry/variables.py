"""What the OTEL_* variables may hold. They are looked at before OpenTelemetry is imported, because it reads some then.

Left to itself it ends the process with a traceback over one that is wrong, replaces the next with a default, and fails
at each export over a third. Here each stops the start with a message that names it, as a wrong setting of ours does. An
empty variable counts as absent, as OpenTelemetry specifies. Which exporters and protocols there are, `telemetry` knows.
"""

import re
import ssl
from collections.abc import Callable, Mapping, MutableMapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from exeunt.errors import UsageError

_Check = Callable[[str], str | None]
"""What is wanted instead of a value; None when it will do."""

_SIGNALS: Final = ("", "TRACES_", "METRICS_")
_OTLP: Final = "OTEL_EXPORTER_OTLP_"
_MOST: Final = 1e9
"""Beyond it no timer of Python can wait."""
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~\w-]+\s*=\s*[^\",;\\]*", re.ASCII)
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")


def forget_empty(environment: MutableMapping[str, str]) -> None:
    """Take away the variables that are set to nothing: OpenTelemetry does not everywhere take them for absent."""
    for name in [name for name, value in environment.items() if name.startswith("OTEL_") and not value.strip()]:
        del environment[name]


def check_what_imports_read(environment: Mapping[str, str]) -> None:
    """Raises UsageError for a variable over which importing OpenTelemetry would fail."""
    _check(environment, _READ_BY_IMPORTS)


def check_telemetry(environment: Mapping[str, str]) -> None:
    """Raises UsageError for any variable that cannot be followed; while the SDK is off, only for those above."""
    check_what_imports_read(environment)
    _check(environment, {"OTEL_SDK_DISABLED": _switch})
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    _check(environment, _READ_LATER)
    if environment.get("OTEL_TRACES_SAMPLER", "").lower().endswith("traceidratio"):
        _check(environment, {"OTEL_TRACES_SAMPLER_ARG": _number(0, 1, "a number from 0 to 1")})
    queue = int(environment.get("OTEL_BSP_MAX_QUEUE_SIZE", "2048"))
    batch = int(environment.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"))
    if batch > queue:
        raise UsageError(
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE ({batch}) has to be at most OTEL_BSP_MAX_QUEUE_SIZE ({queue})"
        )
    for signal in _SIGNALS:
        protocol = environment.get(f"{_OTLP}{signal}PROTOCOL", environment.get(f"{_OTLP}PROTOCOL"))
        _check(environment, {f"{_OTLP}{signal}ENDPOINT": _address if protocol == "grpc" else _url})
        _check_client_certificate(environment, signal)


def _check(environment: Mapping[str, str], table: Mapping[str, _Check]) -> None:
    for name, check in table.items():
        if name in environment and (wanted := check(environment[name])) is not None:
            secret = name.endswith("_HEADERS") or "@" in environment[name]
            shown = "" if secret else f"={environment[name]!r}"
            raise UsageError(f"{name}{shown} cannot be used: it has to be {wanted}")


def _one_of(*words: str, read: Callable[[str], str] = lambda value: value.strip().lower()) -> _Check:
    """One of these words, as `read`: the library is not everywhere as patient."""
    return lambda value: None if read(value) in words else _or(words)


def _or(words: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _whole(least: int) -> _Check:
    def check(value: str) -> str | None:
        right = re.fullmatch(r"\s*\d+\s*", value) is not None and least <= int(value) <= _MOST
        return None if right else f"a whole number, {least} or more"

    return check


def _number(least: float, most: float, wanted: str) -> _Check:
    def check(value: str) -> str | None:
        try:
            return None if least <= float(value) <= most else wanted
        except ValueError:
            return wanted

    return check


def _limit(value: str) -> str | None:
    return None if value.strip().lower() == "unset" else _whole(0)(value)


def _installed(group: str, *known: str) -> _Check:
    """Names, comma-separated, of what packages bring along as entry points of `group`."""

    def check(value: str) -> str | None:
        there = {*known, *(entry.name for entry in entry_points(group=group))}
        right = {name.strip() for name in value.split(",")} <= there
        return None if right else f"among what is installed: {', '.join(sorted(filter(None, there))) or 'nothing'}"

    return check


def _propagators(value: str) -> str | None:
    """The library stops reading at `none`."""
    before_none = re.split(r"(?:^|,)\s*none\s*(?:,|$)", value, maxsplit=1, flags=re.IGNORECASE)[0]
    return _installed("opentelemetry_propagator", "none")(before_none) if before_none else None


def _headers(value: str) -> str | None:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    decoded = unquote("".join(parts))
    right = all(map(_HEADER.fullmatch, parts)) and decoded.isascii() and decoded.isprintable()
    return None if right else "name=value,name=value, with the values percent-encoded"


def _attributes(value: str) -> str | None:
    right = all("=" in part and part.partition("=")[0].strip() for part in value.split(",") if part.strip())
    return None if right else "key=value,key=value"


def _certificates(value: str) -> str | None:
    try:
        if not Path(value).is_dir():
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except OSError as error:  # SSLError is one
        return f"a file with CA certificates in PEM ({error.strerror or error})"
    return None


def _url(value: str) -> str | None:
    try:
        url = urlsplit(value)
        right = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        right = False
    return None if right else "a URL such as http://otel-collector.monitoring.svc:4318"


def _address(value: str) -> str | None:
    """For gRPC, where `host:port` will do."""
    return _url(value if "://" in value else f"http://{value}")


def _check_client_certificate(environment: Mapping[str, str], signal: str) -> None:
    certificate, key = (
        next((name for name in (f"{_OTLP}{signal}{kind}", f"{_OTLP}{kind}") if name in environment), None)
        for kind in ("CLIENT_CERTIFICATE", "CLIENT_KEY")
    )
    if certificate is None:
        if key is not None:
            raise UsageError(f"{key} needs the certificate that belongs to it: set {_OTLP}{signal}CLIENT_CERTIFICATE")
        return
    files = {name: environment[name] for name in (certificate, key) if name}
    try:
        # Without the password of an encrypted key, which the exporter could not read either, OpenSSL would ask for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            environment[certificate], environment[key] if key else None, password=""
        )
    except OSError as error:
        reported = ", ".join(f"{name}={file!r}" for name, file in files.items())
        raise UsageError(f"{reported} cannot be used: {error.strerror or error}") from error


_switch: Final = _one_of("true", "false")
_milliseconds: Final = _number(0.001, _MOST, "a number of milliseconds above 0")
_READ_BY_IMPORTS: Final[Mapping[str, _Check]] = {
    "OTEL_PROPAGATORS": _propagators,
    "OTEL_PYTHON_CONTEXT": _installed("opentelemetry_context"),
    "OTEL_PYTHON_TRACER_PROVIDER": _installed("opentelemetry_tracer_provider"),
    "OTEL_PYTHON_METER_PROVIDER": _installed("opentelemetry_meter_provider"),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit,
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": _limit,
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit,
    "OTEL_SPAN_EVENT_COUNT_LIMIT": _limit,
    "OTEL_SPAN_LINK_COUNT_LIMIT": _limit,
}
_OF_EACH_SIGNAL: Final[Mapping[str, _Check]] = {
    "HEADERS": _headers,
    "TIMEOUT": _number(0.001, _MOST, "a number of seconds above 0"),
    "COMPRESSION": _one_of("none", "gzip", "deflate"),
    "CERTIFICATE": _certificates,
    "INSECURE": _switch,
}
_READ_LATER: Final[Mapping[str, _Check]] = {
    "OTEL_RESOURCE_ATTRIBUTES": _attributes,
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _installed("opentelemetry_resource_detector", "*", ""),
    "OTEL_TRACES_SAMPLER": _one_of(*_SAMPLERS, *(f"parentbased_{sampler}" for sampler in _SAMPLERS), read=str.lower),
    "OTEL_BSP_SCHEDULE_DELAY": _whole(1),
    "OTEL_BSP_EXPORT_TIMEOUT": _whole(1),
    "OTEL_BSP_MAX_QUEUE_SIZE": _whole(1),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": _whole(1),
    "OTEL_METRIC_EXPORT_INTERVAL": _milliseconds,
    "OTEL_METRIC_EXPORT_TIMEOUT": _milliseconds,
    "OTEL_METRICS_EXEMPLAR_FILTER": _one_of("trace_based", "always_on", "always_off", read=str),
    f"{_OTLP}METRICS_TEMPORALITY_PREFERENCE": _one_of("cumulative", "delta", "lowmemory"),
    f"{_OTLP}METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _one_of(
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram"
    ),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _switch,
    **{f"{_OTLP}{signal}{name}": check for signal in _SIGNALS for name, check in _OF_EACH_SIGNAL.items()},
    **{
        f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal}CREDENTIAL_PROVIDER": _installed(
            "opentelemetry_otlp_credential_provider"
        )
        for signal in _SIGNALS
    },
}
