"""`exeunt runs`: recent stops, the newest first."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from exeunt.bus.connection import Bus
from exeunt.clock import in_words, parse_instant
from exeunt.errors import PoisonEvent
from exeunt.history.event import Event, understand
from exeunt.history.lateness import ending_in_words
from exeunt.history.reading import follow as follow_stream
from exeunt.history.reading import namespace_filter, read
from exeunt.history.rendering import render
from exeunt.history.stops import Ending, Stop, stops
from exeunt.settings import Settings
from exeunt_cli.hanging import hangs_on
from exeunt_cli.live import services_settings
from exeunt_cli.options import Follow, Format, Output, Where, Window
from exeunt_cli.output import Columns, console, print_all, print_note, print_one, print_problems
from exeunt_cli.source import connected, understood

_HORIZON = timedelta(hours=24)

_EVERYWHERE, _ALWAYS = Where(), Window()


async def runs(
    *, where: Where = _EVERYWHERE, window: Window = _ALWAYS, output: Output = "table", follow: Follow = False
) -> None:
    """List recent stops with their latency, outcome and cause."""
    since = window.since or datetime.now(UTC) - _HORIZON
    async with connected(where, follow=follow) as bus:
        records = [
            record async for record in read(bus, namespace_filter(where.namespace), since=since, until=window.until)
        ]
        loaded = understood(records)
        print_problems(loaded.problems)
        newest = list(reversed(loaded.stops))
        if not newest and not follow:
            print_note(f"no run since {since:%Y-%m-%dT%H:%M:%SZ}; --since looks further back")
        columns = Columns(_WIDE if output == "wide" else _TABLE)
        if output in ("table", "wide"):
            if newest or follow:
                console().print(*columns.lines(_rows(newest, output)), sep="\n")
        elif follow:
            for stop in newest:
                print_one(render(stop, loaded.looked_at), output)
        else:
            print_all([render(stop, loaded.looked_at) for stop in newest], output)
        if follow:
            last = records[-1].sequence if records else 0
            await _follow(bus, namespace_filter(where.namespace), last, loaded.stops, columns, output)


_TABLE = ("NAMESPACE", "NAME", "ASKED", "LATENCY", "OUTCOME", "CAUSE")
_WIDE = (*_TABLE, "UID", "CANCELLATION", "DEADLINE", "EVENTS")


def _rows(found: Iterable[Stop], output: Format) -> list[tuple[str, ...]]:
    now, settings = datetime.now(UTC), services_settings()
    return [row_of(stop, now, settings, output) for stop in found]


def row_of(stop: Stop, now: datetime, settings: Settings, output: Format = "table") -> tuple[str, ...]:
    """The cells of a stop; an unfinished one says under its cause what it hangs on."""
    rendered, hangs = render(stop, now), hangs_on(stop, now, settings.overdue_after)
    row = (
        rendered.namespace,
        rendered.name,
        _seconds(rendered.asked_at),
        in_words(stop.latency) if stop.latency is not None else "-",
        ending_in_words(stop, now),
        "; ".join([*([rendered.cause] if rendered.cause else []), *hangs]) or "-",
    )
    if output != "wide":
        return row
    return (*row, rendered.uid, rendered.cancellation, _seconds(rendered.deadline), str(len(stop.events)))


def _seconds(instant: str | None) -> str:
    return f"{parse_instant(instant):%Y-%m-%dT%H:%M:%SZ}" if instant else "-"


async def _follow(bus: Bus, subjects: str, after: int, known: Iterable[Stop], columns: Columns, output: Format) -> None:
    """Show a stop whenever its ending has changed."""
    events: dict[str, list[Event]] = {}
    shown: dict[str, Ending] = {}
    for stop in known:
        events.setdefault(stop.cancellation.uid, []).extend(stop.events)
        shown[str(stop.cancellation)] = stop.ending
    async for record in follow_stream(bus, subjects, after=after):
        try:
            event = understand(record)
        except PoisonEvent as error:
            print_note(f"not shown: {record.place}: {error}")
            continue
        of_run = events.setdefault(event.cancellation.uid, [])
        of_run.append(event)
        stop = stops(sorted(of_run, key=lambda recorded: recorded.record.sequence))[-1]
        if shown.get(str(stop.cancellation)) == stop.ending:
            continue
        shown[str(stop.cancellation)] = stop.ending
        if not print_one(render(stop, datetime.now(UTC)), output):
            console().print(*columns.lines(_rows([stop], output), header=False), sep="\n")
