"""Draws a dashboard as Grafana would show it, for docs/: its grid, and the answers to its queries.

Grafana itself cannot run where the project is built; what counts are the queries' answers, and these are real. Colours
are those of thresholds, mappings and overrides, and otherwise by the order of the series, as in Grafana's palette. As
there, the 24 columns share the width of the window, and on a phone panels stand below each other. Left out are
exemplars, the figures in legends, and log lines, which are not Prometheus', with their row.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from actors.grafana import Panel, Query, formatted
from exeunt_local.prometheus import Prometheus, Series

_COLUMNS, _LINE, _DOTS = 24, 0.34, 100
"""Columns of the grid, inches of one of its lines, and pixels of an inch."""
_PHONE = 769
"""Pixels below which Grafana puts panels below each other."""
_COLORS = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff9830", "yellow": "#fade2a", "blue": "#5794f2"}
_SERIES = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d", "#ffcb7d", "#c4162a")
_LEGEND_LINES = 3


class _Scheme(NamedTuple):
    paper: str
    card: str
    ink: str
    faint: str


_SCHEMES = {
    "dark": _Scheme("#111217", "#181b1f", "#ccccdc", "#3a3d45"),
    "light": _Scheme("#f4f5f5", "#ffffff", "#24292e", "#d4d6d9"),
}


class _Card(NamedTuple):
    """Where a panel is drawn: `width` in inches, with its edges."""

    axes: Axes
    width: float
    scheme: _Scheme


Answers = list[tuple[Query, list[Series]]]
"""What Prometheus said to each query of a panel."""


async def record(
    prometheus: Prometheus, panels: list[Panel], variables: Mapping[str, str], *, start: float, end: float
) -> list[tuple[Panel, Answers]]:
    """What there is to draw between two times, in Unix seconds; raises QueryRefused."""
    step = math.ceil(max(1, (end - start) / 200))  # whole, so that the times of all series are the same
    return [
        (
            panel,
            [
                (query, await prometheus.query_range(query.interpolated(variables), start=start, end=end, step=step))
                for query in panel.queries
            ],
        )
        for panel in _drawn(panels)
    ]


def _drawn(panels: list[Panel]) -> list[Panel]:
    """Those that can be drawn, and no row that has none of them."""
    found = [panel for panel in panels if panel.kind in _KINDS]
    return [
        panel
        for panel, after in pairwise([*found, None])
        if panel is not None and not (panel.kind == "row" and (after is None or after.kind == "row"))
    ]


def draw(
    recorded: list[tuple[Panel, Answers]],
    path: Path,
    *,
    rows: int | None = None,
    width: int = 1280,
    scheme: str = "dark",
) -> None:
    """Writes the picture, in the format that the name says: of the whole board, or of its first rows; for a window of
    `width` pixels, in Grafana's `light` or `dark`.
    """
    starts = [number for number, (panel, _) in enumerate(recorded) if panel.kind == "row"]
    if rows is not None and rows < len(starts):
        recorded = recorded[: starts[rows]]
    if width < _PHONE:
        recorded = list(_below_each_other(recorded))
    lines = max(panel.y + panel.height for panel, _ in recorded)
    figure = Figure(figsize=(width / _DOTS, lines * _LINE), facecolor=_SCHEMES[scheme].paper)
    for panel, answers in recorded:
        _KINDS[panel.kind](_card(figure, panel, _SCHEMES[scheme]), panel, answers)
    figure.savefig(path, dpi=_DOTS, facecolor=_SCHEMES[scheme].paper)


def _below_each_other(recorded: list[tuple[Panel, Answers]]) -> Iterator[tuple[Panel, Answers]]:
    line = 0
    for panel, answers in recorded:
        yield replace(panel, x=0, y=line, width=_COLUMNS), answers
        line += panel.height


def _card(figure: Figure, panel: Panel, scheme: _Scheme) -> _Card:
    """The panel's place: its card and title, and the axes inside."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    column = width / _COLUMNS
    left, bottom, across = panel.x * column, height - (panel.y + panel.height) * _LINE, panel.width * column
    gap = 0.05
    if panel.kind != "row":
        figure.add_artist(
            Rectangle(
                ((left + gap) / width, (bottom + gap) / height),
                (across - 2 * gap) / width,
                (panel.height * _LINE - 2 * gap) / height,
                facecolor=scheme.card,
                edgecolor=scheme.faint,
                linewidth=0.5,
                zorder=-1,
            )
        )
    top = bottom + panel.height * _LINE
    size = 12 if panel.kind == "row" else 10
    title = _cut(panel.title, int((across - 0.3) * _TITLE / size))
    figure.text(
        (left + 0.15) / width, (top - 0.12) / height, title, color=scheme.ink, size=size, va="top", weight="bold"
    )
    margins = (0.75, 0.78, 0.2, 0.42) if panel.kind not in ("row", "stat") else (0.1, 0.1, 0.1, 0.35)
    inner_width = across - margins[0] - margins[2]
    inner_height = max(panel.height * _LINE - margins[1] - margins[3], 0.1)
    axes = figure.add_axes(
        ((left + margins[0]) / width, (bottom + margins[1]) / height, inner_width / width, inner_height / height),
        facecolor=scheme.card,
    )
    axes.tick_params(colors=scheme.ink, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return _Card(axes, across, scheme)


_TITLE = 115
"""Characters of a bold title that an inch holds, at a size of one point."""


def _cut(title: str, most: int) -> str:
    """As Grafana shows a title for which there is no room."""
    return title if len(title) <= most else f"{title[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def _row(card: _Card, _panel: Panel, _answers: Answers) -> None:
    card.axes.set_axis_off()


def _stat(card: _Card, panel: Panel, answers: Answers) -> None:
    axes, ink, room = card.axes, card.scheme.ink, card.width / max(1, len(answers))
    axes.set_axis_off()
    for number, (query, found) in enumerate(answers):
        value = float(found[0]["values"][-1][1]) if found else math.nan
        field = panel.field(query.legend)
        text, color = field.text(value), _COLORS.get(field.color(value) or "", ink)
        across = (number + 0.5) / len(answers)
        size = min(20.0, room * 68 / len(text))
        axes.text(across, 0.55, text, color=color, size=size, ha="center", va="center", weight="bold")
        if len(answers) > 1:
            size = min(8.0, room * 115 / len(query.legend))
            axes.text(across, 0.1, query.legend, color=ink, size=size, ha="center", va="center")


def _timeseries(card: _Card, panel: Panel, answers: Answers) -> None:
    axes, scheme = card.axes, card.scheme
    times, rows, names = _table(answers)
    custom = panel.field().options.get("custom", {})
    if not names:
        axes.text(0.5, 0.5, panel.field().text(math.nan), color=scheme.ink, transform=axes.transAxes, ha="center")
    elif custom.get("stacking", {}).get("mode") == "normal":
        colors = [_color(panel, name, number) for number, name in enumerate(names)]
        axes.stackplot(times, np.nan_to_num(rows), labels=names, colors=colors, step="mid", linewidth=0)  # type: ignore[arg-type]
    else:
        for number, (row, name) in enumerate(zip(rows, names, strict=True)):
            color, style = _color(panel, name, number), "--" if panel.field(name).dashed else "-"
            axes.plot(times, row, color=color, linestyle=style, linewidth=1.2, label=name)  # type: ignore[arg-type]
    if custom.get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    if custom.get("thresholdsStyle"):
        _limits(axes, panel)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, panel.field().unit)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=scheme.faint, linewidth=0.4)
    _time_axis(axes)
    _legend(card, names)


