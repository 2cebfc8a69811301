"""Photographs the page of `exeunt report` for docs/: a late stop, in windows of three widths, in light and in dark.

`make picture` runs it where there is a Chromium; the stop is that of docs/debugging.md.
"""

import asyncio
import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

import exeunt
from actors.browser import BINARY, Browser
from actors.pictures import WINDOWS, keep
from exeunt_cli.page import page
from exeunt_cli.source import read_file

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "report"


def main() -> None:
    if BINARY is None:
        sys.exit("picture: no chromium on this machine: the pictures of the report stay as they are")
    with tempfile.TemporaryDirectory(prefix="exeunt-picture-") as folder:
        file = Path(folder, "stop.html")
        file.write_text(report(exeunt.__version__))
        asyncio.run(photograph(file))


def report(version: str = "") -> str:
    """What is photographed; without the version, what the pictures have to be of."""
    loaded = read_file(str(ROOT / "docs" / "debugging.jsonl"))
    return page(loaded.stops, loaded.problems, version=version, now=loaded.looked_at)


async def photograph(file: Path) -> None:
    """The page whole, in each window."""
    async with Browser() as browser:
        for width, scheme in WINDOWS:
            await browser.show(file, width=width, scheme=scheme)
            shot = await browser.call("Page.captureScreenshot", captureBeyondViewport=True)
            picture = Image.open(io.BytesIO(base64.b64decode(shot["data"])))
            keep(picture, FOLDER / f"{width}-{scheme}.png", source=report())


if __name__ == "__main__":
    main()
