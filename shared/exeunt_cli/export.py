"""`exeunt export`: the whole history of a run as a file that can be read and decided again anywhere."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from exeunt.errors import UsageError
from exeunt.history.file import write_history
from exeunt.history.redaction import redacted
from exeunt_cli.errors import NotFound
from exeunt_cli.options import Run, Where
from exeunt_cli.output import counted, print_note, print_problems
from exeunt_cli.source import load

_EVERYWHERE = Where()


async def export(
    run: Run = "@latest",
    *,
    where: Where = _EVERYWHERE,
    to: Annotated[Path | None, Parameter(help="The file to write; standard output when it is not given.")] = None,
    redact: Annotated[
        bool, Parameter(negative="", help="Replace names and free text; leave out what is unknown.")
    ] = False,
) -> None:
    """Write the whole history of a run as JSON lines: `exeunt export RUN > run.jsonl`."""
    loaded = await load(run, where)
    print_problems(loaded.problems)
    records = list(redacted(loaded.records)) if redact else loaded.records
    if not records:
        raise NotFound(f"nothing of {run} can be understood, so nothing can be redacted")
    _, _, namespace, name, *_ = records[0].subject.split(".")
    lines = write_history(records, run=f"{namespace}/{name}", now=datetime.now(UTC), redacted=redact)
    if to is None:
        sys.stdout.buffer.writelines(lines)
        sys.stdout.flush()
    else:
        try:
            to.write_bytes(b"".join(lines))
        except OSError as error:
            raise UsageError(f"cannot write {to}: {error.strerror}") from error
        print_note(f"{counted(len(records), 'event')} of {namespace}/{name} in {to}")
