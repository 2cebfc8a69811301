"""The figures, as a table for people and as JSON for machines."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

import msgspec
from rich.console import Console
from rich.table import Table


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. A limit is one of the ratio to the floor where there is a floor, otherwise one of the figure."""

    what: str
    unit: str
    exeunt: float
    floor: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.floor is None else self.exeunt / self.floor

    @property
    def target(self) -> str:
        unit = f" {self.unit}" if self.floor is None else "x"
        limits = ((">=", self.at_least), ("<=", self.at_most))
        return ", ".join(f"{sign} {limit:g}{unit}" for sign, limit in limits if limit is not None)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        judged = self.exeunt if self.ratio is None else self.ratio
        return (self.at_least is None or judged >= self.at_least) and (self.at_most is None or judged <= self.at_most)


def percentile(values: Sequence[float], percent: int) -> float:
    """Interpolated between the two nearest of the values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def show(console: Console, rows: Sequence[Row], *, load: float) -> None:
    """A table: on a terminal with lines and colours, elsewhere without. `load` is the machine's before it all began."""
    table = Table(box=None if not console.is_terminal else Table().box, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("floor", "Exeunt", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("target")
    for row in rows:
        verdict = {True: " met", False: " [red]missed[/red]", None: ""}[row.met]
        table.add_row(
            row.what,
            "" if row.floor is None else f"{row.floor:.1f} {row.unit}",
            f"{row.exeunt:.1f} {row.unit}",
            "" if row.ratio is None else f"{row.ratio:.2f}x",
            row.target + verdict,
        )
    console.print(table)
    console.print(f"{os.cpu_count()} cores for everything together; the load before was {load:.1f}.")


def write_json(file: Path, rows: Sequence[Row], *, load: float) -> None:
    """Everything that the table shows, unrounded."""
    content = {
        "cores": os.cpu_count(),
        "load": load,
        "rows": [{**msgspec.structs.asdict(row), "ratio": row.ratio, "met": row.met} for row in rows],
    }
    file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
