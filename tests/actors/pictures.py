"""Pictures that are kept in docs/: the windows that people look through, and what a picture was made of."""

import hashlib
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

WINDOWS: Final = [(width, scheme) for width in (390, 800, 1280) for scheme in ("light", "dark")]
"""A phone, half a screen and a whole one, in pixels; in the light and in the dark."""
_SOURCE: Final = "Source"


def keep(picture: Image.Image, path: Path, *, source: str) -> None:
    """Writes it small, with the digest of what it shows: a test tells when that is another by now."""
    noted = PngInfo()
    noted.add_text(_SOURCE, digest(source))
    few = picture.convert("RGB").quantize(160, dither=Image.Dither.NONE)
    few.save(path, optimize=True, pnginfo=noted)


def made_of(path: Path) -> str:
    """The digest of what a kept picture shows."""
    with Image.open(path) as picture:
        return str(picture.info.get(_SOURCE))


def digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()
