"""The lower rows of "Exeunt / Stops": the parts that a stop passes through, and so where to look when stops are late.

Figures about all of Exeunt that every instance reports (consumers) are the maximum over instances; counts are summed. A
counter that only appears with its first event has no increase for it: where that matters, totals are shown.
"""

from typing import Final

from grafana_foundation_sdk.builders import common, statetimeline
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import (
    COUNT,
    DASHED,
    HERE,
    PER_MINUTE,
    PROMETHEUS,
    RED,
    SECONDS,
    SHARE,
    graph,
    per_minute,
    promql,
    quantile,
    red_from,
)

LATENESS: Final = "exeunt_deadline_lateness_seconds"
REQUESTS: Final = "exeunt_kube_request_duration_seconds"
PROCESS: Final = (
    "* on (job, instance) group_left (service_name, service_instance_id)"
    f' target_info{{{HERE}, service_name=~"exeunt-.*"}}'
)
"""Joins a series of a process with its service and instance; other processes drop out."""

DEADLINES: Final = (
    graph(
        "Lateness of deadlines",
        "From a shutdown deadline to when deadline-reached was published: milliseconds, never early. Late ones mean"
        " that the timeout-scheduler was down or NATS had no leader; see JetStream and Processes.",
        SECONDS,
        promql(quantile(0.99, LATENESS), "p99", exemplar=True),
        promql(quantile(0.5, LATENESS), "p50"),
        limits=red_from(1),
        log=True,
    ).override_by_regexp("/p50$/", DASHED),
    graph(
        "Deadlines by result",
        "Every stop arms one, and most are disarmed because the run ended first. said: it was reached. overdue: the"
        " sweep had to publish it again, so something was lost or a stop failed: look at Dead letters and Outcomes.",
        PER_MINUTE,
        promql(per_minute("exeunt_deadlines_total", by="result"), "{{result}}"),
        bars=True,
    ),
)

WATCHER: Final = (
    graph(
        "Watch age",
        "Time since the last event, bookmark or list, by resource, of the watcher that has waited longest. Above 90 s"
        " it is blind; stops continue while another one sees. If all are blind: is the kube-apiserver up, and may the"
        " ServiceAccount watch?",
        SECONDS,
        promql(f"max by (resource) (exeunt_watch_age_seconds{{{HERE}}})", "{{resource}}"),
        limits=red_from(90),
        width=8,
    ),
    graph(
        "Relists and interruptions",
        "relists: a watch had expired and everything was listed again. interruptions: a list or watch failed and was"
        " retried. A few are normal when a kube-apiserver restarts; many mean that it is in trouble.",
        PER_MINUTE,
        promql(per_minute("exeunt_watch_relists_total", by="resource"), "relists: {{resource}}"),
        promql(per_minute("exeunt_watch_interruptions_total", by="resource"), "interruptions: {{resource}}"),
        bars=True,
        width=8,
    ),
    graph(
        "Events published",
        "Each event once, by the watcher that published it first. For each stop one cancel-requested and one"
        " run-terminal; a cancel without a topology-terminated or a deadline is a stop under way.",
        PER_MINUTE,
        promql(per_minute("exeunt_facts_total", by="fact"), "{{fact}}"),
        width=8,
    ),
)

LIVEKIT: Final = (
    graph(
        "From a webhook to its signal",
        "From the arrival of LiveKit's webhook to when the signal was stored that it led to: a pause of 50 ms and four"
        " short questions to LiveKit. Slow ones mean that LiveKit's API or NATS is. What the timer finds is not in it.",
        SECONDS,
        promql(quantile(0.99, "exeunt_livekit_signal_latency_seconds"), "p99", exemplar=True),
        promql(quantile(0.5, "exeunt_livekit_signal_latency_seconds"), "p50"),
        log=True,
        width=8,
    ).override_by_regexp("/p50$/", DASHED),
    graph(
        "Webhooks by answer",
        "401: not LiveKit's signature; is its key in EXEUNT_LIVEKIT_KEYS, and do the clocks agree? 503: NATS could not"
        " store it, and LiveKit repeats it. None at all, with calls going on: does LiveKit reach the bridge?",
        PER_MINUTE,
        promql(per_minute("exeunt_livekit_webhooks_total", by="answer"), "{{answer}}"),
        bars=True,
        width=8,
    ),
    graph(
        "Looks by result",
        "gone: nobody is left in a room, and that was said. up: somebody is back. known: nothing new, mostly the timer."
        " failed: LiveKit or NATS did not answer; see Dependencies.",
        PER_MINUTE,
        promql(per_minute("exeunt_livekit_looks_total", by="result"), "{{result}}"),
        width=8,
    ).override_by_regexp("/^failed$/", RED),
)

