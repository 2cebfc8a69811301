"""`exeunt tail`: events of all runs, or of one, as they are said."""

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from exeunt.bus.connection import Bus
from exeunt.history.event import Event, understand_all
from exeunt.history.reading import follow as follow_stream
from exeunt.history.reading import last_record, namespace_filter, read, run_filter
from exeunt.history.record import Record
from exeunt.history.rendering import render_event
from exeunt.history.stops import Stop, stops
from exeunt_cli.options import EventFormat, EventOutput, Where, Window
from exeunt_cli.output import Columns, console, print_cloud_events, print_one, print_problems
from exeunt_cli.source import connected, find

_EVERYWHERE, _ALWAYS = Where(), Window()


class _Known:
    """What was published before of the runs that are shown: their elapsed time counts from a cancel that may be long
    ago.
    """

    def __init__(self) -> None:
        self._events: dict[str, list[Event]] = {}

    async def stop_of(self, bus: Bus, event: Event) -> Stop:
        """The stop that the event belongs to, as far as it is known by then."""
        uid = event.cancellation.uid
        if uid not in self._events:
            if len(self._events) >= _MOST_KNOWN:
                del self._events[next(iter(self._events))]
            subjects = run_filter(event.cancellation.namespace, event.cancellation.name)
            records = [record async for record in read(bus, subjects, after=0)]
            earlier, _ = understand_all(record for record in records if record.sequence < event.record.sequence)
            self._events[uid] = [recorded for recorded in earlier if recorded.cancellation.uid == uid]
        self._events[uid].append(event)
        return next(stop for stop in reversed(stops(self._events[uid])) if event in stop.events)


_MOST_KNOWN = 1_000


async def tail(
    run: Annotated[str | None, Parameter(help="NAME or NAMESPACE/NAME; all runs when it is not given.")] = None,
    *,
    where: Where = _EVERYWHERE,
    window: Window = _ALWAYS,
    output: EventOutput = "table",
) -> None:
    """Show what is published about all runs, or about one, as it is published."""
    screen = console()
    async with connected(where, follow=window.until is None) as bus:
        subjects = await find(bus, run, where.namespace) if run else namespace_filter(where.namespace)
        columns = Columns(("AT", "RUN", "SERVICE", "EVENT", "WHY"), least=(24, 24, 17, 20))
        if output in ("table", "wide"):
            screen.print(*columns.lines([]), sep="\n")
        known = _Known()
        last = await last_record(bus, subjects)
        after = last.sequence if last else 0
        if window.since is not None:
            async for record in read(bus, subjects, since=window.since, until=window.until):
                await _show_live(record, known, bus, columns, output, screen)
                after = max(after, record.sequence)
        if window.until is None:
            async for record in follow_stream(bus, subjects, after=after):
                await _show_live(record, known, bus, columns, output, screen)


async def _show_live(
    record: Record, known: _Known, bus: Bus, columns: Columns, output: EventFormat, screen: Console
) -> None:
    if output == "ce":
        print_cloud_events([record])
        return
    events, problems = understand_all([record])
    print_problems(problems)
    for event in events:
        rendered = render_event(await known.stop_of(bus, event), event)
        if print_one(rendered, output):
            continue
        run = f"{event.cancellation.namespace}/{event.cancellation.name}"
        row = (f"{event.at:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z", run, rendered.service, rendered.what, rendered.why)
        screen.print(*columns.lines([row], header=False), sep="\n")
