"""Plays a machine whose clock is wrong: a service's process whose `datetime.now` is ahead of everybody else's."""

from datetime import timedelta
from pathlib import Path
from typing import Final

_ON_START: Final = """
import datetime

class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds={seconds})

datetime.datetime = Shifted
"""


def clock_ahead(folder: Path, by: timedelta) -> dict[str, str]:
    """The environment of such a process. Python runs `sitecustomize` before anything else."""
    (folder / "sitecustomize.py").write_text(_ON_START.format(seconds=by.total_seconds()))
    return {"PYTHONPATH": str(folder)}
