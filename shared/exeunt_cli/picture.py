"""A stop as pictures: how long it took beside what it did not wait for, and what was published in it. Pure.

Both are to scale in themselves. Marks carry the numbers of the events below the picture, so that nothing depends on
colours: a circle is an event, a square a decision. Their colours are the page's (`page`).
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final
from xml.etree.ElementTree import Element

from exeunt.clock import elapsed_in_words, format_duration, in_words
from exeunt.events.event_types import EventType
from exeunt.history.lateness import late_by
from exeunt.history.rendering import RenderedEvent, milliseconds, render
from exeunt.history.stops import Ending, Stop
from exeunt_cli.markup import element
from exeunt_cli.scale import Scale, apart, in_rows, text_width

_EDGE: Final = 14
_BAR: Final = 16
_ROW: Final = 48
_LANE: Final = 70
_LABEL: Final = 18
_RADIUS: Final = 10.0
_SERVICES: Final = ("watcher", "timeout-scheduler", "terminator")
_TICK_ROOM: Final = 90


def waits(stop: Stop, width: int, name: str, now: datetime | None = None) -> Element | None:
    """How long the stop took, beside its shutdown deadline and the drain window; None when nobody has asked for it.

    `name` makes the ids in the picture its own; a stop that goes on is measured up to `now`.
    """
    if stop.asked_at is None or stop.canceled is None:
        return None
    took, late = _took(stop, now), late_by(stop, now)
    bars = [
        (
            "this stop",
            in_words(timedelta(milliseconds=took))
            + ("" if stop.latency else " so far")
            + (f", late by {in_words(late)}" if late else ""),
            took,
            "late" if late else "took" if stop.ending is Ending.FINALIZED else "other",
        )
    ]
    if stop.deadline is not None:
        bars.append(("shutdown deadline", *_compared(stop, stop.deadline - stop.asked_at), "deadline"))
    if stop.drain is not None:
        bars.append(("drain window", *_compared(stop, stop.drain), "drain"))
    scale = Scale(0.0, max(length for *_, length, _ in bars) or 1.0, _EDGE, width - _EDGE)
    drawn: list[Element] = []
    for number, (label, value, length, kind) in enumerate(bars):
        y = 20 + number * _ROW
        drawn += [
            element("text", element("tspan", label, class_="strong"), f" {value}", x=_EDGE, y=y),
            element("rect", x=_EDGE, y=y + 8, width=max(2.0, scale.x(length) - _EDGE), height=_BAR, rx=2,
                    class_=kind, fill=_hatched(name) if kind == "drain" else None),
        ]  # fmt: skip
    bottom = 20 + len(bars) * _ROW - 8
    rendered = "; ".join(f"{label}: {value}" for label, value, *_ in bars)
    return _svg(
        *(_hatch(name), *drawn, *_axis(scale, bottom)),
        name=name,
        size=(width, bottom + 24),
        title=f"How long the stop of {stop.run} took, and what it did not wait for",
        rendered=f"Bars to scale. {rendered}.",
    )


def _took(stop: Stop, now: datetime | None) -> float:
    """Milliseconds until the end; until `now` where an overdue stop goes on, else until its last event."""
    until = now if now is not None and late_by(stop, now) is not None else stop.events[-1].at
    return milliseconds(stop.latency if stop.latency is not None else until - stop.started_at)


def _compared(stop: Stop, wait: timedelta) -> tuple[str, float]:
    """A wait in words, with what became of it, and its length."""
    spared = wait - stop.latency if stop.latency is not None else timedelta(0)
    what = f", {in_words(spared)} not waited for" if spared > timedelta(0) else ""
    return f"{in_words(wait)}{what}", milliseconds(wait)


def lanes(stop: Stop, width: int, name: str) -> Element:
    """What was published, a lane for each service, with the topology above them."""
    rendered = render(stop).events
    times = [event.elapsed_ms for event in rendered]
    marks = list(_marks(stop, max(times)))
    first, last = min([*times, *(at for at, _ in marks)]), max([*times, *(at for at, _ in marks)])
    margin = (last - first or 1.0) * 0.03
    scale = Scale(first - margin, last + margin, _EDGE, width - _EDGE)
    services = [*_SERVICES, *sorted({event.service for event in rendered}.difference(_SERVICES))]
    labels = in_rows(((scale.x(at), label) for at, label in marks), _EDGE, width - _EDGE)
    top = _LABEL * (max((label.row for label in labels), default=-1) + 1) + 6
    services_top = top + _ROW + 8
    bottom = services_top + len(services) * _LANE + 6
    lines: dict[str, float] = {
        service: services_top + (number + 1) * _LANE - 12.0 for number, service in enumerate(services)
    }
    drawn: list[Element] = [_hatch(name)]
    heads = {label: _LABEL * (label.row + 1) - 4 for label in labels}
    drawn += [element("line", x1=at.at, x2=at.at, y1=y + 5, y2=bottom, class_="mark") for at, y in heads.items()]
    drawn += [element("text", label.text, x=label.left, y=y, class_="strong") for label, y in heads.items()]
    drawn += _topology(stop, scale, top, name)
    drawn += _causes(rendered, lines, scale)
    for service, line in lines.items():
        events = [(number, event) for number, event in enumerate(rendered, 1) if event.service == service]
        drawn += _lane(service, events, scale, line)
    return _svg(
        *(*drawn, *_axis(scale, bottom)),
        name=name,
        size=(width, bottom + 24),
        title=f"What was published in the stop of {stop.run}",
        rendered=f"A lane for each service, time to scale from the cancel. {_in_sentences(rendered)}",
    )


def _marks(stop: Stop, last: float) -> Iterator[tuple[float, str]]:
    """Instants that matter to all lanes, in milliseconds from the cancel."""
    if stop.asked_at is None:
        return
    yield 0.0, "cancel"
    gone = next((event for event in stop.run_events if event.snapshot.topology.gone is not None), None)
    if gone is not None and gone.snapshot.topology.gone is not None:
        yield milliseconds(gone.at - stop.asked_at), f"gone: {gone.snapshot.topology.gone.kind}"
    if stop.deadline is not None and (deadline := milliseconds(stop.deadline - stop.asked_at)) <= last:
        yield deadline, "shutdown deadline"
    if stop.drain is not None and (drain := milliseconds(stop.drain)) <= last:
        yield drain, "drain window over"
    if stop.latency is not None:
        yield milliseconds(stop.latency), "deleted" if stop.ending is Ending.DELETED else "ended"


def _topology(stop: Stop, scale: Scale, top: float, name: str) -> Iterator[Element]:
    """What the watcher knew of the topology over time, as a bar."""
    yield element("text", "topology", x=_EDGE, y=top + 14, class_="strong")
    spans: list[tuple[float, str]] = []
    for event in stop.run_events:
        if event.event_type is EventType.DEADLINE_REACHED:
            continue  # the timeout-scheduler does not look at topologies
        if event.snapshot.run.terminal:
            break  # bobrapet takes down what is left, and the hub's condition is overwritten
        topology = event.snapshot.topology
        state = "gone" if topology.gone else "up" if topology.established else "not seen"
        if not spans or spans[-1][1] != state:
            spans.append((milliseconds(event.at - stop.started_at), state))
    end = milliseconds(stop.latency) if stop.latency is not None else scale.end
    for number, (start, state) in enumerate(spans):
        until = spans[number + 1][0] if number + 1 < len(spans) else max(end, start)
        left, right = scale.x(start), scale.x(until)
        fill = _hatched(name) if state == "gone" else None
        yield element("rect", element("title", state), x=left, y=top + 22, width=max(1.0, round(right - left, 2)),
                      height=_BAR, class_=state.replace(" ", "-"), fill=fill)  # fmt: skip
        if text_width(state) + 8 < right - left:
            yield element("text", state, x=left + 5, y=top + 34, class_=f"on-{state.replace(' ', '-')}")


def _causes(rendered: list[RenderedEvent], lines: dict[str, float], scale: Scale) -> Iterator[Element]:
    """A line from each event to the decisions that it caused."""
    event_types = {event.sequence: event for event in rendered if event.kind == "fact"}
    for event in rendered:
        cause = event_types.get(event.cause_sequence or 0)
        if event.kind == "outcome" and cause is not None:
            x1, x2 = scale.x(cause.elapsed_ms), scale.x(event.elapsed_ms)
            y1, y2 = lines[cause.service], lines[event.service]
            middle = round((y1 + y2) / 2, 2)
            yield element(
                "path", d=f"M{x1:g} {y1:g} C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}", class_="cause"
            )


def _lane(service: str, events: list[tuple[int, RenderedEvent]], scale: Scale, line: float) -> Iterator[Element]:
    """One service: a dot at the very instant of each event, and its number above, where there is room for it."""
    yield element("text", element("tspan", service, class_="strong"), None if events else " published nothing",
                  x=_EDGE, y=line - 42)  # fmt: skip
    yield element("line", x1=scale.left, x2=scale.right, y1=line, y2=line, class_="lane")
    events = sorted(events, key=lambda numbered: numbered[1].elapsed_ms)
    exact = [scale.x(event.elapsed_ms) for _, event in events]
    edge = _RADIUS + 1
    shown = apart(exact, 2 * _RADIUS + 4, scale.left + edge, scale.right - edge)
    taken = scale.left
    for at, ((number, event), x, badge) in enumerate(zip(events, exact, shown, strict=True)):
        yield element("line", x1=x, y1=line, x2=badge, y2=line - 14, class_="leader")
        yield element("circle", cx=x, cy=line, r=2.5, class_="instant")
        yield _badge(number, event, badge, line - 24)
        after, width = badge + _RADIUS + 4, text_width(event.what)
        room = (shown[at + 1] if at + 1 < len(shown) else scale.right + edge) - edge
        before = badge - _RADIUS - 4 - width
        if after + width <= room:
            yield element("text", event.what, x=after, y=line - 20)
            taken = after + width
        elif before > taken + 4:
            yield element("text", event.what, x=round(before, 2), y=line - 20)
            taken = badge + _RADIUS
        else:
            taken = badge + _RADIUS


def _badge(number: int, event: RenderedEvent, x: float, y: float) -> Element:
    box = (
        element("circle", cx=x, cy=y, r=_RADIUS)
        if event.kind == "fact"
        else element("rect", x=x - _RADIUS, y=y - _RADIUS, width=2 * _RADIUS, height=2 * _RADIUS, rx=3)
    )
    tooltip = f"{elapsed_in_words(event.elapsed_ms)} {event.service}: {event.what} - {event.why}"
    text = element("text", str(number), x=x, y=y + 4, text_anchor="middle")
    return element(
        "g", element("title", tooltip), box, text, class_=f"badge {event.kind} {event.what.replace(' ', '-')}"
    )


def _axis(scale: Scale, y: float) -> Iterator[Element]:
    """Ticks in time from the cancel."""
    yield element("line", x1=scale.left, x2=scale.right, y1=y, y2=y, class_="axis")
    for tick in scale.ticks(max(2, int((scale.right - scale.left) / _TICK_ROOM))):
        x, label = scale.x(tick), format_duration(timedelta(milliseconds=tick))
        half = text_width(label) / 2 + 3  # digits and units are wide
        middle = max(scale.left + half - _EDGE, min(x, scale.right - half + _EDGE))
        yield element("line", x1=x, x2=x, y1=y, y2=y + 5, class_="axis")
        yield element("text", label, x=round(middle, 2), y=y + 19, text_anchor="middle", class_="tick")


def _hatch(name: str) -> Element:
    """What did not happen is drawn hatched."""
    line = element("path", d="M0 8 L8 0", class_="hatch")
    return element("defs", element("pattern", line, id=f"{name}-hatch", width=8, height=8,
                                   patternUnits="userSpaceOnUse"))  # fmt: skip


def _hatched(name: str) -> str:
    return f"url(#{name}-hatch)"


def _svg(*content: Element, name: str, size: tuple[float, float], title: str, rendered: str) -> Element:
    width, height = size
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", rendered, id=f"{name}-desc"),
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-desc",
    )


def _in_sentences(rendered: list[RenderedEvent]) -> str:
    return " ".join(
        f"{number}: {elapsed_in_words(event.elapsed_ms)}, {event.service}, {event.what}."
        for number, event in enumerate(rendered, 1)
    )
