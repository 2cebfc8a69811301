"""The report page as a reader sees it, in a real browser: on a desk and on a phone, in the light and in the dark."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from actors.browser import BINARY, Browser
from exeunt_cli.page import page
from exeunt_cli.source import read_file

pytestmark = pytest.mark.skipif(BINARY is None, reason="no chromium on this machine")

FOLDER: Final = Path(__file__).parents[1] / "histories"
HISTORIES: Final = ["cancel-then-gone", "deadline-default", "dead-letter", "deleted-meanwhile", "racing", "redriven"]

SHOWN: Final = """
(() => {
  const box = node => { const r = node.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const visible = node => node.getClientRects().length > 0;
  const luminance = color => {
    const [r, g, b] = color.match(/[0-9.]+/g).map(part => { const c = part / 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (one, other) => { const [a, b] = [luminance(one), luminance(other)].sort();
    return (b + 0.05) / (a + 0.05); };
  const paper = getComputedStyle(document.body).backgroundColor;
  return {
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: document.documentElement.clientWidth,
    pictures: [...document.querySelectorAll("svg")].filter(visible).map(svg => ({
      box: box(svg),
      sizes: [...svg.querySelectorAll("text")].map(text =>
        parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a),
      texts: [...svg.querySelectorAll("text")].map(text => [text.textContent, ...box(text)]),
      badges: [...svg.querySelectorAll("g.badge")].map(badge => box(badge)),
      colours: [...svg.querySelectorAll("text")].filter(text => text.closest(".badge") === null
        && !/^on-/.test(text.getAttribute("class") || "")).map(text =>
        contrast(getComputedStyle(text).fill, getComputedStyle(svg.closest("figure")).backgroundColor)),
    })),
    events: [...document.querySelectorAll(".events time")].filter(visible).length,
    contrast: [...document.querySelectorAll("h1, h2, .why, .service, time, dt, dd, footer p")].map(node =>
      contrast(getComputedStyle(node).color, paper)),
    paper: luminance(paper),
  };
})()
"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with Browser() as browser:
        yield browser


def covers(one: list[float], other: list[float]) -> bool:
    """Whether two boxes share more than the room around their letters."""
    return all(min(one[i + 2], other[i + 2]) - max(one[i], other[i]) > room for i, room in ((0, 1.0), (1, 5.0)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 800, 1280])
@pytest.mark.parametrize("history", HISTORIES)
async def test_a_page_can_be_read(browser: Browser, tmp_path: Path, history: str, width: int, scheme: str) -> None:
    loaded = read_file(str(FOLDER / f"{history}.jsonl"))
    file = tmp_path / "stop.html"
    file.write_text(page(loaded.stops, loaded.problems, version="0.0", now=datetime.now(UTC)))
    await browser.show(file, width=width, scheme=scheme)
    shown: dict[str, Any] = await browser.evaluate(SHOWN)

    assert shown["overflow"] <= 0
    assert shown["events"] == sum(len(stop.events) for stop in loaded.stops)
    assert len(shown["pictures"]) == 2 * len(loaded.stops)
    for picture in shown["pictures"]:
        left, top, right, bottom = picture["box"]
        assert 0 <= left < right <= shown["width"]
        assert 9.5 <= min(picture["sizes"]) <= max(picture["sizes"]) <= 18
        texts = picture["texts"]
        for text, *box in texts:
            assert left - 2 <= box[0] <= box[2] <= right + 2, text
            assert top - 4 <= box[1] <= box[3] <= bottom + 4, text
        for number, (text, *box) in enumerate(texts):
            assert [other for other, *there in texts[number + 1 :] if covers(box, there)] == [], text
        assert min(picture["colours"]) >= 4.5
    assert min(shown["contrast"]) >= 4.5
    assert (shown["paper"] < 0.5) == (scheme == "dark")


async def test_nothing_is_loaded_run_or_complained_about(browser: Browser, tmp_path: Path) -> None:
    loaded = read_file(str(FOLDER / "racing.jsonl"))
    file = tmp_path / "stop.html"
    file.write_text(page(loaded.stops, loaded.problems, version="0.0", now=datetime.now(UTC)))
    await browser.show(file, width=1100, scheme="light")
    asked = [
        each["params"]["request"]["url"] for each in browser.heard if each["method"] == "Network.requestWillBeSent"
    ]
    assert asked == [file.as_uri()]
    assert [each for each in browser.heard if each["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled")] == []