def _color(panel: Panel, name: str, number: int) -> str:
    """Of a series: its own, or that of its place in the palette."""
    return _COLORS.get(panel.field(name).fixed_color or "", _SERIES[number % len(_SERIES)])


def _limits(axes: Axes, panel: Panel) -> None:
    """The thresholds, as lines; the scale is that of the data."""
    shown = axes.get_ylim()
    for step in panel.field().options["thresholds"]["steps"]:
        if step.get("value"):
            axes.axhline(step["value"], color=_COLORS[step["color"]], linewidth=0.8, linestyle="--")
    axes.set_ylim(shown)


def _legend(card: _Card, names: list[str]) -> None:
    if not names:
        return
    handles, labels = card.axes.get_legend_handles_labels()
    columns = max(1, int(card.width * 11 / (max(map(len, labels)) + 5)))
    room = columns * _LEGEND_LINES
    card.axes.legend(
        handles[:room], labels[:room], loc="upper left", bbox_to_anchor=(-0.02, -0.14), ncols=columns, fontsize=8,
        frameon=False, labelcolor=card.scheme.ink, borderaxespad=0, columnspacing=1, handlelength=1, labelspacing=0.2,
    )  # fmt: skip


def _heatmap(card: _Card, _panel: Panel, answers: Answers) -> None:
    """Buckets by their upper limit, as Prometheus has them: each holds those below it, too."""
    axes = card.axes
    times, rows, names = _table(answers)
    if not names:
        return
    limits = np.array(list(map(float, names)))
    order = np.argsort(limits)
    counts = np.diff(rows[order], axis=0, prepend=0)
    axes.pcolormesh(times, np.arange(len(order)), np.ma.masked_less(counts, 1e-9), cmap="YlOrRd_r", shading="nearest")  # type: ignore[arg-type]
    axes.set_yticks(range(len(order)), [formatted(limits[place], "s") for place in order])
    _time_axis(axes)


def _state_timeline(card: _Card, _panel: Panel, answers: Answers) -> None:
    """A band for each series: green while it is 1, red while it is 0."""
    axes = card.axes
    times, rows, names = _table(answers)
    there = ListedColormap([_COLORS["red"], _COLORS["green"]])
    axes.pcolormesh(times, np.arange(len(names)), rows, cmap=there, vmin=0, vmax=1, shading="nearest", alpha=0.6)  # type: ignore[arg-type]
    axes.set_yticks([])
    for number, name in enumerate(names):
        axes.text(
            0.01,
            (number + 0.5) / len(names),
            name,
            color=card.scheme.ink,
            size=7,
            va="center",
            transform=axes.transAxes,
        )
    _time_axis(axes)


def _table(answers: Answers) -> tuple[list[datetime], np.ndarray[tuple[int, int], np.dtype[np.float64]], list[str]]:
    """The times, a row of values for each series, NaN where it has none, and the names of the series."""
    named = [(query.name(series), series) for query, found in answers for series in found]
    known = sorted({moment for _, series in named for moment, _ in series["values"]})
    step = min((after - before for before, after in pairwise(known)), default=1.0)
    moments = [known[0] + step * number for number in range(round((known[-1] - known[0]) / step) + 1)] if known else []
    place = {round(moment, 3): number for number, moment in enumerate(moments)}
    rows = np.full((len(named), len(moments)), np.nan)
    for row, (_, series) in zip(rows, named, strict=True):
        for moment, value in series["values"]:
            row[place[round(moment, 3)]] = float(value)
    return [datetime.fromtimestamp(moment, UTC) for moment in moments], rows, [name for name, _ in named]


def _time_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=4))  # type: ignore[no-untyped-call]


_KINDS = {
    "row": _row,
    "stat": _stat,
    "timeseries": _timeseries,
    "state-timeline": _state_timeline,
    "heatmap": _heatmap,
}
