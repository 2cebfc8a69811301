"""The pictures of docs/ are those of today's code: each has the digest of what it was made of."""

from pathlib import Path
from typing import Final

import pytest

import dashboard_picture
import report_pictures
from actors.pictures import WINDOWS, digest, made_of

NAMES: Final = {f"{width}-{scheme}.png" for width, scheme in WINDOWS}


@pytest.mark.parametrize(
    ("folder", "more", "source"),
    [
        (report_pictures.FOLDER, set(), report_pictures.report()),
        (dashboard_picture.FOLDER, {"all.png"}, dashboard_picture.shown()),
    ],
    ids=["report", "dashboard"],
)
def test_every_window_is_kept_and_shows_what_there_is_today(folder: Path, more: set[str], source: str) -> None:
    kept = {path.name: made_of(path) for path in folder.iterdir()}
    assert kept == dict.fromkeys(NAMES | more, digest(source)), "`make picture` makes them anew"
