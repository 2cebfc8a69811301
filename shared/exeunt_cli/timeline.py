"""`exeunt timeline` and `exeunt tail`: events as they happened, each decision under the fact that caused it."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from exeunt.clock import parse_instant
from exeunt.history.event import Event, understand_all
from exeunt.history.reading import follow as follow_stream
from exeunt.history.reading import last_record, namespace_filter, read
from exeunt.history.record import Record
from exeunt.history.stops import Stop, stops
from exeunt.history.telling import ToldEvent, finalized_by, in_words, tell, tell_event
from exeunt_cli.options import EventFormat, EventOutput, Follow, Run, TraceUrl, Where, Window
from exeunt_cli.output import Columns, console, print_cloud_events, print_json, print_line, say, say_problems
from exeunt_cli.source import Told, connected, find, is_file, read_file, understood

_EVERYWHERE, _ALWAYS = Where(), Window()


async def timeline(
    run: Run = "@latest",
    *,
    where: Where = _EVERYWHERE,
    window: Window = _ALWAYS,
    output: EventOutput = "table",
    follow: Follow = False,
    trace_url: TraceUrl = None,
) -> None:
    """Tell the stops of a run: what was asked, what was decided and why, and how long it took."""
    if is_file(run):
        show(read_file(run), window, output, trace_url)
        return
    async with connected(where) as bus:
        subjects = await find(bus, run, where.namespace)
        told = understood([record async for record in read(bus, subjects)])
        columns = show(told, window, output, trace_url)
        if not follow:
            return
        records = told.records
        async for record in follow_stream(bus, subjects, after=records[-1].sequence if records else 0):
            records.append(record)
            stop = _stop_of(record, understood(records).stops)
            _show_event(record, stop, columns, output, console())


def show(told: Told, window: Window, output: EventFormat, trace_url: str | None = None) -> Columns:
    """All stops of a history; the columns of its table, for rows that come later."""
    say_problems(told.problems)
    columns = timeline_columns(output)
    if output == "ce":
        print_cloud_events(record for record in told.records if window.holds(parse_instant(record.time)))
    elif output == "json":
        print_json([tell(stop) for stop in told.stops])
    elif output == "jsonl":
        for stop in told.stops:
            for event in tell(stop).events:
                if window.holds(parse_instant(event.at)):
                    print_line(event)
    else:
        screen = console()
        for number, stop in enumerate(told.stops):
            if number:
                screen.print()
            screen.print(*heading(stop, trace_url), "", sep="\n")
            events = [event for event in tell(stop).events if window.holds(parse_instant(event.at))]
            screen.print(*columns.lines([event_row(event, output, screen) for event in events]), sep="\n")
    return columns


def heading(stop: Stop, trace_url: str | None = None) -> Iterator[Text]:
    """What is to be known of a stop before its events."""
    yield _field("Run", f"{stop.run} (uid {stop.episode.uid}, episode {stop.episode.token})")
    canceled = stop.canceled
    how = "" if canceled is None or canceled.run.fence else " (bobrapet has not stamped the fence)"
    yield _field("Asked", f"{stop.asked_at:%Y-%m-%dT%H:%M:%S.%fZ}{how}" if stop.asked_at else "nobody has canceled it")
    if stop.ended_at is not None:
        yield _field("Ended", f"{stop.ended_at:%Y-%m-%dT%H:%M:%S.%fZ} {finalized_by(stop)}".rstrip())
    told = tell(stop)
    yield _field("Outcome", f"{stop.ending}{f': {told.cause}' if told.cause else ''}")
    if stop.latency is not None:
        yield _field("Stop latency", in_words(stop.latency))
    if canceled is not None and stop.deadline is not None:
        rule = f"{canceled.shutdown.timeout}, {canceled.shutdown.rule}"
        earlier = _earlier(stop, stop.deadline)
        yield _field("Deadline", f"{stop.deadline:%Y-%m-%dT%H:%M:%S.%fZ} ({rule}){earlier}")
    if stop.asked_at is not None:
        drain = "unknown: no event tells it"
        if stop.drain is not None:
            drain = f"{in_words(stop.drain)} by its Story{_earlier(stop, stop.asked_at + stop.drain)}"
        yield _field("Drain window", drain)
    if stop.trace_id is not None:
        yield _field("Trace", trace_url.replace("{trace_id}", stop.trace_id) if trace_url else stop.trace_id)


def _earlier(stop: Stop, instant: datetime) -> str:
    spared = instant - stop.ended_at if stop.ended_at else timedelta(0)
    return f"; it ended {in_words(spared)} before" if spared > timedelta(0) else ""


def _field(name: str, value: str) -> Text:
    return Text.assemble((f"{name + ':':<14}", "bold"), " ", value)


def timeline_columns(output: EventFormat) -> Columns:
    names = ("SEQ", "ELAPSED", "SERVICE", "EVENT", "WHY")
    if output == "wide":
        names = ("SEQ", "AT", "ELAPSED", "SERVICE", "EPISODE", "EVENT", "WHY")  # type: ignore[assignment]  # longer
    return Columns(names)


def event_row(event: ToldEvent, output: EventFormat, screen: Console) -> tuple[str, ...]:
    """An event's cells; a decision is drawn under its cause."""
    branch = "`- " if screen.options.ascii_only else "└─ "
    what = branch + event.what if event.kind == "outcome" else event.what
    elapsed = f"{event.elapsed_ms / 1000:+.3f}s"
    if output == "wide":
        return str(event.sequence), event.at, elapsed, event.service, event.episode, what, event.why
    return str(event.sequence), elapsed, event.service, what, event.why


