"""`exeunt replay`: a history walked through, decided again, looked at in one place, or under another setting."""

import asyncio
import re
import sys
from datetime import datetime, timedelta
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from exeunt.clock import in_words
from exeunt.errors import UsageError
from exeunt.history.event import Event
from exeunt.history.rendering import render_event, why
from exeunt.history.state import KnownState, after, differences
from exeunt.history.stops import Stop
from exeunt_cli.check import Checked, check
from exeunt_cli.errors import NotFound
from exeunt_cli.options import Output, Run, Where
from exeunt_cli.output import Columns, console, counted, print_all, print_note, print_one, print_problems
from exeunt_cli.source import Loaded, load
from exeunt_cli.timeline import event_row, heading, timeline_columns
from exeunt_cli.what_if import Otherwise, otherwise, read_setting

_EVERYWHERE = Where()
_SPEED_HELP = "1x walks as fast as it happened, 10x ten times that, step waits for Enter; at once when it is not given."
_CHECK_HELP = "Decide every event again with today's rules and compare; exit code 1 when one comes out differently."


async def replay(
    run: Run = "@latest",
    *,
    where: Where = _EVERYWHERE,
    output: Output = "table",
    speed: Annotated[str | None, Parameter(help=_SPEED_HELP)] = None,
    check: Annotated[bool, Parameter(negative="", help=_CHECK_HELP)] = False,
    at: Annotated[
        int | None, Parameter(help="Show what was known before and after the event of this sequence.")
    ] = None,
    what_if: Annotated[str | None, Parameter(help="shutdown-timeout=5s: how it would have ended under that.")] = None,
) -> int:
    """Walk through a history, from the stream or from an exported file. Nothing is published."""
    if sum((speed is not None, check, at is not None, what_if is not None)) > 1:
        raise UsageError("only one of --speed, --check, --at and --what-if at a time")
    pace = _pace(speed)
    setting = read_setting(what_if) if what_if is not None else None
    loaded = await load(run, where)
    print_problems(loaded.problems)
    if check:
        return _check(loaded, output)
    if at is not None:
        _show_state(loaded, at, output)
    elif setting is not None:
        _show_otherwise([found for stop in loaded.stops if (found := otherwise(stop, setting)) is not None], output)
    else:
        await _walk(loaded, pace, output)
    return 0


def _check(loaded: Loaded, output: Output) -> int:
    """Show what came of it; 1 when something differs, or could not be decided again."""
    checked = check(loaded.stops)
    whole = checked.passed and not loaded.problems
    if not print_one(checked, output):
        _show_checked(checked)
    for gap in checked.unchecked:
        print_note(f"not checked: {gap}")
    if checked.passed and loaded.problems:
        print_note(
            f"{len(loaded.problems)} parts of the history could not be shown, so they could not be decided again"
        )
    return 0 if whole else 1


def _show_checked(checked: Checked) -> None:
    screen = console()
    if not checked.differences:
        events, decisions = counted(checked.run_events, "event"), counted(checked.outcomes, "decision")
        screen.print(f"{events} and {decisions} come out as they were recorded.")
        return
    first, *others = checked.differences
    screen.print(
        Text(f"{first.place} (sequence {first.sequence}) of {first.run}: {first.what} comes out differently", "bold"),
        Text.assemble("  expected  ", (first.expected, "green")),
        Text.assemble("  actual    ", (first.actual, "red")),
        sep="\n",
    )
    if others:
        screen.print(f"and {len(others)} more; -o json shows all of them")


def _show_state(loaded: Loaded, sequence: int, output: Output) -> None:
    """What was known of its run around one event. Raises NotFound."""
    for stop in loaded.stops:
        state = KnownState()
        for event in stop.events:
            now = after(state, event)
            if event.record.sequence == sequence:
                _show_change(stop, event, state, now, output)
                return
            state = now
    known = [event.record.sequence for stop in loaded.stops for event in stop.events]
    raise NotFound(f"no event with sequence {sequence} in this history; it has {', '.join(map(str, sorted(known)))}")


def _show_change(stop: Stop, event: Event, before: KnownState, now: KnownState, output: Output) -> None:
    if print_one({"event": render_event(stop, event), "before": before, "after": now}, output):
        return
    changed = differences(before, now)
    rendered = render_event(stop, event)
    rows = []
    for field in KnownState.__struct_fields__:
        was, became = _cell(getattr(before, field)), _cell(getattr(now, field))
        rows.append(("*" if field in changed else "", field.replace("_", " "), was, became))
    console().print(
        Text(f"{stop.run}, sequence {rendered.sequence}, {rendered.service}: {rendered.what}", "bold"),
        Text(why(event)),
        "",
        *Columns(("", "", "BEFORE", "AFTER")).lines(rows),
        sep="\n",
    )


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _show_otherwise(found: list[Otherwise], output: Output) -> None:
    """Recorded and otherwise, side by side. Raises NotFound when nobody has canceled anything."""
    if not found:
        raise NotFound("nobody has canceled this run, so there is nothing that could have ended otherwise")
    if not print_all(found, output):
        rows = [row for each in found for row in _side_by_side(each)]
        console().print(*Columns(("RUN", "SETTING", "LATENCY", "CAUSE")).lines(rows), sep="\n")


def _side_by_side(each: Otherwise) -> list[tuple[str, ...]]:
    then = f"at most {_latency(each.latency_ms)}" if each.at_the_latest else _latency(each.latency_ms)
    return [
        (each.run, "as recorded", _latency(each.recorded_latency_ms), each.recorded_cause or "-"),
        ("", each.setting, then, each.cause),
    ]


def _latency(value: float | None) -> str:
    return "never" if value is None else in_words(timedelta(milliseconds=value))


def _pace(speed: str | None) -> float:
    """How many seconds of the history go by in one; infinite for "at once", 0 for "step". Raises UsageError."""
    if speed is None:
        return float("inf")
    if speed == "step":
        if not sys.stdin.isatty():
            raise UsageError("--speed step waits for Enter on a terminal, and standard input is none")
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x", speed)
    if match is None or not (factor := float(match[1])):
        raise UsageError(f"--speed {speed}: 1x, 10x, 0.5x or step")
    return factor


async def _walk(loaded: Loaded, pace: float, output: Output) -> None:
    """The events in the order in which they were said, stop after stop."""
    screen, columns = console(), timeline_columns(output)
    people = output in ("table", "wide")
    for stop in loaded.stops:
        if people:
            columns.lines(
                event_row(render_event(stop, event), output, screen) for event in stop.events
            )  # as wide as all
            screen.print(*heading(stop, loaded.looked_at), "", *columns.lines([]), sep="\n")
        before: datetime | None = None
        for event in stop.events:
            await _wait(pace, before, event.at)
            before = event.at
            rendered_event = render_event(stop, event)
            if people:
                screen.print(*columns.lines([event_row(rendered_event, output, screen)], header=False), sep="\n")
            else:
                print_one(rendered_event, output)


async def _wait(pace: float, before: datetime | None, now: datetime) -> None:
    if before is None:
        return
    if pace == 0.0:
        await asyncio.to_thread(sys.stdin.readline)
    else:
        await asyncio.sleep(max(0.0, (now - before).total_seconds() / pace))
