"""Reads what the services have said of a run, as any outsider could: the stream RUNS, CloudEvents in binary mode."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import nats
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError


class Event(NamedTuple):
    """One message; `kind` is the event that was published, or the verdict of an outcome. `data` is the payload."""

    sequence: int
    at: datetime
    who: str
    kind: str
    data: dict[str, Any]


async def history(
    nats_url: str, namespace: str, run: str, complete: Callable[[list[Event]], bool], within: float = 5
) -> list[Event]:
    """All events of a run, in order, as soon as they are complete; raises AssertionError when they are not in time."""
    events: list[Event] = []
    connection = await nats.connect(nats_url)
    try:
        streams = connection.jetstream()
        subject = f"exeunt.runs.{namespace}.{run.replace('.', '_')}.>"
        async with asyncio.timeout(within):
            while not complete(events):
                after = events[-1].sequence + 1 if events else 1
                try:
                    events.append(_read(await streams.get_msg("RUNS", seq=after, subject=subject, next=True)))
                except NotFoundError:
                    await asyncio.sleep(0.02)
    except TimeoutError:
        published = ", ".join(f"{event.kind} by {event.who}" for event in events) or "nothing"
        raise AssertionError(
            f"something of {run} is not published yet after {within:g} s; said was: {published}"
        ) from None
    finally:
        await connection.close()
    return events


async def last_signal(nats_url: str, trigger_token: str) -> Event:
    """The newest signal that names a run by this trigger token, `kind` without version; raises NotFoundError."""
    connection = await nats.connect(nats_url)
    try:
        subject = f"exeunt.signals._trigger_token.{trigger_token}"
        return _read(await connection.jetstream().get_last_msg("SIGNALS", subject))
    finally:
        await connection.close()


def _read(message: RawStreamMsg) -> Event:
    headers, data = message.headers or {}, json.loads(message.data or b"{}")
    kind = headers["ce-type"].removeprefix("io.bubustack.exeunt.").rpartition(".")[0]
    return Event(
        sequence=message.seq or 0,
        at=datetime.fromisoformat(headers["ce-time"]),
        who=headers["ce-source"].rpartition("/")[2],
        kind=data["trail"][-1]["verdict"] if kind == "outcome" else kind,
        data=data,
    )
