"""How things are shown: aligned columns for people, JSON for programs; data on stdout, everything else on stderr.

Colours only on a terminal and without NO_COLOR; nothing is ever cut to the width of a terminal, so that pipes see all.
"""

import re
import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console
from rich.text import Text

from exeunt import cloudevents
from exeunt.errors import PoisonEvent
from exeunt.history.file import json_data
from exeunt.history.record import Problem, Record

GAP = 3
STYLES = {
    "finalize": "green",
    "finalized": "green",
    "wait": "dim",
    "stopping": "yellow",
    "leave": "yellow",
    "left": "yellow",
    "failed": "bold red",
    "deadline-reached": "magenta",
    "topology-terminated": "cyan",
    "cancel-requested": "bold",
}
"""Colours of words, where they stand alone in a column."""

LATE = "bold red"
_LATE_CELL = re.compile(r"[a-z ]+, late by \S+")


def _style(cell: str) -> str:
    return LATE if _LATE_CELL.fullmatch(cell) else STYLES.get(cell.strip(" └`-"), "")


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to whoever ends the process: rich would exit with 1, which means something else here."""
        raise BrokenPipeError


def console() -> Console:
    return _Screen(highlight=False, markup=False, soft_wrap=True)


class Columns:
    """Rows under a header, each column as wide as its widest cell so far; the last one is never padded."""

    def __init__(self, header: Sequence[str], *, least: Sequence[int] = ()) -> None:
        self._header = header
        self._widths = [
            max(len(name), width) for name, width in zip(header, [*least, *[0] * len(header)], strict=False)
        ]

    def lines(self, rows: Iterable[Sequence[str]], *, header: bool = True) -> list[Text]:
        """The rows as text, after the header's names."""
        rows = list(rows)
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        names = [Text("".join(self._padded(self._header)).rstrip(), style="bold")] if header else []
        return names + [self._line(row) for row in rows]

    def _line(self, row: Sequence[str]) -> Text:
        line = Text()
        for cell, padded in zip(row, self._padded(row), strict=True):
            line.append(padded, style=_style(cell))
        line.rstrip()
        return line

    def _padded(self, row: Sequence[str]) -> list[str]:
        return [cell.ljust(width + GAP) for cell, width in zip(row, self._widths, strict=True)]


def print_json(value: object) -> None:
    """One document, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_line(value: object) -> None:
    """One document on a line of its own, for whoever reads along."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def cloud_event(record: Record) -> dict[str, object]:
    """A record as a CloudEvent in the JSON format, with the extensions `sequence` and, where it has one, `traceparent`.

    Raises PoisonEvent when it is none.
    """
    attributes = msgspec.structs.asdict(cloudevents.from_headers(record.headers))
    trace = {name: value for name, value in record.headers.items() if name in ("traceparent", "tracestate")}
    named = {name: value for name, value in attributes.items() if value}
    return {"specversion": "1.0"} | named | {"sequence": str(record.sequence)} | trace | json_data(record.data)


def print_cloud_events(records: Iterable[Record]) -> None:
    """One a line; what is no CloudEvent is said on stderr."""
    for record in records:
        try:
            print_line(cloud_event(record))
        except PoisonEvent as error:
            say_problems([Problem(record.place, str(error))])


def say(text: str) -> None:
    """Something about the answer rather than of it: on stderr."""
    sys.stderr.write(f"exeunt: {text}\n")


def say_problems(problems: Sequence[Problem]) -> None:
    """What could not be told; the first of it, when it is very much."""
    for problem in problems[:_MOST_SAID]:
        say(f"not told: {problem}")
    if len(problems) > _MOST_SAID:
        say(f"not told: {len(problems) - _MOST_SAID} more such problems")


_MOST_SAID = 20
