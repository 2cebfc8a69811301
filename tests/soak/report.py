"""The table at the end: what happened, how late stops were, and whether all promises were kept."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import quantiles
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from soak.plan import KINDS, UNTOUCHABLE
from soak.promises import EXEUNT
from soak.witnessed import End, Played, Window


class Late(NamedTuple):
    """How many seconds after it was due a run has ended."""

    run: Played
    end: End
    seconds: float


def latenesses(runs: Iterable[Played]) -> list[Late]:
    """Of all ends by Exeunt of which is known when they were due."""
    found = []
    for run in runs:
        for end in run.ends:
            due = run.due(end)
            if end.by == EXEUNT and run.given_up is None and due is not None:
                found.append(Late(run, end, (end.at - due) / timedelta(seconds=1)))
    return found


def show(console: Console, runs: Sequence[Played], faults: Sequence[Window]) -> None:
    late = latenesses(runs)
    happened = _table(console, "fault", "number", "seconds", "stops due meanwhile")
    for kind in KINDS:
        windows = [fault for fault in faults if fault.kind == kind]
        if windows:
            lasted = sum((fault.ceased - fault.began for fault in windows), timedelta())
            meanwhile = [each.seconds for each in late if _is_due_in(each, windows)]
            happened.add_row(
                kind, str(len(windows)), f"{lasted.total_seconds():.0f}", str(len(meanwhile)), *_figures(meanwhile)
            )
    calm = [each.seconds for each in late if not _is_due_in(each, faults)]
    happened.add_row("none", "", "", str(len(calm)), *_figures(calm))
    console.print(happened)
    console.print()
    stops = _table(console, "stop", "runs", "ended by Exeunt", "by the deadline")
    numbers = Counter(run.way for run in runs)
    for way, number in sorted(numbers.items(), key=lambda each: (each[0] in UNTOUCHABLE, each[0])):
        own = [each for each in late if each.run.way == way]
        by_deadline = sum("deadline" in _rules(each) for each in own)
        stops.add_row(way, str(number), str(len(own)), str(by_deadline), *_figures([each.seconds for each in own]))
    console.print(stops)


def _table(console: Console, *headings: str) -> Table:
    table = Table(box=None if not console.is_terminal else Table().box, pad_edge=False)
    for number, heading in enumerate((*headings, "p50", "p99", "worst (s late)")):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _figures(seconds: Sequence[float]) -> tuple[str, str, str]:
    if len(seconds) < 2:
        return "", "", f"{seconds[0]:.2f}" if seconds else ""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return f"{cuts[49]:.2f}", f"{cuts[98]:.2f}", f"{max(seconds):.2f}"


def _rules(late: Late) -> tuple[str, ...]:
    history = late.run.histories.get(late.end.cancel_observed_at)
    return history.ended_by if history else ()


def _is_due_in(late: Late, windows: Iterable[Window]) -> bool:
    due = late.end.at - timedelta(seconds=late.seconds)
    return any(window.began <= due <= window.ceased for window in windows)
