"""Every setting of Exeunt, in one place: environment variables with the prefix EXEUNT_.

One struct for all services, so that they can share one ConfigMap. Durations are Go duration text, as everywhere in
Kubernetes. An unknown or malformed variable, or a senseless value, stops the start with a message that names it.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from exeunt.clock import format_duration, parse_duration
from exeunt.errors import UsageError
from exeunt.run.shutdown_timeout import LONGEST

PREFIX: Final = "EXEUNT_"
_MORE_THAN_ZERO: Final = frozenset(
    {
        "ack_wait",
        "clock_tolerance",
        "history",
        "livekit_look_interval",
        "overdue_after",
        "retry_budget",
        "sweep_interval",
    }
)
"""Durations that must not be 0: what they bound would be over before it had begun, again and again."""
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


class Settings(Struct, frozen=True, kw_only=True):
    """What can be set. The text under each field is its documentation, also in docs/settings.md."""

    nats_url: str = "nats://127.0.0.1:4222"
    """NATS servers, comma-separated, as the nats command line takes them, `tls://name:4222`; nats:// and 4222 may be
    left out, an IPv6 address is in brackets. In a user and password (`nats://user:password@name`) or a token the comma
    and / ? # % @ : are percent-encoded; servers that are learned of later get them, too. One tls:// asks for TLS on all
    servers, and to one without it nothing is sent. The default is a local nats-server."""

    nats_credentials: str = ""
    """File with NATS user credentials (`.creds`), or with an nkey seed. Empty connects without either."""

    nats_tls_ca: str = ""
    """File with the CA certificates (PEM) that the NATS servers are verified with, and no others. Setting it asks for
    TLS. Empty: the system's, and no TLS unless a URL, another of these settings, or the server asks for it."""

    nats_tls_cert: str = ""
    """File with the client certificate for NATS, for servers that verify clients. Setting it asks for TLS."""

    nats_tls_key: str = ""
    """File with the key of that certificate, without a passphrase."""

    nats_tls_first: bool = False
    """Whether the TLS handshake comes before anything else, for servers with `handshake_first: true`. Asks for TLS."""

    tls_strict: bool = False
    """Whether certificates are verified by all rules of RFC 5280, as Python 3.13 does by default: then a CA without an
    Authority Key Identifier is refused, for example. Off, as for kubectl and the nats command line."""

    stream_replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """Replicas of the streams that are created on start: 1 for one nats-server, 3 for a cluster of three. Streams that
    are there keep theirs: `nats stream edit RUNS --replicas=3`, and so for each."""

    history: timedelta = timedelta(days=7)
    """How long the history of runs is kept in the stream RUNS. Longer than the longest call, because it is also the
    memory that a topology was established; a week is that and a debugging horizon. It is for a stream that is created
    on start; where RUNS is there, `nats stream edit RUNS --max-age=14d` first: a start that finds less is refused."""

    history_bytes: Annotated[int, Meta(ge=0)] = 0
    """Most bytes that the stream RUNS may take; the oldest history goes first. 0 is no limit, because only whoever runs
    NATS knows its room. Set it to about half of the store: a full store takes nothing at all, a full RUNS forgets
    (ADR 19). A stop is about 5 KB. Where RUNS is there, it is `nats stream edit RUNS --max-bytes=...`, as above."""

    deadlines_bytes: Annotated[int, Meta(ge=0)] = 0
    """Most bytes that the stream DEADLINES may take, for accounts that demand a size of every stream; an open stop is
    about 2 KB. 0 is no limit, which is best: in a full stream the oldest deadline makes room for the newest, and is
    late until the next sweep. /readyz tells when 80 % are reached (ADR 21)."""

    signals_bytes: Annotated[int, Meta(ge=65_536)] = 33_554_432
    """Most bytes that the stream SIGNALS may take; the oldest go first."""

    deadletters_bytes: Annotated[int, Meta(ge=1_048_576)] = 134_217_728
    """Most bytes that the stream DEADLETTERS may take; the oldest go first."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to look after, comma-separated. Empty means all, which needs ClusterRoles."""

    shutdown_timeout: timedelta = timedelta(seconds=20)
    """From cancel_observed_at to the shutdown deadline, where neither the run nor its Story says otherwise. 20s is
    bobrapet's own effective default for a graceful shutdown, a year (8760h) the longest. Must be the same
    for the watcher and the timeout-scheduler."""

    fence_wait: timedelta = timedelta(seconds=15)
    """How long after a cancel bobrapet's cancel_observed_at is waited for before Exeunt goes on without it. Twice the
    longest requeue delay of bobrapet (7.5 s): a longer silence means that it is down."""

    clock_tolerance: timedelta = timedelta(seconds=2)
    """How far the terminator's clock may be off that of the kube-apiserver. Beyond it no run is ended by its deadline,
    until the clocks agree or another terminator, whose clock does, takes it over. A warning comes at one second, which
    is as exact as the kube-apiserver tells its time; clocks that are synchronized differ by milliseconds, so two
    seconds are no clock that is kept."""

    heartbeat_stale_after: timedelta = timedelta(0)
    """Silence of every TransportBinding of a run that counts as "topology gone". 0s is off: the connector beats every
    30 s, so anything below 90s is luck."""

    propagate_cancel: bool = False
    """Whether a canceled realtime run's sub-stories are asked to cancel, too. Off, because bobrapet leaves them running
    and somebody may count on that; needs RBAC of its own (deploy/components/sub-stories)."""

    kubernetes_events: bool = False
    """Whether the terminator writes a Kubernetes Event about each run that it ends, for `kubectl describe`. Off,
    because it needs RBAC of its own (deploy/components/events)."""

    dry_run: bool = False
    """Whether the terminator only decides: it records each outcome with the result "dry run" and writes nothing to
    Kubernetes. For all terminators at once, because they share the work. What was decided so is decided again, once
    this is off, when the sweep finds the run overdue."""

    second_look: timedelta = timedelta(seconds=10)
    """For how long StepRuns of a run that Exeunt has ended may be there before the watcher has them deleted: the hub
    may create one late, and a terminator may have died over it. Longer than a stop takes to delete them on a busy day.
    Where cancels are passed on, children are looked for once more after the same time."""

    sweep_interval: timedelta = timedelta(seconds=30)
    """How often everything is compared with the cluster: the watcher offers again what the stream may have lost, the
    timeout-scheduler arms what is missing. It bounds the delay when events, streams or schedules were lost, and costs a
    filtered list."""

    overdue_after: timedelta = timedelta(seconds=30)
    """How long after its deadline an unfinished run is given another deadline event by the sweep, whatever became of
    the first; then after as long again, twice as long and so on, an hour at the most. Longer than any ordinary stop."""

    max_in_flight: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Messages that one process handles at once. Beyond what the kube-apiserver answers in parallel more only waits.
    In the terminator runs of one namespace have at most half of these places, or as many as are free, if others take
    theirs, and half as many after each failure: a namespace in trouble leaves room."""

    max_deliveries: Annotated[int, Meta(ge=2)] = 100
    """Deliveries after which a message is set aside as a dead letter, where the process that it is delivered to has not
    given it back before: then the message itself ends processes. One that waits for something that is away is tried
    for as long as it takes."""

    ack_wait: timedelta = timedelta(seconds=4)
    """Silence after which NATS gives a message to another instance. A killed service, or one whose
    connection is lost, costs at most this much for the message that it held; a living one says that it is at work."""

    bus_patience: timedelta = timedelta(seconds=2)
    """How long JetStream may fail before a terminator ends runs without it, from what it lists and watches itself
    (ADR 25). 0s is off: then a stop waits for NATS. Two seconds, because that is how long it takes to tell silence
    from a quiet moment: both count from the last word. Where a leader steps down, the next one is there before."""

    retry_budget: timedelta = timedelta(seconds=2)
    """How long one call to the kube-apiserver is retried through throttling (429) and faults before the message goes
    back to the stream, to be tried again: after the time that a 429 asks for, or with back-off. Two seconds, because
    until then it keeps its place, which is another stop's place. One try without an answer takes 10 s."""

    drain_budget: timedelta = timedelta(seconds=20)
    """How long after SIGTERM messages in flight may take. Keep terminationGracePeriodSeconds 5 s above it."""

    livekit_url: str = ""
    """Where the LiveKit bridge asks LiveKit's API who is in a room: http:// or https://; ws:// and wss:// are taken for
    these. The LiveKit bridge needs it, the other services do without all of EXEUNT_LIVEKIT_*."""

    livekit_keys: str = ""
    """File with LiveKit's API keys, one `key: secret` a line, as LiveKit's own `key_file`. Webhooks may be signed with
    any of them, the API is asked with the first. A file that changes is read again."""

    livekit_not_callers: tuple[str, ...] = ("bubu-agent*",)
    """Identities that hold no call open, comma-separated, with `*`, `?` and `[...]`: the bots of a call. Agents,
    recorders and hidden participants never do."""

    livekit_webhook_addr: str = ":8090"
    """Where the LiveKit bridge listens for LiveKit's webhooks, `POST /webhook`, written as EXEUNT_HTTP_ADDR is."""

    livekit_look_interval: timedelta = timedelta(seconds=10)
    """How often the LiveKit bridge looks at each room, webhook or not. It bounds the delay when webhooks were lost, and
    costs two small requests to LiveKit's API for each room."""

    http_addr: str = ":8080"
    """Where /livez, /readyz and /metrics listen, as host:port. Without a host it is every address, IPv4 and IPv6;
    0.0.0.0:8080 is IPv4 alone. IPv6 stands in brackets: [::1]:8080. Port 0 takes a free one, which the log tells."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe log lines that are written."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """Lines for machines or for people; auto means for people on a terminal and JSON elsewhere."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises UsageError that names the variable, what it holds and what it may hold."""
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    values: dict[str, object] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in fields:
            raise UsageError(f"{variable} is no setting of Exeunt; see `exeunt settings` for those that are")
        try:
            values[name] = _typed(name, fields[name].type, text)
        except (ValueError, msgspec.ValidationError) as error:
            raise UsageError(f"{variable}={text!r} cannot be used: {error}") from error
    return Settings(**values)  # type: ignore[arg-type]  # each value was converted to its field's type above


