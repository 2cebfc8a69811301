"""The dashboard "Exeunt / One run": the traces and logs of one run, and panels to reach them from.

Type the run's namespace and name, or follow an exemplar, which sets `trace`. The rows follow the order of an
investigation: which stop, its trace, its log lines, and how it compares with others.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, table, tempo, text
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.tempo import SearchTableType
from grafana_foundation_sdk.models.text import TextMode

from dashboards.logs import LINES, log_lines
from dashboards.panels import COUNT, HERE, SECONDS, TEMPO, distribution, frame, latencies, link, red_from
from exeunt.telemetry import semconv

LATENCY: Final = "exeunt_stop_latency_seconds"

SPANS: Final = " && ".join(
    (
        f'resource.{semconv.SERVICE_NAME} =~ "exeunt-.*"',
        f'span.{semconv.STORY_RUN_NAME} = "$run"',
        f'span.{semconv.K8S_NAMESPACE} = "$run_namespace"',
        f'span.{semconv.MESSAGING_CONVERSATION_ID} =~ "$uid.*"',
    )
)
"""Of the run, and of one uid if given."""
DECISIONS: Final = f"{{ {SPANS} && span.{semconv.VERDICT} != nil }} | select(" + ", ".join(
    f"span.{name}" for name in (semconv.VERDICT, semconv.RULE, semconv.STOP_LATENCY, semconv.DELIVERY)
) + ")"  # fmt: skip

LINES_OF_RUN: Final = f"{LINES} |= `$run_namespace/$run ($uid` | json | run =~ `$run_namespace/$run [(]$uid.*`"
LINES_OF_TRACE: Final = f"{LINES} |= `$trace` | json | trace_id = `$trace` | trace_id != ``"

KEPT: Final = ("prometheus", "tempo", "loki", "namespace", "run_namespace", "run", "uid")
SHOW: Final = "/d/exeunt-run?" + "".join(f"${{{name}:queryparam}}&" for name in KEPT) + "${__url_time_range}&var-trace="
"""This page with another trace, whose id follows."""
IDS: Final = {
    SearchTableType.TRACES: ("/^(traceID|Trace ID)$/", "${__value.raw}"),
    SearchTableType.SPANS: ("/^(spanID|Span ID)$/", "${__data.fields.traceIdHidden}"),
}
"""For each kind of table the column to click, by its names, and where the trace id is."""

COMMANDS: Final = """Type the namespace and the name of a run above, and its uid if several runs have had that name.
Then click one of its traces. What NATS has recorded of the same run, in sentences and as a table:

```console
$ exeunt explain $run_namespace/$run
$ exeunt timeline $run_namespace/$run
```

Which run? `exeunt runs` lists recent stops. If you followed an exemplar, its trace is shown below: the spans carry the
name (`bobrapet.storyrun.name`) and the namespace (`k8s.namespace.name`).
"""


def _commands() -> text.Panel:
    return (
        text.Panel()
        .title("$run_namespace/$run")
        .description("How to use this page, and the commands that tell more about this run.")
        .mode(TextMode.MARKDOWN)
        .content(COMMANDS)
        .height(9)
        .span(8)
    )


def _search(title: str, description: str, query: str, found: SearchTableType, *, width: int) -> table.Panel:
    target = tempo.TempoQuery().datasource(TEMPO).query_type("traceql").query(query).table_type(found)
    column, trace_id = IDS[found]
    show = [{"title": "Show this trace below", "url": SHOW + trace_id}]
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(TEMPO)
        .with_target(target.limit(50).spss(20).ref_id("A"))
        .unit(COUNT)
        .no_value("no trace: is the name right, the time range wide enough, and tracing on?")
        .show_header(True)
        .cell_height(looks.TableCellHeight.SM)
        .override_by_regexp(f"/{semconv.STOP_LATENCY}$/", [model.DynamicConfigValue("unit", SECONDS)])
        .override_by_regexp(column, [model.DynamicConfigValue("links", show)])
        .height(9)
        .span(width)
    )


def _trace() -> dashboard.Panel:
    query = tempo.TempoQuery().datasource(TEMPO).query_type("traceql").query("$trace").ref_id("A")
    return (
        dashboard.Panel()
        .type("traces")
        .title("Trace $trace")
        .description("The whole trace: the stop, inside the trace of its run where bobrapet traces, too. The icon of a"
                     " span leads to its log lines and to metrics. Until a trace is chosen the id is empty, and Tempo"
                     " answers with an error.")
        .datasource(TEMPO)
        .with_target(query)
        .unit(COUNT)
        .no_value("click a trace above")
        .height(14)
        .span(24)
    )  # fmt: skip


STOP: Final = (
    _commands(),
    _search(
        "Traces of this run",
        "One per stop; a cancel after a redrive is another stop. Click an id to see the trace below.",
        f"{{ {SPANS} }}",
        SearchTableType.TRACES,
        width=8,
    ),
    _search(
        "Decisions of the terminator",
        "Each decision on an event: its verdict, the rule that applied, and, for the one that ended the run, the "
        "seconds"
        " since its cause. `exeunt explain` shows every step of each.",
        DECISIONS,
        SearchTableType.SPANS,
        width=8,
    ),
)
LOGS: Final = (
    log_lines(
        "Log lines about this run", "Of all three services, selected by the run that a line names.", LINES_OF_RUN
    ),
    log_lines("Log lines of this trace", "Lines that were logged within a span of the trace above.", LINES_OF_TRACE),
)
OTHERS: Final = (
    distribution(
        "Latency of all stops",
        "How to find a run from here: a dot is a stop; click it and choose `Show in Exeunt / One run`, or open its"
        " trace.",
        HERE,
    ),
    latencies(
        "Latency by cause",
        "Is only this run late, or were all at that time? The red line is the objective. A dot links to its trace.",
        LATENCY,
        limits=red_from(1),
    ),
)


def board() -> dashboard.Dashboard:
    built = frame(
        "Exeunt / One run",
        uid="exeunt-run",
        description="The traces and logs of one run, and how its stop compares with others.",
        sources=("prometheus", "tempo", "loki"),
        rows=(("The stop", STOP), ("Its trace", (_trace(),)), ("Its logs", LOGS), ("Among others", OTHERS)),
    )
    for name, label in (
        ("run_namespace", "Namespace of the run"),
        ("run", "Run"),
        ("uid", "uid (optional)"),
        ("trace", "Trace id"),
    ):
        built.with_variable(dashboard.TextBoxVariable(name).label(label).default_value(""))
    return built.links([link("All stops", "/d/exeunt-stops", "Is every stop on time?")])
