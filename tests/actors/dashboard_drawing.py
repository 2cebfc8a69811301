"""Draws a dashboard as Grafana would show it, for docs/: same grid, same queries, same colours.

Grafana itself cannot run where the project is built; what counts are the queries' answers, and these are real.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from actors.grafana import Panel, Query, formatted
from exeunt_local.prometheus import Prometheus, Series

_COLUMN, _LINE = 0.72, 0.34
"""Inches: one of the 24 columns, and one line of the grid."""
_PAPER, _CARD, _INK, _FAINT = "#111217", "#181b1f", "#ccccdc", "#3a3d45"
_COLORS = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff9830", "yellow": "#fade2a", "blue": "#5794f2"}
_SERIES = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d", "#ffcb7d", "#c4162a")
_LEGEND_LINES = 6

Answers = list[tuple[Query, list[Series]]]


async def draw(
    prometheus: Prometheus, panels: list[Panel], path: Path, variables: Mapping[str, str], *, start: float, end: float
) -> list[str]:
    """Draws what the panels show between two times (Unix seconds); returns the titles of those that have data."""
    drawn = [panel for panel in panels if panel.kind in _KINDS]
    lines = max(panel.y + panel.height for panel in drawn)
    figure = Figure(figsize=(24 * _COLUMN, lines * _LINE), facecolor=_PAPER)
    with_data = []
    for panel in drawn:
        answers: Answers = [
            (
                query,
                await prometheus.query_range(
                    query.interpolated(variables), start=start, end=end, step=max(1, (end - start) / 200)
                ),
            )
            for query in panel.queries
        ]
        if any(series for _, series in answers):
            with_data.append(panel.title)
        _KINDS[panel.kind](_card(figure, panel, lines), panel, answers)
    figure.savefig(path, dpi=100, facecolor=_PAPER)
    return with_data


def _card(figure: Figure, panel: Panel, lines: int) -> Axes:
    """The panel's place: its card and title, and the axes inside."""
    width, height = 24 * _COLUMN, lines * _LINE
    left, bottom = panel.x * _COLUMN, height - (panel.y + panel.height) * _LINE
    gap = 0.05
    if panel.kind != "row":
        figure.add_artist(
            Rectangle(
                ((left + gap) / width, (bottom + gap) / height),
                (panel.width * _COLUMN - 2 * gap) / width,
                (panel.height * _LINE - 2 * gap) / height,
                facecolor=_CARD,
                edgecolor=_FAINT,
                linewidth=0.5,
            )
        )
    top = bottom + panel.height * _LINE
    size = 11 if panel.kind == "row" else 9
    figure.text(
        (left + 0.15) / width, (top - 0.12) / height, panel.title, color=_INK, size=size, va="top", weight="bold"
    )
    margins = (0.75, 0.62, 0.2, 0.42) if panel.kind in ("timeseries", "heatmap") else (0.1, 0.1, 0.1, 0.35)
    inner_width = panel.width * _COLUMN - margins[0] - margins[2]
    inner_height = max(panel.height * _LINE - margins[1] - margins[3], 0.1)
    axes = figure.add_axes(
        ((left + margins[0]) / width, (bottom + margins[1]) / height, inner_width / width, inner_height / height),
        facecolor=_CARD,
    )
    axes.tick_params(colors=_INK, labelsize=7, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _row(axes: Axes, _panel: Panel, _answers: Answers) -> None:
    axes.set_axis_off()


def _stat(axes: Axes, panel: Panel, answers: Answers) -> None:
    axes.set_axis_off()
    last = [float(series["values"][-1][1]) for _, found in answers for series in found]
    for number, value in enumerate(last or [math.nan]):
        color = _COLORS.get(panel.color(value) or "", _INK)
        across = (number + 0.5) / max(len(last), 1)
        size = min(22.0, panel.width * 26 / max(len(panel.text(value)), 1))
        axes.text(across, 0.45, panel.text(value), color=color, size=size, ha="center", va="center", weight="bold")


def _timeseries(axes: Axes, panel: Panel, answers: Answers) -> None:
    number = 0
    for query, found in answers:
        for series in found:
            times, values = _samples(series)
            color = _SERIES[number % len(_SERIES)]
            label = query.name(series) if number < _LEGEND_LINES else None
            axes.plot(times, values, color=color, linewidth=1.2, label=label)  # type: ignore[arg-type]
            number += 1
    _time_axis(axes)
    axes.grid(color=_FAINT, linewidth=0.4)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, panel.unit)))
    if number:
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.14), ncols=3, fontsize=6.5, frameon=False, labelcolor=_INK,
            borderaxespad=0, columnspacing=1,
        )  # fmt: skip
    else:
        axes.text(0.5, 0.5, panel.text(math.nan), color=_INK, transform=axes.transAxes, ha="center")


def _heatmap(axes: Axes, _panel: Panel, answers: Answers) -> None:
    """Buckets by their upper limit, as Prometheus has them: each holds those below it, too."""
    limits = {float(series["metric"]["le"]): series for _, found in answers for series in found}
    if not limits:
        return
    order = sorted(limits)
    times = [moment for moment, _ in limits[order[0]]["values"]]
    cumulative = np.array([[float(value) for _, value in limits[limit]["values"]][: len(times)] for limit in order])
    counts = np.diff(cumulative, axis=0, prepend=0)
    axes.pcolormesh(
        [datetime.fromtimestamp(moment, UTC) for moment in times],  # type: ignore[arg-type]
        np.arange(len(order)),
        np.ma.masked_less_equal(counts, 0),
        cmap="YlOrRd_r",
        rasterized=True,
    )
    axes.set_yticks(range(len(order)), [formatted(limit, "s") for limit in order])
    _time_axis(axes)


def _samples(series: Series) -> tuple[list[datetime], list[float]]:
    return (
        [datetime.fromtimestamp(moment, UTC) for moment, _ in series["values"]],
        [float(value) for _, value in series["values"]],
    )


def _time_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=6))  # type: ignore[no-untyped-call]


_KINDS = {"row": _row, "stat": _stat, "gauge": _stat, "timeseries": _timeseries, "heatmap": _heatmap}
