"""What both dashboards share: their frame, common PromQL, and common kinds of panels.

Every panel queries a data source chosen by a variable, and every PromQL selector is limited to the chosen namespaces of
Exeunt (`HERE`), so that one Grafana can show several installations.
"""

from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

HERE: Final = 'namespace=~"$namespace"'
PROMETHEUS: Final = model.DataSourceRef("prometheus", "${prometheus}")
TEMPO: Final = model.DataSourceRef("tempo", "${tempo}")
LOKI: Final = model.DataSourceRef("loki", "${loki}")

SECONDS: Final = "s"
SHARE: Final = "percentunit"
COUNT: Final = "short"
PER_MINUTE: Final = "suffix: /min"

DASHED: Final = [model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 6]})]
RED: Final = [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "red"})]
Steps = Sequence[tuple[float | None, str]]
"""Thresholds: each colour and the value it starts at; the first, None, is that of everything below."""
Rows = Sequence[tuple[str, Sequence[Builder[model.Panel]]]]


def red_from(limit: float, *, orange: float | None = None) -> Steps:
    between = () if orange is None else ((orange, "orange"),)
    return ((None, "green"), *between, (limit, "red"))


def green_from(limit: float, *, orange: float | None = None) -> Steps:
    between = () if orange is None else ((orange, "orange"),)
    return ((None, "red"), *between, (limit, "green"))


def per_minute(counter: str, *, by: str, only: str = "") -> str:
    selector = f"{HERE}, {only}" if only else HERE
    return f"60 * sum by ({by}) (rate({counter}{{{selector}}}[$__rate_interval]))"


