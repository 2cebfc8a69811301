"""Every metric of Exeunt, in one table: what Grafana shows and alerts use.

The same figures go to Prometheus (`prometheus`) and over OTLP (`telemetry`), under the names that Prometheus wants.
Labels have few values, all known in advance: runs are found through exemplars, which link to the trace. docs/metrics.md
is generated from this table.
"""

from typing import Final

from exeunt.events.event_types import DRY_RUN, STOPPING_EVENT_TYPES, EventType, Verdict
from exeunt.telemetry.instruments import Counter, Gauge, Histogram, Instrument, Observable

_LATENCY: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DURATION: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_LATENESS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)

CAUSES: Final = {
    EventType.CANCEL_REQUESTED: "cancel",
    EventType.TOPOLOGY_TERMINATED: "gone",
    EventType.DEADLINE_REACHED: "deadline",
}
"""What made a run end, by the event that it was finalized on."""

STOP_LATENCY: Final = Histogram(
    "exeunt_stop_latency_seconds",
    "From the cause of a stop to the response to the write that ended its run. Causes: `cancel` (the topology was gone"
    " already; counts from cancel_observed_at), `gone` (counts from when the watcher saw it), `deadline` (from the "
    "deadline).",
    services="terminator",
    labels=("cause",),
    buckets=_LATENCY,
)
STOP_DURATION: Final = Histogram(
    "exeunt_stop_duration_seconds",
    "From the cancel (cancel_observed_at, if there is one) to the end of the run, as its user sees it; causes as "
    "above.",
    services="terminator",
    labels=("cause",),
    buckets=_DURATION,
)
DRAIN_SAVED: Final = Counter(
    "exeunt_drain_saved_seconds_total",
    "How much of their drain timeouts the runs that Exeunt ended did not have to wait. Only counts the"
    " `drainTimeoutSeconds` of Stories, not those of Transports.",
    services="terminator",
)
OUTCOMES: Final = Counter(
    "exeunt_outcomes_total",
    "Decisions on events, by event and verdict (`dry run`: EXEUNT_DRY_RUN kept it from being written). Each event "
    "counts"
    " once, and again if it was acted on later; second looks do not count.",
    services="terminator",
    labels=("cause", "verdict"),
)
KUBERNETES_EVENTS: Final = Counter(
    "exeunt_kubernetes_events_total",
    "Kubernetes Events about ended runs (EXEUNT_KUBERNETES_EVENTS), by result: `created`, `refused`, `dropped` (the"
    " queue was full).",
    services="terminator",
    labels=("result",),
)
WITHOUT_BUS: Final = Observable(
    "exeunt_without_bus",
    "1 while JetStream is away for longer than EXEUNT_BUS_PATIENCE and runs are ended without it, else 0.",
    services="terminator",
)
UNPUBLISHED: Final = Observable(
    "exeunt_unpublished_outcomes",
    "Outcomes of stops without the bus that wait for it to be back.",
    services="terminator",
)
UNPUBLISHED_LOST: Final = Counter(
    "exeunt_unpublished_outcomes_lost_total",
    "Outcomes of stops without the bus that the history will never have: too many waited, or NATS refused them.",
    services="terminator",
)
DEADLINE_LATENESS: Final = Histogram(
    "exeunt_deadline_lateness_seconds",
    "From a shutdown deadline to when deadline-reached was published.",
    services="timeout-scheduler",
    buckets=_LATENESS,
)
DEADLINES: Final = Counter(
    "exeunt_deadlines_total",
    "Deadlines by result: `armed`, `disarmed`, `said` (deadline-reached was published), `dropped` (a re-check found"
    " nothing left to stop), `overdue` (published again by the sweep).",
    services="timeout-scheduler",
    labels=("result",),
)
STOP_LATENESS: Final = Histogram(
    "exeunt_stop_lateness_seconds",
    "How late a stop ended, whoever ended it: from when it was due (the run canceled and its topology gone, or its"
    " shutdown deadline) to its end, as watchers see it. Each stop at most once, by the watcher that published its end"
    " first. Causes as above; `ended_by` is `exeunt`, or `other`: mostly bobrapet at its drain timeout.",
    services="watcher",
    labels=("cause", "ended_by"),
    buckets=(*_LATENCY, 120, 300),
)
STOPS_PENDING: Final = Gauge(
    "exeunt_stops_pending",
    "Stops in progress: canceled realtime runs that have not ended. Every watcher counts all of them.",
    services="watcher",
)
STOPS_PENDING_AGE: Final = Gauge(
    "exeunt_stops_pending_age_seconds",
    "Time since the cancel of the oldest stop in progress; 0 if there is none.",
    services="watcher",
)
STOPS_OVERDUE: Final = Gauge(
    "exeunt_stops_overdue_seconds",
    "How long the most overdue stop has been due, whatever its cause; 0 if none is.",
    services="watcher",
)
EVENTS_PUBLISHED: Final = Counter(
    "exeunt_facts_total",
    "Events that this watcher was the first to publish.",
    services="watcher",
    labels=("fact",),
)
WATCH_AGE: Final = Observable(
    "exeunt_watch_age_seconds",
    "Time since an event, a bookmark or a list was last received from the kube-apiserver; above 90 s the watcher is"
    " blind. Namespaces that refuse to be watched while others are served do not count.",
    services="watcher",
    labels=("resource",),
)
WATCH_RELISTS: Final = Observable(
    "exeunt_watch_relists_total",
    "Times a watch could not go on, and a new list caught up on what it may have missed.",
    services="watcher",
    kind="counter",
    labels=("resource",),
)
WATCH_INTERRUPTIONS: Final = Observable(
    "exeunt_watch_interruptions_total",
    "Watches and lists that failed and were retried.",
    services="watcher",
    kind="counter",
    labels=("resource",),
)
LIVEKIT_WEBHOOKS: Final = Counter(
    "exeunt_livekit_webhooks_total",
    "Webhooks by event (`other`: none that says who is in a room; `unverified`: nobody knows) and HTTP status of the"
    " answer: 200, 401 (not LiveKit's signature), 413 (too large), 503 (could not be stored; LiveKit repeats it).",
    services="livekit-bridge",
    labels=("answer", "event"),
)
LIVEKIT_LOOKS: Final = Counter(
    "exeunt_livekit_looks_total",
    "Looks at rooms by result: `gone` (published that nobody is left), `up` (published that somebody is back), "
    "`known` (nothing"
    " new), `failed` (LiveKit or NATS did not answer; it is looked again).",
    services="livekit-bridge",
    labels=("result",),
)
LIVEKIT_SIGNAL_LATENCY: Final = Histogram(
    "exeunt_livekit_signal_latency_seconds",
    "From the arrival of a webhook to when the signal that it led to was stored. What the timer finds does not count.",
    services="livekit-bridge",
    buckets=_LATENCY,
)
CONSUMER_PENDING: Final = Gauge(
    "exeunt_consumer_pending",
    "Messages not yet delivered to a durable consumer: its lag. Every instance of watcher, terminator and"
    " timeout-scheduler tells it of all consumers, so it is known of a service of which no instance is alive.",
    services="all",
    labels=("consumer",),
)
CONSUMER_UNACKNOWLEDGED: Final = Gauge(
    "exeunt_consumer_unsettled",
    "Messages delivered but not acknowledged yet: in progress, held until a deadline, or waiting for a retry.",
    services="all",
    labels=("consumer",),
)
DELIVERIES: Final = Counter(
    "exeunt_deliveries_total",
    "Messages handled, by answer: `ack`, `retry` (one per stop is its second look; one per look of the LiveKit bridge"
    " at a room that goes on), `dead-letter`.",
    services="all",
    labels=("answer", "consumer"),
)
REDELIVERIES: Final = Counter(
    "exeunt_redeliveries_total",
    "Messages that had been delivered before; one per stop is its second look, and the LiveKit bridge's timer is made"
    " of them.",
    services="all",
    labels=("consumer",),
)
DEAD_LETTERS: Final = Counter(
    "exeunt_dead_letters_total",
    "Messages moved to the stream DEADLETTERS, each with its reason.",
    services="all",
    labels=("consumer",),
)
STREAMS_CREATED: Final = Counter(
    "exeunt_streams_created_total",
    "Missing streams that were created: each once at installation, and never again if all is well.",
    services="all",
    labels=("stream",),
)
KUBE_REQUEST_DURATION: Final = Histogram(
    "exeunt_kube_request_duration_seconds",
    "Requests to the kube-apiserver, each retry counted, watches excluded; `code` is the HTTP status, or `none` without"
    " a response.",
    services="all",
    labels=("code", "resource", "verb"),
    buckets=_LATENCY,
)
NATS_ERRORS: Final = Counter(
    "exeunt_nats_errors_total",
    "Failed requests to NATS and errors reported by the connection, by type.",
    services="all",
    labels=("error_type",),
)
NATS_RECONNECTS: Final = Counter(
    "exeunt_nats_reconnects_total",
    "Connections to NATS after the first.",
    services="all",
)
CLOCK_OFFSET: Final = Observable(
    "exeunt_clock_offset_seconds",
    "How far the clock of the Pod's node is ahead of that of `kube-apiserver` or `nats` (negative: behind), as far as"
    " that is certain: the kube-apiserver tells whole seconds, so less than one may be missing. Of several nats-servers"
    " it is the one that differs most.",
    services="all",
    labels=("clock",),
)
DEPENDENCY_UP: Final = Observable(
    "exeunt_dependency_up",
    "1 while a dependency is available, 0 while /readyz reports trouble with it.",
    services="all",
    labels=("dependency",),
)