def _stop_of(record: Record, told: Iterable[Stop]) -> tuple[Stop, Event] | None:
    for stop in told:
        for event in stop.events:
            if event.record is record:
                return stop, event
    return None


def _show_event(
    record: Record, found: tuple[Stop, Event] | None, columns: Columns, output: EventFormat, screen: Console
) -> None:
    """One event as it comes."""
    if output == "ce":
        print_cloud_events([record])
    elif found is None:
        say(f"not told: {record.place} on {record.subject}")
    elif output in ("json", "jsonl"):
        print_line(tell_event(*found))
    else:
        rows = [event_row(tell_event(*found), output, screen)]
        screen.print(*columns.lines(rows, header=False), sep="\n")


async def tail(
    run: Annotated[str | None, Parameter(help="NAME or NAMESPACE/NAME; all runs when it is not given.")] = None,
    *,
    where: Where = _EVERYWHERE,
    window: Window = _ALWAYS,
    output: EventOutput = "table",
) -> None:
    """Show what is said about all runs, or about one, as it is said."""
    screen = console()
    async with connected(where) as bus:
        subjects = await find(bus, run, where.namespace) if run else namespace_filter(where.namespace)
        columns = Columns(("AT", "RUN", "SERVICE", "EVENT", "WHY"), least=(24, 24, 17, 20))
        if output in ("table", "wide"):
            screen.print(*columns.lines([]), sep="\n")
        last = await last_record(bus, subjects)
        after = last.sequence if last else 0
        if window.since is not None:
            async for record in read(bus, subjects, since=window.since, until=window.until):
                _show_live(record, columns, output, screen)
                after = max(after, record.sequence)
        if window.until is None:
            async for record in follow_stream(bus, subjects, after=after):
                _show_live(record, columns, output, screen)


def _show_live(record: Record, columns: Columns, output: EventFormat, screen: Console) -> None:
    if output == "ce":
        print_cloud_events([record])
        return
    events, problems = understand_all([record])
    say_problems(problems)
    for event in events:
        told = tell_event(stops([event])[0], event)
        if output in ("json", "jsonl"):
            print_line(told)
            continue
        run = f"{event.episode.namespace}/{event.episode.name}"
        row = (f"{event.at:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z", run, told.service, told.what, told.why)
        screen.print(*columns.lines([row], header=False), sep="\n")