def quantile(q: float, histogram: str, *, by: str = "") -> str:
    """NaN where there was nothing to measure; Grafana leaves it out."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{{{HERE}}}[$__rate_interval])))"


def promql(expr: str, legend: str, *, exemplar: bool = False) -> prometheus.Dataquery:
    """A query over the time range. `exemplar` also asks for the traces behind its histogram."""
    return prometheus.Dataquery().datasource(PROMETHEUS).expr(expr).legend_format(legend).range().exemplar(exemplar)


class Figure(NamedTuple):
    """One number of a tile: its name, an instant query, its unit, and its thresholds."""

    name: str
    expr: str
    unit: str
    steps: Steps = ((None, "green"),)
    decimals: int = 0


def tile(
    title: str, description: str, *figures: Figure, width: int, none: str = "no data", none_color: str = "text"
) -> stat.Panel:
    """Figures of now or of a whole time range, each with its own thresholds.

    A missing one shows `none` in `none_color`: Grafana would colour it like the lowest value.
    """
    first, *others = figures
    missing = model.DashboardSpecialValueMapOptions(
        model.SpecialValueMatch.NULL_AND_NAN, model.ValueMappingResult(none, none_color)
    )
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .targets(
            [
                promql(f.expr, f.name).instant().ref_id(ref)
                for ref, f in zip("ABC"[: len(figures)], figures, strict=True)
            ]
        )
        .unit(first.unit)
        .decimals(first.decimals)
        .thresholds(_thresholds(first.steps))
        .no_value(none)
        .mappings([model.SpecialValueMap(missing)])
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .text_mode(looks.BigValueTextMode.VALUE_AND_NAME if others else looks.BigValueTextMode.VALUE)
        .graph_mode(looks.BigValueGraphMode.NONE)
        .color_mode(looks.BigValueColorMode.BACKGROUND)
        .height(4)
        .span(width)
    )
    for figure in others:
        properties = [
            model.DynamicConfigValue("unit", figure.unit),
            model.DynamicConfigValue("decimals", figure.decimals),
            model.DynamicConfigValue("thresholds", _thresholds(figure.steps).build()),
        ]
        panel.override_by_name(figure.name, properties)
    return panel


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    limits: Steps = ((None, "green"),),
    bars: bool = False,
    log: bool = False,
    width: int = 12,
) -> timeseries.Panel:
    """Lines over time, or stacked bars. `limits` are drawn as lines; `log` suits values of several magnitudes."""
    scale = common.ScaleDistributionConfig().type(looks.ScaleDistribution.LOG).log(10)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .targets([query.ref_id(ref) for ref, query in zip("ABCDEFG"[: len(queries)], queries, strict=True)])
        .unit(unit)
        .no_value("nothing in this time range")
        .thresholds(_thresholds(limits))
        .draw_style(looks.GraphDrawStyle.BARS if bars else looks.GraphDrawStyle.LINE)
        .fill_opacity(60 if bars else 8)
        .line_width(1)
        .show_points(looks.VisibilityMode.AUTO)
        .stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL if bars else looks.StackingMode.NONE))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(looks.LegendDisplayMode.TABLE)
            .placement(looks.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
        .height(8)
        .span(width)
    )
    panel = panel.scale_distribution(scale) if log else panel.axis_soft_min(0)
    if len(limits) > 1:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    return panel


def latencies(
    title: str, description: str, histogram: str, *, limits: Steps = ((None, "green"),), width: int = 12
) -> timeseries.Panel:
    """A histogram of seconds by cause: its p99, which links to traces, and its median, dashed."""
    return graph(
        title,
        description,
        SECONDS,
        promql(quantile(0.99, histogram, by="cause"), "{{cause}} p99", exemplar=True),
        promql(quantile(0.5, histogram, by="cause"), "{{cause}} p50"),
        limits=limits,
        log=True,
        width=width,
    ).override_by_regexp("/ p50$/", DASHED)


def distribution(title: str, description: str, selector: str, *, width: int = 12) -> heatmap.Panel:
    """A heatmap of the latency of the stops in `selector`; a dot is an exemplar and links to its trace."""
    expr = f"sum by (le) (increase(exeunt_stop_latency_seconds_bucket{{{selector}}}[$__rate_interval]))"
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .with_target(promql(expr, "{{le}}", exemplar=True).format(PromQueryFormat.HEATMAP).ref_id("A"))
        .unit(COUNT)
        .no_value("no stops")
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Spectral").steps(64).reverse(True))
        .cell_values(heatmap.CellValues().unit("suffix: stops").decimals(0))
        .y_axis(heatmap.YAxisConfig().unit(SECONDS))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .exemplars_color("rgba(255,0,255,0.9)")
        .height(8)
        .span(width)
    )


def frame(
    title: str, *, uid: str, description: str, rows: Rows, sources: Sequence[str], refresh: str = ""
) -> build.Dashboard:
    """A dashboard with its rows, a variable for each kind of data source, and one for the namespaces of Exeunt.

    It refreshes every `refresh` ("30s"), or only on demand. The data sources of ../../components are preselected; where
    they do not exist, Grafana takes the first one of the kind. All namespaces are those that the variable lists.
    """
    board = build.Dashboard(title).uid(uid).description(description).tags(["exeunt"]).time("now-6h", "now")
    board.refresh(refresh).tooltip(model.DashboardCursorSync.CROSSHAIR)
    for source in sources:
        ours = model.VariableOption(False, f"{source.capitalize()} (Exeunt)", f"exeunt-{source}")
        board.with_variable(build.DatasourceVariable(source).label(source.capitalize()).type(source).current(ours))
    board.with_variable(
        build.QueryVariable("namespace")
        .label("Namespace of Exeunt")
        .datasource(PROMETHEUS)
        .query({"qryType": 1, "query": "label_values(exeunt_dependency_up, namespace)", "refId": "namespace"})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(model.VariableOption(True, ["All"], ["$__all"]))
    )
    ids = count(1)
    for row, panels in rows:
        board.with_row(build.Row(row).id(next(ids)))
        for panel in panels:
            panel.build().id_val = next(ids)  # the type Builder has no id(), and each kind of panel its own builder
            board.with_panel(panel)
    return board


def link(title: str, url: str, tooltip: str) -> build.DashboardLink:
    """A link beside the title; within Grafana it keeps the time range and the variables."""
    inside = url.startswith("/d/")
    to = build.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url).tooltip(tooltip)
    return to.icon("dashboard" if inside else "doc").keep_time(inside).include_vars(inside).target_blank(not inside)


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    colours = [model.Threshold(value, colour) for value, colour in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(colours)
