"""The debugging session in docs/debugging.md is what the commands print."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SESSION: Final = re.findall(
    r"^\$ exeunt (.*docs/debugging\.jsonl.*)\n((?:.*\n)+?)```",
    (ROOT / "docs" / "debugging.md").read_text(),
    re.MULTILINE,
)


def test_the_page_has_a_session() -> None:
    assert [command.split()[0] for command, _ in SESSION] == ["timeline", "explain", "replay", "replay", "replay"]


@pytest.mark.parametrize(("command", "shown"), SESSION, ids=[command for command, _ in SESSION])
def test_the_page_shows_what_the_command_prints(command: str, shown: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "exeunt_cli", *command.split()],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert [line.rstrip() for line in ran.stdout.splitlines()] == shown.splitlines()