INSTRUMENTS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Instrument))
"""All of the above, in order."""


def expect_events() -> None:
    """The watcher's series at 0."""
    for cause in CAUSES.values():
        for ended_by in ("exeunt", "other"):
            STOP_LATENESS.expect(cause=cause, ended_by=ended_by)
    for event_type in EventType:
        if event_type is not EventType.DEADLINE_REACHED:  # published by the timeout-scheduler
            EVENTS_PUBLISHED.expect(fact=str(event_type))


def expect_stops() -> None:
    """The terminator's series at 0."""
    for event_type in STOPPING_EVENT_TYPES:
        STOP_LATENCY.expect(cause=CAUSES[event_type])
        STOP_DURATION.expect(cause=CAUSES[event_type])
        for verdict in (*Verdict, DRY_RUN):
            OUTCOMES.expect(cause=str(event_type), verdict=str(verdict))
    DRAIN_SAVED.expect()


def expect_deadlines() -> None:
    """The timeout-scheduler's series at 0."""
    DEADLINE_LATENESS.expect()
    for result in ("armed", "disarmed", "said", "dropped", "overdue"):
        DEADLINES.expect(result=result)


def expect_looks() -> None:
    """The LiveKit bridge's series at 0."""
    for event in ("participant_left", "participant_joined", "other"):
        for answer in ("200", "503"):
            LIVEKIT_WEBHOOKS.expect(event=event, answer=answer)
    LIVEKIT_WEBHOOKS.expect(event="unverified", answer="401")
    for result in ("gone", "up", "known", "failed"):
        LIVEKIT_LOOKS.expect(result=result)
    LIVEKIT_SIGNAL_LATENCY.expect()


def expect_deliveries(consumer: str) -> None:
    """The series at 0 of the service that reads from `consumer`."""
    for answer in ("ack", "retry", "dead-letter"):
        DELIVERIES.expect(answer=answer, consumer=consumer)
    REDELIVERIES.expect(consumer=consumer)
    DEAD_LETTERS.expect(consumer=consumer)
