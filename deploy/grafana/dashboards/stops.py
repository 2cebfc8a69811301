"""The operator's dashboard "Exeunt / Stops": is every stop on time, what is stuck, and why.

From top to bottom: whether stops are fine (99.9 % of them end within 1 s of when they are due, and none later than 1 s
after its deadline outside a NATS leader election), and if not, whose fault that is; the stops; how fast the error
budget burns; and then the parts that a stop passes through (`machinery`).

Every watcher reports all stops in progress, so these figures are the maximum over instances; counts are summed.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.common import LogsSortOrder

from dashboards.logs import LINES, log_lines
from dashboards.machinery import DEADLINES, JETSTREAM, KUBERNETES, LIVEKIT, PROCESSES, WATCHER
from dashboards.panels import (
    COUNT,
    DASHED,
    HERE,
    PER_MINUTE,
    RED,
    SECONDS,
    SHARE,
    Figure,
    distribution,
    frame,
    graph,
    green_from,
    latencies,
    link,
    per_minute,
    promql,
    red_from,
    tile,
)

OBJECTIVE: Final = 0.999
BUDGET: Final = round(1 - OBJECTIVE, 6)
"""The error budget: the share of stops that may be late. Rounded, because it is written into queries."""
OBJECTIVE_WINDOW: Final = "30d"

LATENESS: Final = "exeunt_stop_lateness_seconds"
LATENCY: Final = "exeunt_stop_latency_seconds"
DURATION: Final = "exeunt_stop_duration_seconds"


def _in_time(window: str) -> str:
    """The share of stops that ended within 1 s of when they were due; NaN when there were none."""
    good = f'sum(rate({LATENESS}_bucket{{{HERE}, le="1.0"}}[{window}]))'
    return f"{good} / sum(rate({LATENESS}_count{{{HERE}}}[{window}]))"


def _burn(window: str) -> str:
    """The burn rate: 1 spends the budget exactly within the window of the objective."""
    return f"(1 - {_in_time(window)}) / {BUDGET}"


def _over_range(counter: str) -> str:
    return f"sum(increase({counter}{{{HERE}}}[$__range]))"


LATE_AFTER_DEADLINE: Final = (
    f'round(sum(increase({LATENESS}_count{{{HERE}, cause="deadline"}}[$__range]))'
    f' - sum(increase({LATENESS}_bucket{{{HERE}, cause="deadline", le="1.0"}}[$__range])))'
)

RULES_LOADED: Final = f"0 * max(exeunt:installed:present1d{{{HERE}}})"
"""0 where Exeunt's rules are evaluated, else nothing: no alert that fires is good news only there."""


def _firing(severity: str) -> str:
    fires = f'ALERTS{{{HERE}, alertname=~"Exeunt.+", alertstate="firing", severity="{severity}"}}'
    return f"sum({fires}) or {RULES_LOADED}"


def _instances(service: str) -> Figure:
    return Figure(service, f'count(target_info{{{HERE}, service_name="exeunt-{service}"}})', COUNT, green_from(1))


def _without(name: str, dependency: str) -> Figure:
    return Figure(name, f"sum(1 - exeunt_dependency_up{{{HERE}, dependency{dependency}}})", COUNT, red_from(1))


AT_A_GLANCE: Final = (
    tile(
        "Service level",
        "Of the last 30 days, or as far back as Prometheus keeps: the share of stops that ended within 1 s of when they"
        " were due, whoever ended them (objective: 99.9 %), and what is left of the error budget (-100 % is the lowest"
        " shown). Of this time range: stops that ended more than 1 s after their deadline (objective: none, outside a"
        " NATS leader election). When red, find the stops under Lateness below, follow an exemplar to its trace, and"
        " run `exeunt explain` on the run.",
        Figure("in time (30 d)", _in_time(OBJECTIVE_WINDOW), SHARE, green_from(OBJECTIVE), 3),
        Figure(
            "budget left (30 d)", f"clamp_min(1 - {_burn(OBJECTIVE_WINDOW)}, -1)", SHARE, green_from(0.5, orange=0), 0
        ),
        Figure("> 1 s after deadline", LATE_AFTER_DEADLINE, COUNT, red_from(1)),
        width=9,
        none="no stops",
    ),
    tile(
        "Stops under way",
        "Canceled realtime runs that have not ended: how many, how long ago the oldest was canceled, and how long the"
        " most overdue one has been due. Overdue by more than 1 s is stuck: `exeunt runs`, `exeunt explain`.",
        Figure("now", f"sum(max by (namespace) (exeunt_stops_pending{{{HERE}}}))", COUNT),
        Figure("oldest", f"max(exeunt_stops_pending_age_seconds{{{HERE}}})", SECONDS),
        Figure("overdue", f"max(exeunt_stops_overdue_seconds{{{HERE}}})", SECONDS, red_from(1, orange=0.001), 1),
        width=8,
        none="no watcher",
        none_color="red",
    ),
    tile(
        "Alerts that fire",
        "Of Exeunt's own rules: critical ones have paged somebody, warnings wait for the morning. Each has a page in"
        " docs/runbooks. `no rules`: Prometheus does not evaluate them (the component `alerts`), so nobody is paged.",
        Figure("critical", _firing("critical"), COUNT, red_from(1)),
        Figure("warning", _firing("warning"), COUNT, ((None, "green"), (1, "orange"))),
        width=7,
        none="no rules",
    ),
    tile(
        "Services up",
        "How many instances of each service Prometheus sees. None of a service: nothing of its part of a stop happens,"
        " and its messages wait in NATS until it is back.",
        _instances("watcher"),
        _instances("terminator"),
        _instances("timeout-scheduler"),
        width=9,
        none="none",
        none_color="red",
    ),
    tile(
        "What services lack",
        "How many instances say on /readyz that they lack NATS, the Kubernetes API, or anything else (a stream, a"
        " watch, LiveKit): then it is not Exeunt's fault. Dependencies, at the bottom, shows which and since when.",
        _without("NATS", '="nats"'),
        _without("Kubernetes", '="kubernetes"'),
        _without("anything else", '!~"nats|kubernetes"'),
        width=8,
        none="no service",
        none_color="red",
    ),
    tile(
        "Dead letters",
        "Messages dead-lettered in this time range, each with its reason. Read them with `exeunt deadletters`.",
        Figure("dead letters", f"round({_over_range('exeunt_dead_letters_total')})", COUNT, red_from(1)),
        width=3,
    ),
    tile(
        "Drain time saved",
        "How much of their drain timeouts the runs that Exeunt ended in this time range did not have to wait.",
        Figure("saved", _over_range("exeunt_drain_saved_seconds_total"), SECONDS),
        width=4,
    ),
)

