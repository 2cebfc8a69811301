"""A report as one HTML page that needs nothing else: no script, no font, no other file. Pure.

It reads on a phone, on paper, in the dark and without colours: events are round and decisions square, what did not
happen is hatched, and every mark has the number of its event. The pictures come in two widths, of which one is shown.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final
from xml.etree.ElementTree import Element

from exeunt.clock import elapsed_in_words, format_instant, in_words
from exeunt.history.lateness import late_by
from exeunt.history.record import Problem
from exeunt.history.rendering import RenderedEvent, render
from exeunt.history.stops import Stop
from exeunt_cli.hanging import hangs_on
from exeunt_cli.markup import document, element
from exeunt_cli.picture import lanes, waits

_WIDE: Final = 880
_NARROW: Final = 340


def page(
    stops: Sequence[Stop],
    problems: Sequence[Problem],
    *,
    version: str,
    now: datetime,
    looked_at: datetime | None = None,
    overdue_after: timedelta = timedelta(seconds=30),
    trace_url: str | None = None,
) -> str:
    """All stops of a history, and what of it could not be shown. `trace_url` has {trace_id} in it.

    `looked_at` is when the history was as it is reported, which says how late a stop is that goes on; `overdue_after`
    is the timeout-scheduler's setting, which says when it is tried again.
    """
    of = {stop.run for stop in stops}
    hangs = [hangs_on(stop, looked_at, overdue_after) if looked_at is not None else [] for stop in stops]
    sections = [
        _stop(stop, number, len(stops), looked_at, hangs[number - 1], trace_url) for number, stop in enumerate(stops, 1)
    ]
    run = stops[0].run if len(of) == 1 else f"{len(of)} runs"
    return document(
        element(
            "html",
            element(
                "head",
                element("meta", charset="utf-8"),
                element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                element("meta", name="color-scheme", content="light dark"),
                # Whatever a history holds, this page loads and runs nothing.
                element("meta", http_equiv="Content-Security-Policy",
                        content="default-src 'none'; style-src 'unsafe-inline'"),
                element("title", f"How {run} stopped"),
                element("style", _STYLE),
            ),
            element(
                "body",
                element("header", element("p", "How it stopped", class_="kicker"), element("h1", run)),
                element("main", *sections, *_problems(problems)),
                element("footer", element("p", f"Rendered by Exeunt {version} at {format_instant(now)} from"
                                               f" {sum(len(stop.events) for stop in stops)} events.")),
            ),
            lang="en",
        )
    )  # fmt: skip


def _stop(
    stop: Stop, number: int, count: int, now: datetime | None, hangs: Sequence[str], trace_url: str | None
) -> Element:
    name, known = f"stop-{number}", _known(stop, now, hangs, trace_url)
    title = f"Stop {number} of {count}: {stop.run}, {stop.ending}" if count > 1 else f"The stop: {stop.ending}"
    return element(
        "section",
        element("h2", title, id=name),
        element("p", element("strong", _headline(stop)), *_beneath(stop, now), class_="headline"),
        element(
            "dl",
            *(pair for term, value in known for pair in (element("dt", term), value)),
        ),
        *_figures(stop, name, now),
        element("h3", "Events"),
        element("ol", *_events(render(stop).events), class_="events"),
        aria_labelledby=name,
    )


def _headline(stop: Stop) -> str:
    if stop.latency is not None:
        return in_words(stop.latency)
    return str(stop.ending)


def _beneath(stop: Stop, now: datetime | None) -> Iterator[Element | str]:
    rendered, late, ended = render(stop), late_by(stop, now), stop.latency is not None
    if ended:
        yield " from the cancel to the end"
    if late is not None:
        yield ", " if ended else " "
        yield element("b", f"late by {in_words(late)}", class_="late")
    how = f"{rendered.ending}{f': {rendered.cause}' if rendered.cause else ''}"
    if ended or rendered.cause:
        yield f" \u2013 {how}" if ended else f" {how}"


def _known(
    stop: Stop, now: datetime | None, hangs: Sequence[str], trace_url: str | None
) -> Iterator[tuple[str, Element]]:
    rendered, canceled = render(stop, now), stop.canceled
    yield "Asked", element("dd", rendered.asked_at or "nobody has canceled it")
    if rendered.ended_at is not None:
        yield "Ended", element("dd", rendered.ended_at)
    if canceled is not None and rendered.deadline is not None:
        yield "Deadline", element("dd", f"{rendered.deadline} ({rendered.shutdown_timeout}, {rendered.shutdown_rule})")
    if rendered.late_by_ms is not None:
        yield "Due", element("dd", rendered.due_at)
    for hop in hangs:
        yield "Missing", element("dd", hop, class_="late")
    if stop.asked_at is not None:
        drain = f"{in_words(stop.drain)}, by its Story" if stop.drain is not None else "unknown: no event shows it"
        yield "Drain window", element("dd", drain)
    yield "Uid", element("dd", rendered.uid)
    yield "Cancellation", element("dd", rendered.cancellation)
    if rendered.trace_id is not None:
        url = trace_url.replace("{trace_id}", rendered.trace_id) if trace_url else None
        yield "Trace", element("dd", element("a", rendered.trace_id, href=url) if url else rendered.trace_id)


def _figures(stop: Stop, name: str, now: datetime | None) -> Iterator[Element]:
    wide, narrow = waits(stop, _WIDE, f"{name}-waits", now), waits(stop, _NARROW, f"{name}-waits-narrow", now)
    if wide is not None and narrow is not None:
        caption = element(
            "figcaption",
            "What it took, and what it did not wait for: bobrapet alone waits for the drain window. To scale.",
        )
        yield element("figure", element("div", wide, class_="wide"), element("div", narrow, class_="narrow"), caption)
    yield element(
        "figure",
        element("div", lanes(stop, _WIDE, f"{name}-lanes"), class_="wide"),
        element("div", lanes(stop, _NARROW, f"{name}-lanes-narrow"), class_="narrow"),
        element("figcaption", "What was published, from the first event to the last. To scale; time counts from the "
                              "cancel."
                              " Circles are events, squares are decisions; the numbers are those of the events below."),
    )  # fmt: skip


def _events(rendered: Sequence[RenderedEvent]) -> Iterator[Element]:
    """Each event with the decisions that it caused under it; numbered as the marks in the picture."""
    numbered = list(enumerate(rendered, 1))
    # A decision without its cause in the history stands alone.
    roots = [event.cause_sequence if event.kind == "outcome" else event.sequence for event in rendered]
    for _, group in groupby(numbered, key=lambda item: roots[item[0] - 1]):
        first, *caused = group
        under = element("ol", *(element("li", *_event(*item)) for item in caused)) if caused else None
        yield element("li", *_event(*first), under)


def _event(number: int, event: RenderedEvent) -> tuple[Element, ...]:
    return (
        element("span", str(number), class_=f"badge {event.kind} {event.what.replace(' ', '-')}"),
        element("span", element("time", elapsed_in_words(event.elapsed_ms), datetime=event.at, title=event.at),
                " ", element("span", event.service, class_="service"), " ", element("b", event.what), class_="what"),
        element("span", event.why, class_="why"),
    )  # fmt: skip


def _problems(problems: Sequence[Problem]) -> Iterator[Element]:
    if problems:
        yield element("section", element("h2", "Not told"),
                      element("ul", *(element("li", str(problem)) for problem in problems)))  # fmt: skip


_STYLE: Final = """
:root { --ink: #1d1d22; --quiet: #5c5c66; --paper: #fbfaf7; --card: #ffffff; --line: #d8d5cc; --fact: #1f5f8b;
  --good: #0b6b52; --wait: #7a6a2a; --bad: #a52222; --due: #7d3c98; --soft: #cfe3ef; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --quiet: #a6a6b2; --paper: #16161a; --card: #1f1f25;
  --line: #3a3a44; --fact: #7fc1ea; --good: #63d2ae; --wait: #d8c470; --bad: #ff8a80; --due: #d7a6ea;
  --soft: #24485d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.kicker { margin: 0; color: var(--quiet); }
h1 { margin: 0 0 1rem; font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.headline strong { font-size: 2.4rem; line-height: 1.1; margin-right: .4rem; font-variant-numeric: tabular-nums; }
.headline { margin: .5rem 0 1rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 1.5rem; font-size: .9rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0 0 1.25rem; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; }
figcaption, footer { color: var(--quiet); font-size: .85rem; }
figcaption { margin-top: .5rem; } footer { margin-top: 2rem; border-top: 1px solid var(--line); }
svg { display: block; max-width: 100%; height: auto; overflow: visible; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink);
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
svg .strong { font-weight: 600; } svg .tick { fill: var(--quiet); }
svg .axis, svg .lane { stroke: var(--quiet); fill: none; } svg .lane { stroke: var(--line); stroke-width: 2; }
svg .mark { stroke: var(--ink); stroke-dasharray: 2 3; } svg .leader { stroke: var(--quiet); }
svg .cause { stroke: var(--quiet); fill: none; stroke-width: 1.5; } svg .instant { fill: var(--ink); }
svg .hatch { stroke: var(--quiet); fill: none; }
svg .took { fill: var(--good); stroke: var(--good); } svg .other { fill: var(--quiet); stroke: var(--quiet); }
svg .late { fill: var(--bad); stroke: var(--bad); } b.late, dd.late { color: var(--bad); }
svg .deadline { fill: none; stroke: var(--due); stroke-width: 1.5; }
svg .drain, svg .gone { stroke: var(--quiet); } svg .up { fill: var(--soft); stroke: var(--fact); }
svg .not-seen { fill: none; stroke: var(--line); }
svg .badge text, svg .on-up, svg .on-not-seen { stroke: none; }
.badge { --hue: var(--fact); } .badge.outcome { --hue: var(--wait); } .badge.finalize { --hue: var(--good); }
.badge.failed { --hue: var(--bad); } .badge.deadline-reached { --hue: var(--due); }
svg .badge circle, svg .badge rect { fill: var(--card); stroke: var(--hue); stroke-width: 1.5; }
svg .badge text { font-weight: 600; }
svg .badge.finalize rect, svg .badge.failed rect { fill: var(--hue); }
svg .badge.finalize text, svg .badge.failed text { fill: var(--card); }
.events, .events ol { list-style: none; margin: 0; padding: 0; }
.events li { display: grid; grid-template-columns: 1.6rem 1fr; gap: 0 .6rem; padding: .45rem 0; }
.events ol { grid-column: 2; } .events ol li { padding: .45rem 0 0; }
.events .badge { width: 1.6rem; height: 1.6rem; border: 1.5px solid var(--hue); border-radius: 50%; text-align: center;
  font-size: .78rem; font-weight: 600; line-height: 1.45rem; }
.events .badge.outcome { border-radius: .25rem; }
.events .badge.finalize, .events .badge.failed { background: var(--hue); color: var(--card); }
.events time { font-variant-numeric: tabular-nums; color: var(--quiet); } .service { color: var(--quiet); }
.why { grid-column: 2; overflow-wrap: anywhere; }
.narrow { display: none; }
@media (max-width: 48rem) { .wide { display: none; } .narrow { display: block; } figure { padding: .75rem .4rem; }
  .narrow svg { width: 100%; max-width: 30rem; margin: 0 auto; } .headline strong { display: block; } }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; } }
@media print { body { max-width: none; padding: 0; } figure, li { break-inside: avoid; } }
"""
