"""How a consumer stands, asked of the server: how far it is behind, and what keeps messages from it while its pulls
look well. `pull` asks now and then, beside its loop; whoever has to have heard everything asks until it is so.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, NoReturn

import structlog

from exeunt.back_off import spread
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusError
from exeunt.bus.unanswered import MISSED, silence_of_majority
from exeunt.telemetry.metrics import CONSUMER_PENDING, CONSUMER_UNACKNOWLEDGED

_INTERVAL: Final = 10.0  # seconds
_RARELY: Final = 60.0  # seconds; somebody may give a stream replicas
_LOOK_AT_MAJORITY: Final = 1.5  # seconds
_LOOK: Final = 0.05  # seconds
_NEARLY_FULL: Final = 0.8

log = structlog.get_logger(__name__)


async def look_for_a_majority(bus: Bus, stream: str, consumer: str, report: Callable[[float | None], None]) -> NoReturn:
    """Ask for ever, where there are replicas, whether the consumer's leader hears the others, and `report` since when
    (loop time) it has not.

    One that is cut off from them answers, and sends heartbeats, for 17 s more, and meanwhile all that is new goes to
    another (measured, nats-server 2.15.1).
    """
    what = f"majority for consumer {consumer} of stream {stream}"
    while True:
        interval = _RARELY
        try:
            info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}")
            if replicas := info.get("cluster", {}).get("replicas"):
                interval, silent = _LOOK_AT_MAJORITY, silence_of_majority(replicas)
                if silent < MISSED:
                    bus.change.proven()
                    bus.change.answered(what)
                    report(None)
                else:
                    since = asyncio.get_running_loop().time() - silent
                    report(since)
                    bus.change.unanswered(what, f"no {what}", since=since)
            else:
                report(None)
        except BusError as error:
            log.debug("majority unknown", consumer=consumer, error=str(error))
            interval = _LOOK_AT_MAJORITY
        await asyncio.sleep(spread(interval))


def measure_lag(info: dict[str, Any], label: str) -> None:
    """How far behind a consumer is, by what the server tells of it."""
    CONSUMER_PENDING.set(info["num_pending"], consumer=label)
    CONSUMER_UNACKNOWLEDGED.set(info["num_ack_pending"], consumer=label)


async def report_lag(
    bus: Bus, stream: str, consumer: str, label: str, report: Callable[[str | None], None]
) -> NoReturn:
    """Ask for ever, measure it as `label`, and `report` what is wrong, or None. What NATS does not answer is asked
    again next time; the pull loop says what is wrong then.
    """
    reported: str | None = None
    while True:
        try:
            info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}")
            measure_lag(info, label)
            unavailable_reason = _paused(info, stream, consumer) or _at_its_limit(info, stream, consumer)
            unavailable_reason = unavailable_reason or _full(await bus.api(f"STREAM.INFO.{stream}"), stream)
        except BusError as error:
            log.debug("lag unknown", consumer=label, error=str(error))
        else:
            report(unavailable_reason)
            if unavailable_reason != reported:
                log.warning("consumer stands", consumer=label, trouble=unavailable_reason)
            reported = unavailable_reason
        await asyncio.sleep(spread(_INTERVAL))


async def caught_up(bus: Bus, stream: str, consumer: str) -> None:
    """Return once the consumer has acknowledged all that was in the stream when this began, however long that takes.

    Raises ApiRefused when there is no such stream or consumer (any more), BusUnavailable, PermissionDenied.
    """
    last = (await bus.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    while True:
        info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}")
        if info["ack_floor"]["stream_seq"] >= last or not (info["num_pending"] or info["num_ack_pending"]):
            return
        await asyncio.sleep(_LOOK)


def _paused(consumer: dict[str, Any], stream: str, name: str) -> str | None:
    """Its pulls are answered with heartbeats, as if there were no messages."""
    if not consumer.get("paused"):
        return None
    until = consumer["config"].get("pause_until", "somebody resumes it")
    return f"consumer {name} is paused until {until}: run `nats consumer resume {stream} {name}`"


def _at_its_limit(consumer: dict[str, Any], stream: str, name: str) -> str | None:
    """It is given no more until an older message is answered for good; a room's look is not before the room is over."""
    most = consumer["config"].get("max_ack_pending", -1)
    if not consumer["num_pending"] or most <= 0 or consumer["num_ack_pending"] < most:
        return None
    return (
        f"consumer {name} has {most} messages without an answer, which is all that it may have, and"
        f" {consumer['num_pending']} wait: have max_ack_pending of the account raised, or run"
        f" `nats consumer edit {stream} {name} --max-pending={2 * most}`"
    )


def _full(info: dict[str, Any], stream: str) -> str | None:
    """Of a workqueue that is full the oldest messages go, although nobody has handled them."""
    size, room = info["state"]["bytes"], info["config"].get("max_bytes", -1)
    if info["config"]["retention"] != "workqueue" or room <= 0 or size < _NEARLY_FULL * room:
        return None
    return (
        f"stream {stream} holds {size} of {room} bytes; once it is full, its oldest messages are lost:"
        f" run `nats stream edit {stream} --max-bytes={2 * room}`"
    )
