"""How things are shown: aligned columns for people, JSON for programs; data on stdout, everything else on stderr.

Colours and bold letters only on a terminal and without NO_COLOR. Nothing is cut: on a terminal long rows are broken
where their columns are, a pipe gets one line for each.
"""

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence

import msgspec
import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.text import Text

from exeunt.errors import PoisonEvent
from exeunt.events import cloudevents
from exeunt.history.file import json_data
from exeunt.history.record import Problem, Record

GAP = 3
_INDENT = 4
_LEAST_ROOM = 24
"""Characters below which a last column is not worth breaking where it stands."""
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


def console(*, markup: bool = False, soft_wrap: bool = True) -> Console:
    plain = bool(os.environ.get("NO_COLOR"))  # rich itself would leave what is bold
    return _Screen(highlight=False, markup=markup, soft_wrap=soft_wrap, color_system=None if plain else "auto")


class Columns:
    """Rows under a header, each column as wide as its widest cell so far; the last one is never padded.

    On a terminal, whose `width` is taken, the last column is broken within itself, and columns for which there is no
    room go on below, indented, at the same place in every row.
    """

    def __init__(self, header: Sequence[str], *, least: Sequence[int] = (), width: int | None = None) -> None:
        self._header = header
        self._widths = [
            max(len(name), width) for name, width in zip(header, [*least, *[0] * len(header)], strict=False)
        ]
        screen = console()
        self._width = width or (screen.width if screen.is_terminal else None)

    def lines(self, rows: Iterable[Sequence[str]], *, header: bool = True) -> list[Text]:
        """The rows as text, after the header's names."""
        rows = list(rows)
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        names = [_bold(line) for line in self._broken(self._header)] if header else []
        return names + [line for row in rows for line in self._broken(row)]

    def _broken(self, row: Sequence[str]) -> list[Text]:
        """A row as one line, or as several where the terminal is too narrow for it."""
        lines, at = [Text()], 0
        for cell, width in zip(row[:-1], self._widths[:-1], strict=True):
            if self._width is not None and at > _INDENT and at + width > self._width:
                lines.append(Text(" " * _INDENT))
                at = _INDENT
            lines[-1].append(cell.ljust(width + GAP), style=_style(cell))
            at += width + GAP
        last = row[-1]
        if self._width is not None and len(last) > self._width - at:
            if self._width - at < _LEAST_ROOM:
                lines.append(Text(" " * _INDENT))
                at = _INDENT
            first, *others = textwrap.wrap(last, self._width - at, break_on_hyphens=False) or [""]
            lines[-1].append(first, style=_style(last))
            lines += [Text(" " * at).append(other, style=_style(last)) for other in others]
        else:
            lines[-1].append(last, style=_style(last))
        for line in lines:
            line.rstrip()
        return lines


def _bold(line: Text) -> Text:
    line.stylize("bold")
    return line


def print_json(value: object) -> None:
    """One document, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_line(value: object) -> None:
    """One document on a line of its own, for whoever reads along."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_yaml(value: object) -> None:
    """One document, as kubectl has it."""
    sys.stdout.write(yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False, allow_unicode=True, width=120))


def print_all(values: Sequence[object], output: str) -> bool:
    """As one array (`json`, `yaml`) or one a line (`jsonl`); whether it was one of those, which people do not read."""
    match output:
        case "json":
            print_json(values)
        case "yaml":
            print_yaml(values)
        case "jsonl":
            for value in values:
                print_line(value)
        case _:
            return False
    return True


def print_one(value: object, output: str) -> bool:
    """The same of a single object, and of one after another as they come: only `jsonl` has it on a line."""
    match output:
        case "json":
            print_json(value)
        case "yaml":
            sys.stdout.write("---\n")
            print_yaml(value)
        case "jsonl":
            print_line(value)
        case _:
            return False
    sys.stdout.flush()
    return True


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
            print_problems([Problem(record.place, str(error))])


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def print_note(text: str) -> None:
    """Something about the answer rather than of it: on stderr."""
    sys.stderr.write(f"exeunt: {text}\n")


def print_problems(problems: Sequence[Problem]) -> None:
    """What could not be shown; the first of it, when it is very much."""
    for problem in problems[:_MOST_PRINTED]:
        print_note(f"not shown: {problem}")
    if len(problems) > _MOST_PRINTED:
        print_note(f"not shown: {len(problems) - _MOST_PRINTED} more such problems")


_MOST_PRINTED = 20
