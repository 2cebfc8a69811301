"""The Grafana dashboards: what they show exists, they show all that exists, and every link arrives.

Whether their queries return anything is asked of a real Prometheus, in mesh/test_prometheus.py.
"""

import io
import json
import logging
import math
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
import yaml  # type: ignore[import-untyped]
from opentelemetry.sdk.trace import TracerProvider

import generate
from actors.grafana import panels
from actors.installation import DEPLOY, kustomize, with_components
from actors.prometheus_rules import rules
from exeunt.run.cancellations import Cancellation
from exeunt.settings import Settings
from exeunt.telemetry import semconv
from exeunt.telemetry.instruments import Histogram, Instrument
from exeunt.telemetry.logs import configure_logs
from exeunt.telemetry.metrics import CAUSES, INSTRUMENTS
from exeunt.telemetry.tracing import start_tracing

Json = dict[str, Any]

BOARDS: Final[dict[str, Json]] = {path.stem: json.loads(text) for path, text in generate.boards()}
PANELS: Final = [
    pytest.param(board, panel, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
STOPS: Final = {panel.title: panel for panel in panels(generate.FOLDER / "stops.json")}
SOURCES: Final[list[Json]] = yaml.safe_load((DEPLOY / "components/grafana-datasources/datasources.yaml").read_text())[
    "datasources"
]
each_panel = pytest.mark.parametrize(("board", "panel"), PANELS)

PROMETHEUS_ADDS: Final = {"namespace", "pod", "instance", "job", "service_name"}
RECORDED: Final = {rule["record"] for rule in rules() if "record" in rule}
OF_ALERTS: Final = {"alertname", "alertstate", *(label for rule in rules() for label in rule.get("labels", ()))}
OF_TARGET_INFO: Final = {"service_name", "service_instance_id", "namespace"}
GROUPING: Final = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")
BUILT_IN: Final = re.compile(r"__\w+")


def queries(kind: str) -> list[str]:
    """What is asked of all data sources of one kind: by panels, and by the links of data sources."""
    key = {"prometheus": "expr", "loki": "expr", "tempo": "query"}[kind]
    asked = [
        target[key]
        for board in BOARDS.values()
        for panel in board["panels"]
        for target in panel.get("targets", ())
        if target["datasource"]["type"] == kind
    ]
    tempo = next(source["jsonData"] for source in SOURCES if source["type"] == "tempo")
    if kind == "prometheus":
        asked += [query["query"] for query in tempo["tracesToMetrics"]["queries"]]
    if kind == "loki":
        asked.append(tempo["tracesToLogsV2"]["query"].replace("$$", "$"))
    return asked


def instrument(metric: str) -> Instrument:
    """The one that a metric of Prometheus comes from; KeyError if there is none."""
    by_name = {
        i.name + suffix: i
        for i in INSTRUMENTS
        for suffix in (("_bucket", "_sum", "_count") if isinstance(i, Histogram) else ("",))
    }
    return by_name[metric]


def labels_of(metric: str) -> set[str]:
    if metric == "target_info":
        return PROMETHEUS_ADDS | OF_TARGET_INFO
    if metric == "ALERTS":
        return PROMETHEUS_ADDS | OF_ALERTS
    if metric.startswith("process_") or metric in RECORDED:
        return set(PROMETHEUS_ADDS)
    return PROMETHEUS_ADDS | {*instrument(metric).labels, *(["le"] if metric.endswith("_bucket") else [])}


def metrics_of(expr: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each metric in `expr`, with the matchers of its selector."""
    for metric, selector in re.findall(
        r"\b((?:exeunt|process)_\w+|exeunt:[\w:]+|target_info|ALERTS)\b(?:\{([^}]*)\})?", expr
    ):
        yield metric, dict(re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', selector))


@pytest.mark.parametrize(("path", "text"), [pytest.param(*board, id=board[0].name) for board in generate.boards()])
def test_the_json_is_what_the_code_says(path: Path, text: str) -> None:
    assert path.read_text() == text


def test_a_drifted_dashboard_fails_the_check_with_the_command_that_fixes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["generate.py"])
    generate.main()
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit, match="0"):
        generate.main()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SystemExit, match="1"):
        generate.main()
    assert capsys.readouterr().err == f"{tmp_path / 'run.json'} is not what the code says: run `make docs`\n"


def test_what_others_link_to_is_stable_and_unique() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == {"stops": "exeunt-stops", "run": "exeunt-run"}
    for board in BOARDS.values():
        assert "id" not in board, "the id belongs to one Grafana"
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)


@each_panel
def test_a_panel_says_what_it_is_and_asks_a_source_that_can_be_chosen(board: Json, panel: Json) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 40
    if panel["type"] == "text":
        return
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["noValue"]
    source = panel["datasource"]
    chosen = {v["name"]: v["query"] for v in board["templating"]["list"] if v["type"] == "datasource"}
    assert chosen[source["uid"].strip("${}")] == source["type"]
    assert panel["targets"]
    assert all(target["datasource"] == source for target in panel["targets"])
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_asks_the_data_sources_that_we_bring_first(name: str) -> None:
    brought = {source["type"]: (source["name"], source["uid"]) for source in SOURCES}
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] == "datasource":
            current = variable["current"]
            assert (current["text"], current["value"]) == brought[variable["query"]]


def test_only_the_operators_dashboard_asks_by_itself() -> None:
    assert {name: board["refresh"] for name, board in BOARDS.items()} == {"stops": "30s", "run": ""}


@pytest.mark.parametrize(
    ("title", "text", "color"),
    [
        ("Service level", "no stops", "text"),
        ("Stops under way", "no watcher", "red"),
        ("Alerts that fire", "no rules", "text"),
        ("Services up", "none", "red"),
        ("What services lack", "no service", "red"),
        ("Drain time saved", "no data", "text"),
        ("Dead letters", "no data", "text"),
    ],
)
def test_a_missing_figure_is_neither_good_nor_bad_unless_nobody_is_there(title: str, text: str, color: str) -> None:
    figures = STOPS[title].queries
    assert figures
    for figure in figures:
        field = STOPS[title].field(figure.legend)
        assert (field.text(math.nan), field.color(math.nan)) == (text, color)


def test_a_figure_has_the_colour_of_its_threshold() -> None:
    in_time, overdue = STOPS["Service level"].field("in time (30 d)"), STOPS["Stops under way"].field("overdue")
    assert (in_time.color(0.9985), in_time.color(1)) == ("red", "green")
    assert (overdue.color(0), overdue.color(0.5), overdue.color(1)) == ("green", "orange", "red")


def test_the_error_budget_is_that_of_the_objectives_30_days_whatever_the_time_range() -> None:
    asked = {figure.legend: figure.expression for figure in STOPS["Service level"].queries}
    for figure in ("in time (30 d)", "budget left (30 d)"):
        assert set(re.findall(r"\[(.*?)\]", asked[figure])) == {"30d"}
    assert re.fullmatch(r"clamp_min\(.*, -1\)", asked["budget left (30 d)"])
    assert set(re.findall(r"\[(.*?)\]", asked["> 1 s after deadline"])) == {"$__range"}


def test_a_series_looks_as_its_name_says() -> None:
    latency, causes = STOPS["Own time: cause published until written"], STOPS["Stops by cause"]
    assert (latency.field("gone p99").dashed, latency.field("gone p50").dashed) == (False, True)
    assert (causes.field("gone").fixed_color, causes.field("not by Exeunt").fixed_color) == (None, "red")


@pytest.mark.parametrize("name", BOARDS)
def test_panels_fit_beside_each_other(name: str) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in BOARDS[name]["panels"]]
    for title, place in places:
        assert place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, f"{one!r} and {other!r} overlap"


@pytest.mark.parametrize("name", BOARDS)
def test_a_variable_that_is_used_is_there(name: str) -> None:
    board = BOARDS[name]
    known = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([board["panels"], board["templating"]])))
    assert {variable for variable in used if not BUILT_IN.fullmatch(variable)} <= known
    assert known <= used, "a variable that nothing uses"


@pytest.mark.parametrize("expr", queries("prometheus"))
def test_metrics_and_labels_exist(expr: str) -> None:
    assert [*metrics_of(expr)]
    grouped = {name for names in GROUPING.findall(expr) for name in names.split(", ")}
    for metric, matchers in metrics_of(expr):
        labels = labels_of(metric)
        assert matchers.keys() <= labels, metric
        if metric != "target_info":
            assert grouped <= labels | (OF_TARGET_INFO if "target_info" in expr else set()), metric
        if "le" in matchers:
            histogram = instrument(metric)
            assert isinstance(histogram, Histogram)
            assert matchers["le"] in {str(float(limit)) for limit in histogram.buckets}
        if "cause" in matchers:
            assert matchers["cause"] in CAUSES.values()


@each_panel
def test_a_query_keeps_to_the_chosen_namespaces_and_its_legend_to_its_labels(board: Json, panel: Json) -> None:
    assert "namespace" in {variable["name"] for variable in board["templating"]["list"]}
    for target in panel.get("targets", ()):
        if target["datasource"]["type"] == "prometheus":
            expr, legend = target["expr"], target["legendFormat"]
            assert all(matchers["namespace"] == "$namespace" for _, matchers in metrics_of(expr)), expr
            grouped = {name for names in GROUPING.findall(expr) for name in names.split(", ")}
            assert set(re.findall(r"{{(\w+)}}", legend)) <= grouped, legend


@each_panel
def test_a_latency_leads_to_its_traces(board: Json, panel: Json) -> None:
    spread = [target for target in panel.get("targets", ()) if re.search(r"\(le\)|, le\)", target.get("expr", ""))]
    assert not spread or any(target["exemplar"] for target in spread), board["title"]


def test_every_metric_is_shown() -> None:
    shown = {instrument(metric).name for expr in queries("prometheus") for metric, _ in metrics_of(expr)
             if metric.startswith("exeunt_")}  # fmt: skip
    assert shown == {i.name for i in INSTRUMENTS}


def test_traces_are_searched_by_attributes_that_spans_have() -> None:
    names = {value for name, value in vars(semconv).items() if name.isupper()}
    searched = [
        attribute for query in queries("tempo") for attribute in re.findall(r"(?:span|resource)\.([\w.]+)", query)
    ]
    assert semconv.STORY_RUN_NAME in searched
    assert {*searched} <= names
    tempo = next(source["jsonData"] for source in SOURCES if source["type"] == "tempo")
    assert tempo["spanBar"]["tag"] in names


@pytest.fixture
def lines() -> Iterator[tuple[str, str]]:
    """Two lines of the log about a run, from within a span: a decision, and a warning."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    out = io.StringIO()
    configure_logs(Settings(log_format="json"), service="exeunt-test", stream=out)
    structlog.contextvars.bind_contextvars(run=str(Cancellation("voice", "call-7", "870cba24", "first")))
    start_tracing()
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("hop"):
        structlog.get_logger().info("finalize", rule="topology-gone")
        structlog.get_logger().warning("stop not done yet", error="503")
    decision, warning = out.getvalue().splitlines()
    yield decision, warning
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def filled(query: str, **variables: str) -> str:
    return re.sub(r"\$\{?(\w+)(?:\.traceId)?\}?", lambda found: variables[found[1]], query)


def keeps(query: str, line: str) -> bool:
    """Whether the filters of a LogQL query let `line` through, as far as our queries go."""
    fields = json.loads(line)
    for field, operator, wanted in re.findall(r"\|\s*(\w*)\s*(=~|!=|=) `([^`]*)`", query):
        match field, operator:
            case "", "=":
                kept = wanted in line
            case _, "=~":
                kept = re.fullmatch(wanted, fields[field]) is not None
            case _, "=":
                kept = fields[field] == wanted
            case _:
                kept = fields[field] != wanted
        if not kept:
            return False
    return True


def test_logs_are_searched_by_what_lines_have(lines: tuple[str, str]) -> None:
    line, warning = lines
    trace = json.loads(line)["trace_id"]
    mine = {"run_namespace": "voice", "run": "call-7", "uid": "", "trace": trace, "__trace": trace, "namespace": ".*"}
    assert len(queries("loki")) == 4
    for query in queries("loki"):
        assert keeps(filled(query, **mine), warning)
        assert keeps(filled(query, **mine), line) == ("level" not in query)
        if "$run" in query:
            assert keeps(filled(query, **mine | {"uid": "870cba24"}), line)
            assert not keeps(filled(query, **mine | {"uid": "1111"}), line)
            assert not keeps(filled(query, **mine | {"run": "call"}), line)
            assert not keeps(filled(query, **mine | {"run_namespace": "other"}), line)
        elif "trace" in query:
            assert not keeps(filled(query, **mine | {"trace": "f" * 32, "__trace": "f" * 32}), line)


@pytest.mark.parametrize("name", BOARDS)
def test_all_namespaces_are_those_of_exeunt(name: str) -> None:
    """Grafana then puts in the ones that the variable lists; `.*` would match containers of others, too."""
    (variable,) = [v for v in BOARDS[name]["templating"]["list"] if v["name"] == "namespace"]
    assert variable["includeAll"]
    assert variable["query"]["query"] == "label_values(exeunt_dependency_up, namespace)"
    assert variable.get("allValue") is None


def test_logs_are_those_of_containers_that_there_are() -> None:
    workloads = [*yaml.safe_load_all((DEPLOY / "base/deployments.yaml").read_text())]
    names = {
        container["name"] for workload in workloads for container in workload["spec"]["template"]["spec"]["containers"]
    }
    (namespace,) = {workload["metadata"]["namespace"] for workload in workloads}
    for query in queries("loki"):
        (selector,) = re.findall(r"^{([^}]*)}", query)
        assert re.findall(r'container="([^"]*)"', selector) == [*names]
        assert selector.startswith(('namespace=~"$namespace"', f'namespace="{namespace}"')), selector


def test_data_sources_lead_to_each_other_and_to_a_run(lines: tuple[str, str]) -> None:
    uids = {source["uid"]: source["type"] for source in SOURCES}
    assert uids == {"exeunt-prometheus": "prometheus", "exeunt-tempo": "tempo", "exeunt-loki": "loki"}
    settings = {source["type"]: source["jsonData"] for source in SOURCES}
    exemplars, derived = settings["prometheus"]["exemplarTraceIdDestinations"], settings["loki"]["derivedFields"]
    for leads, to in (
        (settings["tempo"]["tracesToLogsV2"], "loki"),
        (settings["tempo"]["tracesToMetrics"], "prometheus"),
        (exemplars[0], "tempo"),
        (derived[0], "tempo"),
    ):
        assert uids[leads["datasourceUid"]] == to
    for destination in exemplars:
        assert destination["name"] == "trace_id"
    for field in derived:
        for line in lines:
            found = re.search(field["matcherRegex"], line)
            assert found is not None
            assert found[1] == json.loads(line)["trace_id"]


def test_links_lead_to_dashboards_and_variables_that_there_are() -> None:
    inside = re.findall(r"/d/([\w-]+)(?:\?([^\"' ]*))?", json.dumps([BOARDS, SOURCES]))
    assert {uid for uid, _ in inside} == {"exeunt-run", "exeunt-stops"}
    known = {variable["name"] for variable in BOARDS["run"]["templating"]["list"]}
    carried = {name for _, query in inside for name in re.findall(r"var-(\w+)=|\${(\w+):queryparam}", query)}
    assert {one or other for one, other in carried} == known


def test_a_link_of_a_data_source_keeps_the_time_range() -> None:
    urls = [link["url"] for source in SOURCES for links in source["jsonData"].values() if isinstance(links, list)
            for link in links if link.get("url", "").startswith("/d/")]  # fmt: skip
    # Twice `$`: the first one is for the provisioning of Grafana, which makes one of both.
    assert urls == ["/d/exeunt-run?var-trace=$${__value.raw}&$${__url_time_range}"] * 2


def test_a_row_of_a_search_leads_to_its_trace() -> None:
    """Each kind of table has the id of the trace in a column of its own; in one of spans that column is hidden."""
    expected = {"traces": ("Trace ID", "${__value.raw}"), "spans": ("Span ID", "${__data.fields.traceIdHidden}")}
    searches = {
        panel["targets"][0]["tableType"]: panel for panel in BOARDS["run"]["panels"] if panel["type"] == "table"
    }
    assert searches.keys() == expected.keys()
    for kind, panel in searches.items():
        column, trace_id = expected[kind]
        ((override, link),) = [
            (override, link)
            for override in panel["fieldConfig"]["overrides"]
            for item in override["properties"]
            if item["id"] == "links"
            for link in item["value"]
        ]
        assert re.search(override["matcher"]["options"].strip("/"), column)
        assert link["url"].endswith(f"&var-trace={trace_id}")


async def test_kustomize_brings_both_to_the_sidecars_of_grafana(tmp_path: Path) -> None:
    built = yaml.safe_load_all(await kustomize(with_components(tmp_path, "grafana", "grafana-datasources")))
    maps = {item["metadata"]["name"]: item for item in built if item["kind"] == "ConfigMap"}
    dashboards, sources = maps["exeunt-dashboards"], maps["exeunt-datasources"]
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["metadata"]["annotations"]["grafana_folder"] == "Exeunt"
    assert dashboards["data"] == {path.name: text for path, text in generate.boards()}
    assert sources["metadata"]["labels"]["grafana_datasource"] == "1"
    assert yaml.safe_load(sources["data"]["exeunt-datasources.yaml"])["datasources"] == SOURCES