def _typed(name: str, kind: object, text: str) -> object:
    if kind is timedelta:
        duration = parse_duration(text)
        if duration < timedelta(0):
            raise ValueError("a negative duration makes no sense here")
        if duration == timedelta(0) and name in _MORE_THAN_ZERO:
            raise ValueError("it has to be longer than 0s")
        if name == "shutdown_timeout" and duration > LONGEST:
            raise ValueError(f"a shutdown timeout cannot be longer than a year ({format_duration(LONGEST)})")
        return duration
    if kind == tuple[str, ...]:
        parts = tuple(dict.fromkeys(part for item in text.split(",") if (part := item.strip())))
        if name == "namespaces":
            _check_namespaces(text, parts)
        return parts
    if kind is bool and text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError("it has to be true or false")
    if (words := get_args(kind)) and get_origin(kind) is Literal and text not in words:
        raise ValueError(f"it has to be one of {', '.join(words)}")
    return msgspec.convert(text, kind, strict=False)


def _check_namespaces(text: str, names: tuple[str, ...]) -> None:
    """The kube-apiserver lists what is in a namespace that cannot be: nothing. So it would be watched, and all well."""
    if text and not names:
        raise ValueError("it names no namespace: leave it empty for all of them")
    for name in names:
        if not _NAMESPACE.fullmatch(name):
            raise ValueError(
                f"{name[:64]!r} can be no namespace: write names, with commas between them, or none for all"
            )
