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
from exeunt_cli.page import page
from exeunt_cli.source import read_file

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "report"
WIDTHS: Final = (390, 800, 1280)
SCHEMES: Final = ("light", "dark")


def main() -> None:
    if BINARY is None:
        sys.exit("picture: no chromium on this machine: the pictures of the report stay as they are")
    loaded = read_file(str(ROOT / "docs" / "debugging.jsonl"))
    with tempfile.TemporaryDirectory(prefix="exeunt-picture-") as folder:
        file = Path(folder, "stop.html")
        file.write_text(page(loaded.stops, loaded.problems, version=exeunt.__version__, now=loaded.looked_at))
        for name, shot in asyncio.run(shots(file)):
            small = Image.open(io.BytesIO(shot)).convert("RGB").quantize(160, dither=Image.Dither.NONE)
            small.save(FOLDER / name, optimize=True)


async def shots(file: Path) -> list[tuple[str, bytes]]:
    """The page whole, as PNG, in each window."""
    taken: list[tuple[str, bytes]] = []
    async with Browser() as browser:
        for width in WIDTHS:
            for scheme in SCHEMES:
                await browser.show(file, width=width, scheme=scheme)
                shot = await browser.call("Page.captureScreenshot", captureBeyondViewport=True)
                taken.append((f"{width}-{scheme}.png", base64.b64decode(shot["data"])))
    return taken


if __name__ == "__main__":
    main()
