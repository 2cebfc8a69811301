"""The report page, as text: well-formed, self-contained, told without pictures, and true to scale."""

import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunt.history.record import Problem
from exeunt.history.redaction import redacted
from exeunt.history.rendering import milliseconds
from exeunt_cli.markup import document, element
from exeunt_cli.page import page
from exeunt_cli.picture import lanes, waits
from exeunt_cli.scale import Scale, apart, in_rows, text_width
from exeunt_cli.source import Loaded, read_file, understood

FOLDER: Final = Path(__file__).parents[1] / "histories"
GOLDEN: Final = sorted(FOLDER.glob("*.jsonl"))
NOW: Final = datetime(2026, 11, 24, tzinfo=UTC)


def reported(name: str) -> Loaded:
    return read_file(str(FOLDER / f"{name}.jsonl"))


def page_of(history: Loaded, trace_url: str | None = None) -> str:
    return page(history.stops, history.problems, version="0.0", now=NOW, trace_url=trace_url)


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_page_is_well_formed_and_needs_nothing_else(path: Path) -> None:
    text = page_of(read_file(str(path)))
    root = parsed(text)
    assert "://" not in text
    assert "url(" not in text.replace("url(#", "")
    assert not {"script", "link", "img", "iframe", "object"} & {node.tag for node in root.iter()}
    assert not any(name in ("href", "src") for node in root.iter() for name in node.attrib)
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    # An HTML parser takes a lone `<p/>` for an open tag: nothing but void elements and SVG may be empty.
    empty = {node.tag for node in root.iter() if not node.text and not len(node)}
    assert empty <= {"meta", "rect", "line", "circle", "path"}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_picture_is_reported_in_words_and_every_event_is_listed(path: Path) -> None:
    history = read_file(str(path))
    root = parsed(page_of(history))
    pictures = list(root.iter("svg"))
    assert pictures
    for picture in pictures:
        named = {node.attrib["id"]: node.text for node in picture.iter() if "id" in node.attrib and node.text}
        assert picture.attrib["role"] == "img"
        assert named[picture.attrib["aria-labelledby"]]
        assert named[picture.attrib["aria-describedby"]]
    listed = [node.attrib["datetime"] for node in root.iter("time")]
    assert len(listed) == sum(len(stop.events) for stop in history.stops)
    # Each of the two widths of the picture shows the number of every event.
    shown = [node for node in root.iter("g") if "badge" in node.attrib.get("class", "")]
    assert len(shown) == 2 * len(listed)


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    (stop,) = reported("deadline-default").stops
    picture = waits(stop, 1000, "x")
    assert picture is not None
    bars = {node.attrib["class"]: float(node.attrib["width"]) for node in picture.iter("rect")}
    assert stop.latency is not None
    assert stop.drain is not None
    assert bars["took"] / bars["drain"] == pytest.approx(
        milliseconds(stop.latency) / milliseconds(stop.drain), rel=0.01
    )
    assert "drain window 2m0s, 1m59.082s not waited for" in "".join(picture.itertext())


def test_only_the_watcher_knows_of_the_topology() -> None:
    (stop,) = reported("overdue-again").stops
    states = [node.attrib["class"] for node in lanes(stop, 1000, "x").iter("rect") if node.find("title") is not None]
    assert states == ["up"]


def test_the_trace_is_a_link_only_when_it_is_known_where_traces_are() -> None:
    history = next(each for each in map(read_file, map(str, GOLDEN)) if each.stops[0].trace_id is None)
    traced = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    for record in history.records:
        record.headers.update(traced)
    history = understood(history.records)
    assert "a" * 32 in page_of(history)
    links = [node.attrib["href"] for node in parsed(page_of(history, "https://grafana/{trace_id}")).iter("a")]
    assert links == [f"https://grafana/{'a' * 32}"]


def test_what_could_not_be_reported_is_on_the_page_and_names_are_not_when_it_is_redacted() -> None:
    history = reported("racing")
    text = page(history.stops, [Problem("line 3", "<b>no</b> record")], version="0.0", now=NOW)
    assert "line 3: &lt;b&gt;no&lt;/b&gt; record" in text
    assert "livekit-voice/racing" in text
    assert not re.search(r"livekit|racing", page_of(understood(list(redacted(history.records)))))


@given(st.text())
def test_text_of_others_is_only_text(text: str) -> None:
    root = parsed(document(element("p", text, element("b", "!"), text, title=text)))
    assert [node.tag for node in root.iter()] == ["p", "b"]
    assert root.attrib["title"].count("<") == text.count("<")


PLACES: Final = st.lists(st.floats(0, 1000, allow_nan=False), max_size=40).map(sorted)


@given(PLACES)
def test_marks_keep_apart_and_inside(places: list[float]) -> None:
    moved = apart(places, 20, 0, 1000)
    gap = min(20, 1000 / (len(places) or 1))
    assert all(later - earlier >= gap - 0.02 for earlier, later in itertools.pairwise(moved))
    assert all(-0.02 <= place <= 1000.02 for place in moved)


@given(PLACES)
def test_labels_do_not_cover_each_other(places: list[float]) -> None:
    labels = in_rows(((at, "some label") for at in places), 0, 1000)
    width = text_width("some label")
    rows: dict[int, list[float]] = {}
    for label in labels:
        rows.setdefault(label.row, []).append(label.left)
    for row in rows.values():
        assert all(later - earlier >= width for earlier, later in zip(sorted(row), sorted(row)[1:], strict=False))


@given(st.floats(-1e7, 1e7, allow_nan=False), st.floats(1e-3, 1e9, allow_nan=False))
def test_ticks_are_few_and_on_the_axis(start: float, length: float) -> None:
    scale = Scale(start, start + length, 0, 100)
    ticks = scale.ticks(8)
    assert len(ticks) <= 16
    assert all(scale.holds(tick) for tick in ticks)
    assert ticks == sorted(set(ticks))