JETSTREAM: Final = (
    graph(
        "Consumer backlog",
        "pending: not delivered yet, the lag, which should be 0 within seconds. unsettled: delivered but not"
        " acknowledged: in progress, held until a deadline, or waiting for a retry. If pending grows: is its service"
        " up (Processes)?",
        COUNT,
        promql(f"max by (consumer) (exeunt_consumer_pending{{{HERE}}})", "pending: {{consumer}}"),
        promql(f"max by (consumer) (exeunt_consumer_unsettled{{{HERE}}})", "unsettled: {{consumer}}"),
        width=8,
    ).override_by_regexp("/^unsettled/", DASHED),
    graph(
        "Deliveries",
        "By answer. The LiveKit bridge looks at each room again and again: its retries are normal. Others mean that a"
        " dependency is unavailable: see Dependencies, and Stops in trouble for their names.",
        PER_MINUTE,
        promql(per_minute("exeunt_deliveries_total", by="answer"), "{{answer}}"),
        promql(per_minute("exeunt_redeliveries_total", by="consumer"), "redelivered: {{consumer}}"),
        width=8,
    ).override_by_regexp("/^redelivered/", DASHED),
    graph(
        "NATS trouble",
        "Totals of the running processes; every step up is an event. dead letters: `exeunt deadletters`. streams"
        " created: once at installation, later a stream was lost. errors and reconnects: a nats-server went down, or"
        " refuses. without the bus: that many terminators end runs by themselves, and keep unpublished outcomes.",
        COUNT,
        promql(f"sum(exeunt_without_bus{{{HERE}}})", "without the bus"),
        promql(f"sum(exeunt_unpublished_outcomes{{{HERE}}})", "unpublished outcomes"),
        promql(f"sum(exeunt_unpublished_outcomes_lost_total{{{HERE}}})", "outcomes lost"),
        promql(f"sum by (consumer) (exeunt_dead_letters_total{{{HERE}}})", "dead letters: {{consumer}}"),
        promql(f"sum by (stream) (exeunt_streams_created_total{{{HERE}}})", "streams created: {{stream}}"),
        promql(f"sum by (error_type) (exeunt_nats_errors_total{{{HERE}}})", "errors: {{error_type}}"),
        promql(f"sum(exeunt_nats_reconnects_total{{{HERE}}})", "reconnects"),
        width=8,
    ),
)

KUBERNETES: Final = (
    graph(
        "Requests to the Kubernetes API by answer",
        "422 is mostly a failed precondition: the run has changed and is read again. 429 is throttling by the"
        " kube-apiserver. 403 is missing RBAC. 5xx, none: the kube-apiserver is in trouble. A lost Event costs no"
        " stop.",
        "reqps",
        promql(f"sum by (code) (rate({REQUESTS}_count{{{HERE}}}[$__rate_interval]))", "{{code}}"),
        promql(
            f'sum by (result) (rate(exeunt_kubernetes_events_total{{{HERE}, result!="created"}}[$__rate_interval]))',
            "Event {{result}}",
        ),
    ).override_by_regexp("/^(5..|none)$/", RED),
    graph(
        "Duration of requests, p99",
        "A stop is one patch, then deletes. When patch is slow, so is every stop: look at the kube-apiserver, its etcd,"
        " and admission webhooks on storyruns.",
        SECONDS,
        promql(quantile(0.99, REQUESTS, by="verb, resource"), "{{verb}} {{resource}}", exemplar=True),
        log=True,
    ),
)


def _dependencies() -> statetimeline.Panel:
    up, down = model.ValueMappingResult("up", "green"), model.ValueMappingResult("down", "red")
    return (
        statetimeline.Panel()
        .title("Dependencies")
        .description(
            "What /readyz of any instance reports as missing. A service is not ready, and waits, until it is back."
        )
        .datasource(PROMETHEUS)
        .with_target(
            promql(
                f"min by (service_name, dependency) (exeunt_dependency_up{{{HERE}}} {PROCESS})",
                "{{service_name}}: {{dependency}}",
            ).ref_id("A")
        )
        .unit(COUNT)
        .no_value("no service is scraped")
        .mappings([model.ValueMap({"1": up, "0": down})])
        .merge_values(True)
        .show_value(looks.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(False).display_mode(looks.LegendDisplayMode.LIST))
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
        .height(8)
        .span(6)
    )


PROCESSES: Final = (
    _dependencies(),
    graph(
        "Memory",
        "Resident. A watcher holds every unfinished run, about 14 KB each. Memory that only grows is a bug: report it.",
        "bytes",
        promql(f"process_resident_memory_bytes{{{HERE}}} {PROCESS}", "{{service_name}} {{service_instance_id}}"),
        width=6,
    ),
    graph(
        "CPU",
        "Of one core. Each service runs in one thread: near 100 % it is the bottleneck, and stops become late.",
        SHARE,
        promql(
            f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval]) {PROCESS}",
            "{{service_name}} {{service_instance_id}}",
        ),
        limits=red_from(1),
        width=6,
    ),
    graph(
        "Clocks",
        "How far an instance's clock is off that of the kube-apiserver or nats-server, as far as that is certain. From"
        " 1 s on deadlines are early or late; beyond EXEUNT_CLOCK_TOLERANCE (kube-apiserver) a terminator ends no run"
        " by its deadline.",
        SECONDS,
        promql(
            f"max by (service_name, clock) (abs(exeunt_clock_offset_seconds{{{HERE}}}) {PROCESS})",
            "{{service_name}}: {{clock}}",
        ),
        limits=red_from(1),
        width=6,
    ),
)
