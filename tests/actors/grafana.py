"""Plays Grafana: reads a dashboard's JSON as Grafana does, and asks a Prometheus what its panels ask.

Only what the dashboards of deploy/grafana use: PromQL targets, text variables, and the macros of the Prometheus data
source. `dashboard_drawing` draws the answers.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exeunt_local.prometheus import Prometheus, Series

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Query:
    """One target of a panel: its expression as written, and what its series are called."""

    expression: str
    legend: str = ""

    def interpolated(self, variables: Mapping[str, str]) -> str:
        """With variables (`namespace`, `__range`) put in; KeyError for one that is not known."""
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: variables[found[1] or found[2]], self.expression)

    def name(self, series: Series) -> str:
        """What the legend calls a series of the answer."""
        labels: Mapping[str, str] = series["metric"]
        if not self.legend or self.legend == "__auto":
            return ", ".join(value for key, value in labels.items() if key != "__name__")
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True)
class Field:
    """How the values of one series are shown."""

    options: Object

    @property
    def unit(self) -> str:
        return str(self.options.get("unit", "short"))

    def color(self, value: float) -> str | None:
        """The name of the colour that a mapping gives to no value, or that the thresholds give a value, if any do.

        Thresholds give the colour of the lowest values to no value, too.
        """
        if math.isnan(value) and "color" in self._of_nothing:
            return str(self._of_nothing["color"])
        steps = self.options.get("thresholds", {}).get("steps", [])
        reached = [step["color"] for step in steps if step.get("value") is None or value >= step["value"]]
        return reached[-1] if reached else None

    def text(self, value: float) -> str:
        """A value as people read it: in the field's unit, or what the panel says where there is none."""
        if math.isnan(value):
            return str(self._of_nothing.get("text", self.options.get("noValue", "-")))
        return formatted(value, self.unit)

    @property
    def fixed_color(self) -> str | None:
        """The name of the colour that a series has whatever its values, if one is set."""
        color = self.options.get("color", {})
        return str(color["fixedColor"]) if color.get("mode") == "fixed" else None

    @property
    def dashed(self) -> bool:
        return bool(self.options.get("custom.lineStyle", {}).get("fill") == "dash")

    @property
    def _of_nothing(self) -> Object:
        """What the field's mappings make of null and NaN: a text, a colour."""
        for mapping in self.options.get("mappings", []):
            if mapping["type"] == "special" and mapping["options"]["match"] == "null+nan":
                result: Object = mapping["options"]["result"]
                return result
        return {}


@dataclass(frozen=True)
class Panel:
    """One panel: where it is on the grid of 24 columns, what it asks, and how it shows that (`fieldConfig`)."""

    title: str
    kind: str
    x: int
    y: int
    width: int
    height: int
    queries: tuple[Query, ...]
    config: Object

    def field(self, name: str = "") -> Field:
        """How a series of that name is shown: the panel's defaults, and what it overrides by name or `/regexp/`."""
        options = dict(self.config.get("defaults", {}))
        for override in self.config.get("overrides", []):
            if _matches(override["matcher"], name):
                options |= {item["id"]: item["value"] for item in override["properties"]}
        return Field(options)


def _matches(matcher: Object, name: str) -> bool:
    if matcher["id"] == "byRegexp":
        return re.search(matcher["options"].removeprefix("/").removesuffix("/"), name) is not None
    return bool(matcher == {"id": "byName", "options": name})


def panels(dashboard: Path) -> list[Panel]:
    """The panels of a dashboard, those of collapsed rows too, in order."""
    return list(_panels(json.loads(dashboard.read_text())["panels"]))


def _panels(described: list[Object]) -> Iterator[Panel]:
    for panel in described:
        grid = panel["gridPos"]
        yield Panel(
            title=panel.get("title", ""),
            kind=panel["type"],
            x=grid.get("x", 0),
            y=grid.get("y", 0),
            width=grid["w"],
            height=grid["h"],
            queries=tuple(
                Query(target["expr"], target.get("legendFormat", ""))
                for target in panel.get("targets", [])
                if target.get("datasource", panel.get("datasource", {})).get("type") == "prometheus"
            ),
            config=panel.get("fieldConfig", {}),
        )
        yield from _panels(panel.get("panels", []))


def time_range(seconds: float, *, scraped_every: float) -> dict[str, str]:
    """The macros and variables for a dashboard that shows the last `seconds` of all installations."""
    step = max(scraped_every, seconds / 100)
    return {
        "namespace": ".*",
        "__range": f"{seconds:.0f}s",
        "__rate_interval": f"{max(step + scraped_every, 4 * scraped_every) * 1000:.0f}ms",
    }


async def ask(prometheus: Prometheus, panel: Panel, variables: Mapping[str, str]) -> list[list[Series]]:
    """What Prometheus has now for each query of a panel; raises QueryRefused."""
    return [await prometheus.query(query.interpolated(variables)) for query in panel.queries]


_SCALES = {
    "s": ((3600, 3600, " h"), (60, 60, " min"), (1, 1, " s"), (1e-3, 1e-3, " ms"), (0, 1e-6, " µs")),
    "bytes": ((2**30, 2**30, " GiB"), (2**20, 2**20, " MiB"), (2**10, 2**10, " KiB"), (0, 1, " B")),
    "percentunit": ((0, 0.01, "%"),),
}


def formatted(value: float, unit: str) -> str:
    """A value in one of Grafana's units: `0.0123` in `s` is `12.3 ms`."""
    if not value or math.isinf(value):
        return f"{value:g}"
    suffix = {"reqps": "/s"}.get(unit, unit.removeprefix("suffix:").rstrip() if unit.startswith("suffix:") else "")
    for least, divisor, scaled in _SCALES.get(unit, ((0, 1, suffix),)):
        if abs(value) >= least:
            return f"{value / divisor:.4g}{scaled}"
    return f"{value:g}"