STOPS: Final = (
    graph(
        "Stops by cause",
        "What made them due. gone: the topology ended; cancel: it was gone already; deadline: participants stayed"
        " connected. Many deadlines mean that hang-ups do not reach Exeunt: `exeunt explain` one of them. not by"
        " Exeunt: bobrapet was first, mostly at its drain timeout, because Exeunt could not.",
        PER_MINUTE,
        promql(per_minute(f"{LATENESS}_count", by="cause", only='ended_by="exeunt"'), "{{cause}}"),
        promql(per_minute(f"{LATENESS}_count", by="ended_by", only='ended_by="other"'), "not by Exeunt"),
        bars=True,
        width=8,
    ).override_by_name("not by Exeunt", RED),
    latencies(
        "Lateness: due until ended, the promise",
        "As the watchers saw it, whoever ended the run. The red line is the objective. A dot is a stop: click it for"
        " its trace. Compare stops above the line with Own time: those late only here reached the terminator late.",
        LATENESS,
        limits=red_from(1),
        width=8,
    ),
    latencies(
        "Own time: cause published until written",
        "Exeunt's own part of it, as the terminator saw it (exeunt_stop_latency_seconds). When p99 rises for all"
        " causes, look at JetStream and the Kubernetes API below; for deadline alone, at Deadlines.",
        LATENCY,
        limits=red_from(1),
        width=8,
    ),
    distribution(
        "Own time of stops whose topology had gone",
        "The whole distribution, not only its tail. Two bands mean two paths: a retry after a failed precondition, or a"
        " redelivery. Click a dot for its trace.",
        f'{HERE}, cause="gone"',
        width=8,
    ),
    latencies(
        "Duration: canceled until ended",
        "How long users wait, which `exeunt runs` calls LATENCY, including the time until everyone has left; the"
        " shutdown timeout is its upper bound. Long ones end at their deadline: shorten the timeout of their Story.",
        DURATION,
        width=8,
    ),
    graph(
        "Outcomes",
        "The terminator's decisions on events. All but failed are normal: there, the write was refused or the run could"
        " not be read; `exeunt runs` shows which, and `exeunt explain` why.",
        PER_MINUTE,
        promql(f"{per_minute('exeunt_outcomes_total', by='cause, verdict')} > 0", "{{cause}}: {{verdict}}"),
        bars=True,
        width=8,
    ).override_by_regexp("/: failed$/", RED),
)

BURN_RATE: Final = (
    graph(
        "Error budget burn rate",
        "How many times faster than sustainable late stops spend the error budget of 0.1 %. It pages when both windows"
        " of a pair are above their line: 14.4 for 1 h and 5 min, 6 for 6 h and 30 min. No line: no stops.",
        COUNT,
        promql(_burn("1h"), "1 h (line at 14.4)"),
        promql(_burn("5m"), "5 min (line at 14.4)"),
        promql(_burn("6h"), "6 h (line at 6)"),
        promql(_burn("30m"), "30 min (line at 6)"),
        limits=red_from(14.4, orange=6),
        width=24,
    ).override_by_regexp("/ min /", DASHED),
)

LOGS: Final = (
    log_lines(
        "Stops in trouble",
        "Warnings and errors of the services, newest first. `stop not done yet`: a stop is retried until its error"
        " goes away. `overdue`: the sweep published it again. `dead letter`: it was dead-lettered. `exeunt"
        " explain` takes the run that a line names. Only this panel needs Loki.",
        f"{LINES} | json | level =~ `warning|error|critical`",
        order=LogsSortOrder.DESCENDING,
        height=10,
        width=24,
    ),
)


def board() -> dashboard.Dashboard:
    return frame(
        "Exeunt / Stops",
        uid="exeunt-stops",
        description="Is every stop on time, what is stuck, and why.",
        sources=("prometheus", "loki"),
        refresh="30s",
        rows=(
            ("At a glance", AT_A_GLANCE),
            ("Stops", STOPS),
            ("Burn rate", BURN_RATE),
            ("Deadlines", DEADLINES),
            ("Watcher", WATCHER),
            ("LiveKit bridge", LIVEKIT),
            ("JetStream", JETSTREAM),
            ("Kubernetes API", KUBERNETES),
            ("Processes", PROCESSES),
            ("Logs", LOGS),
        ),
    ).links(
        [
            link("One run", "/d/exeunt-run", "The traces and logs of one run"),
            link("Runbooks", "https://github.com/bubustack/exeunt/tree/main/docs/runbooks", "What to do, by alert"),
        ]
    )
