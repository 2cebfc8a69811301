"""`exeunt report`: a stop as one page, to look at, to attach to a ticket, to read on a phone."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import exeunt
from exeunt.errors import UsageError
from exeunt.history.redaction import redacted
from exeunt_cli.errors import NotFound
from exeunt_cli.live import services_settings
from exeunt_cli.options import Run, TraceUrl, Where
from exeunt_cli.output import counted, print_note, print_problems
from exeunt_cli.page import page
from exeunt_cli.source import load, understood

_EVERYWHERE = Where()


async def report(
    run: Run = "@latest",
    *,
    where: Where = _EVERYWHERE,
    to: Annotated[Path | None, Parameter(help="The file to write; standard output when it is not given.")] = None,
    redact: Annotated[bool, Parameter(negative="", help="Replace names and free text.")] = False,
    trace_url: TraceUrl = None,
) -> None:
    """Write the stops of a run as one self-contained HTML page: `exeunt report RUN --to stop.html`."""
    loaded = await load(run, where)
    print_problems(loaded.problems)
    # What could not be shown may hold any name.
    stops, problems = (
        (understood(list(redacted(loaded.records))).stops, []) if redact else (loaded.stops, loaded.problems)
    )
    if not stops:
        raise NotFound(f"nothing of {run} can be understood, so nothing can be shown")
    text = page(
        stops,
        problems,
        version=exeunt.__version__,
        now=datetime.now(UTC),
        looked_at=loaded.looked_at,
        overdue_after=services_settings().overdue_after,
        trace_url=trace_url,
    )
    if to is None:
        sys.stdout.write(text)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {to}: {error.strerror}") from error
    print_note(f"{counted(len(stops), 'stop')} in {to}")
