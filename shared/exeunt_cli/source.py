"""Where histories come from: a run's subjects in the stream RUNS, or a file. Only read, in both cases."""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from exeunt.bus.configured import connect_as
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable, NoResponders
from exeunt.bus.recall import last_signals
from exeunt.clock import parse_instant, readable_instant
from exeunt.errors import UsageError
from exeunt.events.signals import Signal
from exeunt.history.event import understand_all
from exeunt.history.file import Header, read_history
from exeunt.history.reading import last_record, namespace_filter, read, run_filter
from exeunt.history.record import Problem, Record
from exeunt.history.stops import Stop, stops
from exeunt.run.bobrapet import TRIGGER_TOKEN
from exeunt.run.models import StoryRun
from exeunt.settings import PREFIX, read_settings
from exeunt_cli.errors import NotFound
from exeunt_cli.options import Where

_CONNECT_TIMEOUT = 3.0
LATEST = "@latest"


class Loaded(NamedTuple):
    """A history, read and understood: its records, its stops, and what of it could not be shown."""

    records: list[Record]
    stops: list[Stop]
    problems: list[Problem]
    header: Header | None = None

    @property
    def looked_at(self) -> datetime:
        """When it was as it is shown: now, or when it was exported."""
        exported = readable_instant(self.header.exported_at) if self.header else None
        return exported or datetime.now(UTC)


@asynccontextmanager
async def connected(where: Where, *, follow: bool = False) -> AsyncIterator[Bus]:
    """A connection for reading; whoever goes on to `follow` is told of interruptions. Raises BusUnavailable when there
    is none soon, UsageError for wrong settings.
    """
    _log_from(logging.ERROR)  # what is refused, and that there is no connection, the error tells
    ours = (f"{PREFIX}NATS_", f"{PREFIX}TLS_")
    settings = read_settings({name: os.environ[name] for name in os.environ if name.startswith(ours)})
    bus = await connect_as("exeunt", replace(settings, nats_url=where.nats_url), connect_timeout=_CONNECT_TIMEOUT)
    try:
        if bus.unavailable_reason is not None:
            raise BusUnavailable(f"{bus.unavailable_reason}{_remedy(bus.unavailable_reason)}")
        if follow:
            _log_from(logging.WARNING)
        yield bus
    finally:
        await bus.close(1.0)


def _remedy(reason: str) -> str:
    """What to look at, where the reason does not say it."""
    if "EXEUNT_" in reason or "CERTIFICATE_" in reason:
        return ""
    if "Authorization Violation" in reason:
        return "; EXEUNT_NATS_CREDENTIALS names the file by which NATS knows who asks"
    return "; --nats-url or EXEUNT_NATS_URL says where it is"


def _log_from(level: int) -> None:
    """What the connection logs goes to stderr, beside what was asked for.

    asyncio itself has a warning for each connection with TLS that is over, of which nobody has anything.
    """
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def find(bus: Bus, run: str, namespace: str | None) -> str:
    """The subjects of the run that is meant. Raises NotFound, and UsageError when it could be more than one."""
    if "/" in run:
        own, _, name = run.partition("/")
        if namespace not in (None, own):
            raise UsageError(f"{run} is not in namespace {namespace}")
        namespace, run = own, name
    subjects = namespace_filter(namespace) if run == LATEST else run_filter(namespace, run)
    last = await last_record(bus, subjects)
    if last is None:
        place = f"namespace {namespace}" if namespace else "any namespace"
        what = "nothing" if run == LATEST else f"nothing about a StoryRun {run}"
        raise NotFound(
            f"{what} in {place} is in the stream RUNS: it has realtime runs whose topology was seen or that were"
            " canceled, for as long as EXEUNT_HISTORY; `exeunt runs -A --since 7d` lists them"
        )
    _, _, found, name, *_ = last.subject.split(".")
    if namespace is None and run != LATEST:
        spaces = sorted({record.subject.split(".")[2] async for record in read(bus, subjects)})
        if len(spaces) > 1:
            raise UsageError(f"there is a StoryRun {run} in {', '.join(spaces)}: say which one with -n")
    return f"exeunt.runs.{found}.{name}.>"


async def load(run: str, where: Where) -> Loaded:
    """The history of a run, or of a file. Raises NotFound, UsageError, BusUnavailable."""
    if is_file(run):
        return read_file(run)
    async with connected(where) as bus:
        return understood([record async for record in read(bus, await find(bus, run, where.namespace))])


async def signals_about(bus: Bus, run: StoryRun) -> list[Signal]:
    """The last signals about a run. Raises BusError."""
    token = run.metadata.annotations.get(TRIGGER_TOKEN)
    try:
        return await last_signals(bus, run.metadata.namespace, run.metadata.name, token)
    except NoResponders:
        return []  # no stream, so no signal


def is_file(run: str) -> bool:
    """Whether a file is meant: a run's name has neither a path nor such an ending."""
    return run == "-" or run.endswith(".jsonl") or Path(run).is_file()


def read_file(path: str) -> Loaded:
    """Read an exported history. Raises NotFound when there is no such file or nothing to tell in it."""
    try:
        with open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-") as lines:
            history = read_history(lines)
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from error
    loaded = understood(history.records, history.problems, history.header)
    if not loaded.stops:
        problems = "".join(f"\n  {problem}" for problem in loaded.problems[:_MOST_SHOWN])
        raise NotFound(f"there is no event of Exeunt in {path}{problems}")
    return loaded


_MOST_SHOWN = 5


def understood(records: list[Record], problems: list[Problem] | None = None, header: Header | None = None) -> Loaded:
    """What records tell, with the problems of reading them before those of understanding them."""
    events, more = understand_all(records)
    return Loaded(records, stops(events), [*(problems or ()), *more], header)


def stored_at(record: Record) -> float:
    """When the stream stored it, in seconds since 1970."""
    return parse_instant(record.time).timestamp()
