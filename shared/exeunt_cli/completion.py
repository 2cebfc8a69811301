"""Completion in shells: `kubectl_complete-exeunt` answers what may stand in place of the last word.

kubectl asks it for `kubectl exeunt` by itself, and the scripts of `exeunt completion` ask it for `exeunt`. The answer
is in cobra's format: a candidate on each line, and at the end a directive: 4, no files besides, or 0. It never fails,
and gives up on NATS within two seconds: somebody waits at a prompt.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Literal

from cyclopts import App

from exeunt.errors import ExeuntError
from exeunt.events.subjects import RUNS
from exeunt_cli.options import Where

_PATIENCE: Final = 2.0  # seconds
_NO_FILES: Final = 4

Shell = Literal["bash", "zsh", "fish"]
SCRIPTS: Final[dict[Shell, str]] = {
    "bash": """\
_exeunt() {
  local IFS=$'\\n'
  COMPREPLY=($(kubectl_complete-exeunt "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | sed '$d'))
}
complete -o default -F _exeunt exeunt
""",
    "zsh": """\
#compdef exeunt
_exeunt() {
  local -a found
  found=(${(f)"$(kubectl_complete-exeunt "${(@)words[2,CURRENT]}" 2>/dev/null | sed '$d')"})
  compadd -a found || _files
}
compdef _exeunt exeunt
""",
    "fish": """\
complete -c exeunt -a '(kubectl_complete-exeunt (commandline -opc)[2..] (commandline -ct) 2>/dev/null | sed \\$d)'
""",
}

Runs = Callable[[str | None], Iterable[str]]
"""The names of the runs that have been canceled in a namespace; of all, as NAMESPACE/NAME, if it is None."""


def candidates(app: App, words: Sequence[str], runs: Runs) -> tuple[list[str], int]:
    """What may stand in place of the last of `words`, and the directive. It begins with what is there already."""
    *before, last = words or [""]
    at, given = app, list(before)
    while given and given[0] in _commands(at):
        at = at[given.pop(0)]
    found, files = list(_candidates(at, given, last, runs)), False
    if found == [None]:
        found, files = [], True
    fitting = sorted({each for each in found if each is not None and each.startswith(last)})
    return fitting, 0 if files else _NO_FILES


def _candidates(at: App, given: list[str], last: str, runs: Runs) -> Iterator[str | None]:
    """None alone means files."""
    if commands := _commands(at):
        yield from commands
        return
    options = [each for each in at.assemble_argument_collection() if each.show and each.names]
    before = given[-1] if given else ""
    awaited = next((each for each in options if before in each.names and each.hint is not bool), None)
    if before.startswith("-") and awaited is not None:
        yield from awaited.get_choices() or [None]
    elif last.startswith("-"):
        yield from (name for each in options for name in each.names if name != "--run")
        yield "--help"
    elif any("--run" in each.names for each in options):
        yield from runs(_value_of(given, "--namespace", "-n"))
        yield "@latest"
    else:
        yield None


def _commands(app: App) -> list[str]:
    return [name for name in app if not name.startswith("-")]


def _value_of(given: Sequence[str], *names: str) -> str | None:
    for option, value in pairwise(given):
        if option in names:
            return value
    return None


def canceled_runs(namespace: str | None) -> list[str]:
    """As the stream RUNS names them; none where it cannot be read soon."""
    try:
        return asyncio.run(asyncio.wait_for(_canceled_runs(namespace), _PATIENCE))
    except (ExeuntError, TimeoutError):
        return []


async def _canceled_runs(namespace: str | None) -> list[str]:
    from exeunt_cli.source import connected  # noqa: PLC0415 - only where a run is asked for

    url = os.environ.get("EXEUNT_NATS_URL", Where.nats_url)
    async with connected(Where(nats_url=url)) as bus:
        subjects = f"exeunt.runs.{namespace or '*'}.*.*.*.cancel-requested"  # one for each cancellation
        info: dict[str, Any] = await bus.api(f"STREAM.INFO.{RUNS}", {"subjects_filter": subjects})
    named = {tuple(subject.split(".")[2:4]) for subject in info["state"].get("subjects") or ()}
    # On a subject a dot of a name is "_", which no name has.
    return [name.replace("_", ".") if namespace else f"{of}/{name.replace('_', '.')}" for of, name in sorted(named)]


def main() -> None:
    """Print what may stand in place of the last argument."""
    from exeunt_cli.__main__ import app  # noqa: PLC0415 - which loads this module

    found, directive = candidates(app, sys.argv[1:], canceled_runs)
    sys.stdout.write("".join(f"{each}\n" for each in [*found, f":{directive}"]))
