"""Records out of a stream, RUNS as a rule, without leaving a trace there.

Everything is a direct get (ADR-31 of NATS): no consumer is made, nothing is acknowledged, and the server's state is the
same before and after. A page is asked for and arrives as a batch on an inbox of its own. nats-py has no batched direct
get, so it is written out here. What is read needs one right: to publish on `$JS.API.DIRECT.GET.<stream>`.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

import msgspec
from nats.aio.msg import Msg

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusError, BusUnavailable, NoResponders, PermissionDenied
from exeunt.clock import format_instant, parse_instant
from exeunt.events.subjects import RUNS
from exeunt.history.record import Record
from exeunt.process.insist import insist

EVERY_RUN: Final = "exeunt.runs.>"
_PAGE: Final = 1_000
_PATIENCE: Final = 5.0
"""Seconds without a message of a page after which NATS counts as away."""
_POLL: Final = 0.2
"""Seconds between two looks at a stream that had nothing new: soon enough for people, cheap for the server."""


def run_filter(namespace: str | None, name: str) -> str:
    """The subjects of one run's history; of the runs of that name in all namespaces when `namespace` is None."""
    return f"exeunt.runs.{namespace or '*'}.{name.replace('.', '_')}.>"


def namespace_filter(namespace: str | None) -> str:
    """The subjects of all runs, or of those of one namespace."""
    return EVERY_RUN if namespace is None else f"exeunt.runs.{namespace}.>"


async def read(
    bus: Bus,
    subjects: str,
    *,
    stream: str = RUNS,
    after: int = 0,
    since: datetime | None = None,
    until: datetime | None = None,
) -> AsyncIterator[Record]:
    """What is stored on the subjects of a filter, oldest first: after a sequence, or since and until an instant.

    Raises BusUnavailable (NoResponders without that stream), PermissionDenied, BusError.
    """
    page = await _page(bus, stream, subjects, after, since)
    while True:
        for record in page.records:
            if until is not None and parse_instant(record.time) > until:
                return
            yield record
        if not page.more:
            return
        page = await _page(bus, stream, subjects, page.records[-1].sequence, None)


async def follow(bus: Bus, subjects: str, *, after: int) -> AsyncIterator[Record]:
    """What is stored from now on, as it comes, for ever; while NATS is away it waits."""
    while True:
        page = await insist("read the stream RUNS", partial(_page, bus, RUNS, subjects, after, None))
        for record in page.records:
            after = record.sequence
            yield record
        if not page.more:
            await asyncio.sleep(_POLL)


async def last_record(bus: Bus, subjects: str) -> Record | None:
    """The newest record on the subjects of a filter. Raises as `read` does."""
    page = await _ask(bus, RUNS, {"last_by_subj": subjects})
    return page.records[0] if page.records else None


class _Page(NamedTuple):
    records: list[Record]
    more: bool


async def _page(bus: Bus, stream: str, subjects: str, after: int, since: datetime | None) -> _Page:
    start: dict[str, object] = {"seq": after + 1} if since is None else {"start_time": format_instant(since)}
    return await _ask(bus, stream, {"batch": _PAGE, "next_by_subj": subjects} | start)


async def _ask(bus: Bus, stream: str, request: dict[str, object]) -> _Page:
    """One request and all its answers: many for a batch, one for a single message."""
    get = f"$JS.API.DIRECT.GET.{stream}"
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    since = asyncio.get_running_loop().time()
    await bus.wait_connected(_PATIENCE)
    inbox = bus.nc.new_inbox()
    subscription = await bus.nc.subscribe(inbox, cb=answers.put)
    try:
        await bus.nc.publish(get, msgspec.json.encode(request), reply=inbox)
        records: list[Record] = []
        while True:
            async with asyncio.timeout(_PATIENCE):
                answer = await answers.get()
            headers = {name.lower(): value for name, value in (answer.headers or {}).items()}
            match headers.get("status"):
                case None:
                    records.append(_record(answer))
                    if "batch" not in request:
                        return _Page(records, more=False)
                case "204":  # end of batch
                    return _Page(records, more=int(headers["nats-num-pending"]) > 0 and bool(records))
                case "404":
                    return _Page([], more=False)
                case "503":
                    raise NoResponders(f"nobody serves the stream {stream}: has Exeunt ever run on this NATS?")
                case status:
                    raise BusError(f"{get} answered {status} {headers.get('description', '')}")
    except TimeoutError:
        if bus.is_denied(get, since=since):
            raise PermissionDenied(f"permission denied for subject {get}: grant it to this user") from None
        raise BusUnavailable(f"no answer on {get} within {_PATIENCE:g} s") from None
    finally:
        if bus.nc.is_connected:
            await subscription.unsubscribe()


_ADDED: Final = frozenset({"nats-stream", "nats-subject", "nats-sequence", "nats-time-stamp", "nats-num-pending",
                           "nats-last-sequence", "nats-upto-sequence"})  # fmt: skip
"""Headers that the server adds to what it hands out."""


def _record(message: Msg) -> Record:
    headers = dict(message.headers or {})
    added = {name.lower(): value for name, value in headers.items()}
    return Record(
        sequence=int(added["nats-sequence"]),
        time=format_instant(parse_instant(added["nats-time-stamp"])),
        subject=added["nats-subject"],
        headers={name: value for name, value in headers.items() if name.lower() not in _ADDED},
        data=message.data,
    )
