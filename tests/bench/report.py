"""The figures, as a table for people and as JSON for machines."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.sides import AGAINST, EXEUNT, FLOOR, KOPF, LOOKING, WATCH

_PEERS: Final = {KOPF: "kopf", WATCH: "Watch"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of Exeunt, and the same of others.

    `ratios` are of rounds that were paired, where there were any. A limit is one of the ratio to the side `of`,
    otherwise one of the figure.
    """

    what: str
    unit: str
    exeunt: float
    floor: float | None = None
    others: dict[str, float] = {}
    ratios: dict[str, float] = {}
    of: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def figure(self, side: str) -> float | None:
        return {EXEUNT: self.exeunt, FLOOR: self.floor, **self.others}.get(side)

    def ratio(self, side: str = FLOOR) -> float | None:
        """Exeunt's figure over that of `side`; None where there is none."""
        other = self.figure(side)
        return self.ratios.get(side, self.exeunt / other) if other else None

    @property
    def target(self) -> str:
        unit = "x" if self.of else f" {self.unit}".rstrip()
        limits = ((">=", self.at_least), ("<=", self.at_most))
        return ", ".join(f"{sign} {limit:g}{unit}" for sign, limit in limits if limit is not None)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or nobody to hold it against."""
        judged = self.ratio(self.of) if self.of else self.exeunt
        if judged is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or judged >= self.at_least) and (self.at_most is None or judged <= self.at_most)


def compared(
    what: str,
    unit: str,
    rounds: Mapping[str, Sequence[float]],
    *,
    of: str | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """The medians of each side's rounds; and of the ratios within a round, which a slow moment of the machine moves
    less. Sides may have fewer rounds than Exeunt: the first ones.
    """
    ours = rounds[EXEUNT]
    others = {side: values for side, values in rounds.items() if side != EXEUNT and values}
    ratios = {
        side: median(mine / other for mine, other in zip(ours, values, strict=False) if other)
        for side, values in others.items()
        if any(values)
    }
    figures = {side: median(values) for side, values in others.items()}
    floor = figures.pop(FLOOR, None)
    return Row(
        what=what,
        unit=unit,
        exeunt=median(ours),
        floor=floor,
        others=figures,
        ratios=ratios,
        of=of,
        at_least=at_least,
        at_most=at_most,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Interpolated between the two nearest of the values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def show(console: Console, rows: Sequence[Row], *, load: float, against: str | None = None) -> None:
    """A table: on a terminal with lines and colours, elsewhere without. `load` is the machine's before it all began.

    `against` is what the user calls the other build.
    """
    table = Table(box=None if not console.is_terminal else Table().box, pad_edge=False)
    head, *lines = _cells(rows, against)
    for number, heading in enumerate(head):
        table.add_column(heading, justify="left" if number in (0, len(head) - 1) else "right", no_wrap=True)
    for line in lines:
        *cells, target = line
        table.add_row(*cells, target.replace("missed", "[red]missed[/red]"))
    console.print(table)
    console.print(machine(load))


def write_markdown(file: Path, rows: Sequence[Row], *, load: float, against: str | None = None) -> None:
    """The same, for a document."""
    head, *lines = ("| " + " | ".join(cells) + " |" for cells in _cells(rows, against))
    rule = "|---|" + "---:|" * (head.count("|") - 3) + "---|"
    file.write_text("\n".join([head, rule, *lines, "", machine(load), ""]))


def machine(load: float) -> str:
    """What the figures were measured on."""
    return (
        f"{os.cpu_count()} cores for everything together, Python {platform.python_version()};"
        f" the load before was {load:.1f}, and {os.getloadavg()[0]:.1f} at the end."
    )


def _cells(rows: Sequence[Row], against: str | None) -> list[list[str]]:
    """The table's head and lines; only sides that have figures have columns."""
    named = {FLOOR: "floor", LOOKING: "floor, looking", AGAINST: against or AGAINST, EXEUNT: "Exeunt", **_PEERS}
    sides = [side for side in named if any(row.figure(side) is not None for row in rows)]
    held = [side for side in (FLOOR, LOOKING, AGAINST) if side in sides]
    table = [["", *(named[side] for side in sides), *(f"to {named[side]}" for side in held), "target"]]
    for row in rows:
        figures = (row.figure(side) for side in sides)
        ratios = (row.ratio(side) for side in held)
        to = f" to {named[row.of]}" if row.of and row.target else ""
        verdict = {True: " met", False: " missed", None: ""}[row.met]
        table.append(
            [
                row.what,
                *("" if figure is None else f"{_rounded(figure)} {row.unit}".rstrip() for figure in figures),
                *("" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
                row.target + to + verdict,
            ]
        )
    return table


def _rounded(figure: float) -> str:
    """Three digits that tell, one decimal at the least."""
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def write_json(file: Path, rows: Sequence[Row], *, load: float) -> None:
    """Everything that the table shows, unrounded."""
    content = {
        "cores": os.cpu_count(),
        "load": load,
        "rows": [{**msgspec.structs.asdict(row), "ratio": row.ratio(), "met": row.met} for row in rows],
    }
    file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
