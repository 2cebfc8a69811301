"""`exeunt timeline`: events as they happened; a decision stands under the event that caused it, or names it."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from rich.console import Console
from rich.text import Text

from exeunt.clock import elapsed_in_words, in_words, parse_instant
from exeunt.errors import UsageError
from exeunt.history.event import Event
from exeunt.history.lateness import ending_in_words, late_by
from exeunt.history.reading import follow as follow_stream
from exeunt.history.reading import read
from exeunt.history.record import Record
from exeunt.history.rendering import RenderedEvent, finalized_by, render, render_by_time, render_event
from exeunt.history.stops import Stop
from exeunt_cli.hanging import hangs_on
from exeunt_cli.live import services_settings
from exeunt_cli.options import EventFormat, EventOutput, Follow, Run, TraceUrl, Where, Window
from exeunt_cli.output import (
    LATE,
    Columns,
    console,
    print_all,
    print_cloud_events,
    print_line,
    print_note,
    print_one,
    print_problems,
)
from exeunt_cli.source import Loaded, connected, find, is_file, read_file, understood

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
    """Show the stops of a run: what was asked, what was decided and why, and how long it took."""
    if is_file(run):
        if follow:
            raise UsageError(f"--follow: {run} is a file, to which nothing is added; name a run")
        show(read_file(run), window, output, trace_url)
        return
    async with connected(where, follow=follow) as bus:
        subjects = await find(bus, run, where.namespace)
        loaded = understood([record async for record in read(bus, subjects)])
        columns = show(loaded, window, output, trace_url)
        if not follow:
            return
        records = loaded.records
        async for record in follow_stream(bus, subjects, after=records[-1].sequence if records else 0):
            records.append(record)
            stop = _stop_of(record, understood(records).stops)
            _show_event(record, stop, columns, output, console())


def show(loaded: Loaded, window: Window, output: EventFormat, trace_url: str | None = None) -> Columns:
    """All stops of a history; the columns of its table, for rows that come later."""
    print_problems(loaded.problems)
    columns = timeline_columns(output)
    if output == "ce":
        print_cloud_events(record for record in loaded.records if window.holds(parse_instant(record.time)))
    elif output in ("json", "yaml"):
        print_all([render(stop, loaded.looked_at) for stop in loaded.stops], output)
    elif output == "jsonl":
        for stop in loaded.stops:
            for event in render_by_time(stop):
                if window.holds(parse_instant(event.at)):
                    print_line(event)
    else:
        screen = console()
        for number, stop in enumerate(loaded.stops):
            if number:
                screen.print()
            screen.print(*heading(stop, loaded.looked_at, trace_url), "", sep="\n")
            events = [event for event in render_by_time(stop) if window.holds(parse_instant(event.at))]
            before = [None, *events]
            rows = [event_row(event, output, screen, after) for event, after in zip(events, before, strict=False)]
            screen.print(*columns.lines(rows), sep="\n")
    return columns


def heading(stop: Stop, now: datetime, trace_url: str | None = None) -> Iterator[Text]:
    """What is to be known of a stop before its events."""
    yield _field("Run", f"{stop.run} (uid {stop.cancellation.uid}, cancellation {stop.cancellation.token})")
    canceled = stop.canceled
    how = "" if canceled is None or canceled.run.cancel_observed_at else " (bobrapet has not observed the cancel)"
    yield _field("Asked", f"{stop.asked_at:%Y-%m-%dT%H:%M:%S.%fZ}{how}" if stop.asked_at else "nobody has canceled it")
    if stop.ended_at is not None:
        yield _field("Ended", f"{stop.ended_at:%Y-%m-%dT%H:%M:%S.%fZ} {finalized_by(stop)}".rstrip())
    rendered, late = render(stop, now), late_by(stop, now)
    cause = f": {rendered.cause}" if rendered.cause else ""
    yield _field("Outcome", f"{ending_in_words(stop, now)}{cause}", LATE if late else "")
    if late is not None:
        yield _field("Due", str(rendered.due_at))
    for hop in hangs_on(stop, now, services_settings().overdue_after):
        yield _field("Missing", hop, LATE)
    if stop.latency is not None:
        yield _field("Stop latency", in_words(stop.latency))
    if canceled is not None and stop.deadline is not None:
        rule = f"{canceled.shutdown.timeout}, {canceled.shutdown.rule}"
        earlier = _earlier(stop, stop.deadline)
        yield _field("Deadline", f"{stop.deadline:%Y-%m-%dT%H:%M:%S.%fZ} ({rule}){earlier}")
    if stop.asked_at is not None:
        drain = "unknown: no event shows it"
        if stop.drain is not None:
            drain = f"{in_words(stop.drain)} by its Story{_earlier(stop, stop.asked_at + stop.drain)}"
        yield _field("Drain window", drain)
    if stop.trace_id is not None:
        yield _field("Trace", trace_url.replace("{trace_id}", stop.trace_id) if trace_url else stop.trace_id)


def _earlier(stop: Stop, instant: datetime) -> str:
    spared = instant - stop.ended_at if stop.ended_at else timedelta(0)
    return f"; it ended {in_words(spared)} before" if spared > timedelta(0) else ""


def _field(name: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{name + ':':<14}", "bold"), " ", (value, style))


def timeline_columns(output: EventFormat) -> Columns:
    names = ("SEQ", "ELAPSED", "SERVICE", "EVENT", "WHY")
    if output == "wide":
        names = ("SEQ", "AT", "ELAPSED", "SERVICE", "CANCELLATION", "EVENT", "WHY")  # type: ignore[assignment]  # longer
    return Columns(names)


def event_row(
    event: RenderedEvent, output: EventFormat, screen: Console, before: RenderedEvent | None = None
) -> tuple[str, ...]:
    """An event's cells; a decision is drawn under its cause, or names it when something else was `before`."""
    what = event.what
    if event.kind == "outcome":
        under = before is not None and event.cause_sequence in (before.sequence, before.cause_sequence)
        on = "" if under or event.cause_sequence is None else f" ({event.cause_sequence})"
        what = f"{'`- ' if screen.options.ascii_only else '└─ '}{event.what}{on}"
    elapsed = elapsed_in_words(event.elapsed_ms)
    if output == "wide":
        return str(event.sequence), event.at, elapsed, event.service, event.cancellation, what, event.why
    return str(event.sequence), elapsed, event.service, what, event.why


def _stop_of(record: Record, loaded: Iterable[Stop]) -> tuple[Stop, Event] | None:
    for stop in loaded:
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
        print_note(f"not shown: {record.place} on {record.subject}")
    elif not print_one(render_event(*found), output):
        rows = [event_row(render_event(*found), output, screen)]
        screen.print(*columns.lines(rows, header=False), sep="\n")
