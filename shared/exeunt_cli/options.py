"""Options that commands share, and how their values are read."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from exeunt.clock import parse_duration, parse_instant


def examples(*commands: str) -> str:
    """What stands below the help of a command."""
    return "\n\n".join(("Examples:", *(f"$ {command}" for command in commands)))


def _no_option(_: type[Any], value: str) -> None:
    """A lone hyphen is standard input; anything else that begins with one is a mistyped option."""
    if value.startswith("-") and value != "-":
        raise ValueError(f"Unknown option {value}")


_RUN = "NAME, NAMESPACE/NAME or @latest; or an exported file, - for standard input."
Run = Annotated[str, Parameter(help=_RUN, allow_leading_hyphen=True, validator=_no_option)]
"""Which history: a run in the stream RUNS, or a file."""

Format = Literal["table", "wide", "json", "jsonl", "yaml"]
EventFormat = Literal["table", "wide", "json", "jsonl", "yaml", "ce"]
Output = Annotated[Format, Parameter(alias="-o", help="`json` and `yaml` are one array, `jsonl` one object a line.")]
EventOutput = Annotated[
    EventFormat,
    Parameter(
        alias="-o", help="`json` and `yaml` are one array of stops, `jsonl` one event a line, `ce` a CloudEvent."
    ),
]
Follow = Annotated[bool, Parameter(alias="-f", negative="", help="Go on with what happens next.")]
TraceUrl = Annotated[
    str | None, Parameter(env_var="TRACE_URL", help="Where traces are looked at: a URL with {trace_id} in it.")
]


_NATS = "NATS servers, comma-separated. Credentials and TLS are set by the services' own EXEUNT_NATS_* variables."


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where to read."""

    namespace: Annotated[str | None, Parameter(alias="-n", help="The namespace; all when it is not given.")] = None
    all_namespaces: Annotated[bool, Parameter(alias="-A", negative="", help="All of them, whatever -n says.")] = False
    nats_url: Annotated[str, Parameter(env_var="EXEUNT_NATS_URL", help=_NATS)] = "nats://127.0.0.1:4222"

    def __post_init__(self) -> None:
        if self.all_namespaces:
            object.__setattr__(self, "namespace", None)


@Parameter(name="*")
@dataclass(frozen=True)
class Cluster:
    """Which cluster to look at, as kubectl takes it."""

    kubeconfig: Annotated[str | None, Parameter(help="The kubeconfig, instead of those of KUBECONFIG.")] = None
    context: Annotated[str | None, Parameter(help="Its context, instead of the current one.")] = None


def _instant(_: type[Any], tokens: tuple[Token, ...]) -> datetime:
    """An instant (RFC 3339), or a duration before now (Go duration text, or whole days). Raises ValueError."""
    text = tokens[0].value
    try:
        return parse_instant(text)
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - _days_or_less(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is neither RFC 3339 nor a duration before now such as 90s, 15m, 24h or 7d"
        ) from None


def _days_or_less(text: str) -> timedelta:
    """A Go duration, before which days may stand: "7d", "1d12h". Raises ValueError, OverflowError."""
    days, d, rest = text.rpartition("d")
    if not d or not days.isdecimal():
        return parse_duration(text)
    return timedelta(days=int(days)) + (parse_duration(rest) if rest else timedelta(0))


@Parameter(name="*")
@dataclass(frozen=True)
class Window:
    """Which time."""

    since: Annotated[
        datetime | None,
        Parameter(converter=_instant, help="From then on: RFC 3339, or how long ago (90s, 15m, 7d)."),
    ] = None
    until: Annotated[datetime | None, Parameter(converter=_instant, help="Up to then, told in the same ways.")] = None

    def holds(self, at: datetime) -> bool:
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)
