"""Pull consumers, made when missing and adjusted when present; `pull` takes messages from one.

Whoever runs NATS may allow fewer pending acks than we want, which is slower and does no harm. What would keep messages
or their bodies from us is taken out again.
"""

import re
from collections.abc import Iterable
from typing import Any

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import ApiRefused, StreamMisconfigured
from exeunt.bus.streams import NANOSECONDS, STREAM_NOT_FOUND

CONSUMER_NOT_FOUND = 10014
CONSUMERS_LIMIT = 10026
MAX_ACK_PENDING_EXCEEDED = 10121

log = structlog.get_logger(__name__)

_NOT_OURS = frozenset(
    {
        "backoff",
        "headers_only",
        "inactive_threshold",
        "max_batch",
        "max_bytes",
        "max_expires",
        "priority_groups",
        "priority_policy",
        "priority_timeout",
        "rate_limit_bps",
    }
)
"""What keeps bodies or messages from us, makes pulls fail, or overrides ack_wait."""


async def ensure_consumer(
    bus: Bus,
    stream: str,
    durable: str,
    filter_subjects: Iterable[str],
    *,
    ack_wait: float,
    max_ack_pending: int,
    inactive_after: float = 0.0,
    description: str = "",
) -> None:
    """Make or adjust a pull consumer: explicit acks, no delivery limit, from the first message on.

    `ack_wait` is in seconds. It is durable, unless the server is to drop it when nobody has pulled from it for
    `inactive_after` seconds. A consumer whose filters or limits differ is updated in place and keeps its
    position. Where the account allows less than `max_ack_pending`, it is what the account allows. Raises
    StreamMisconfigured when it is of another kind or refused, ApiRefused (10059: no such stream), BusUnavailable.
    """
    wanted: dict[str, Any] = {
        "filter_subjects": sorted(filter_subjects),
        "ack_wait": int(ack_wait * NANOSECONDS),
        "max_ack_pending": max_ack_pending,
        "max_deliver": -1,
    }
    if inactive_after:
        wanted["inactive_threshold"] = int(inactive_after * NANOSECONDS)
    kind = {
        "name" if inactive_after else "durable_name": durable,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
    }
    bus.change.groups.add(f"CONSUMER.INFO.{stream}.{durable}")
    try:
        found = (await bus.api(f"CONSUMER.INFO.{stream}.{durable}"))["config"]
    except ApiRefused as refused:
        if refused.err_code != CONSUMER_NOT_FOUND:
            raise
        config, unchanged = wanted | kind | {"description": description}, None
    else:
        if found.get("deliver_subject") or found["ack_policy"] != "explicit":
            raise StreamMisconfigured(
                f"consumer {durable} of stream {stream} is no pull consumer with explicit acks:"
                f" run `nats consumer rm {stream} {durable}` and start again"
            )
        filters = found.pop("filter_subjects", None) or [found.pop("filter_subject", "")]
        unchanged = found | {"filter_subjects": sorted(filters)}
        config = {key: value for key, value in found.items() if key not in _NOT_OURS} | wanted
    if config == unchanged:
        return
    try:
        await _set(bus, stream, durable, config)
    except ApiRefused as refused:
        most = re.search(r"\d+$", refused.description)
        if refused.err_code != MAX_ACK_PENDING_EXCEEDED or most is None:
            raise
        config |= {"max_ack_pending": int(most.group())}
        if config == unchanged:
            return
        log.warning("max_ack_pending capped", stream=stream, consumer=durable, may=int(most.group()))
        await _set(bus, stream, durable, config)
    log.info("consumer set", stream=stream, consumer=durable, **{name: config[name] for name in wanted})


async def _set(bus: Bus, stream: str, durable: str, config: dict[str, Any]) -> None:
    """Raises StreamMisconfigured, ApiRefused (10059; 10121: what we want exceeds a cap)."""
    try:
        await bus.api(f"CONSUMER.CREATE.{stream}.{durable}", {"stream_name": stream, "config": config})
    except ApiRefused as refused:
        if refused.err_code in {STREAM_NOT_FOUND, MAX_ACK_PENDING_EXCEEDED}:
            raise
        remedy = (
            "have max_consumers of the account and of the stream raised"
            if refused.err_code == CONSUMERS_LIMIT
            else f"mend that, or run `nats consumer rm {stream} {durable}` and start again"
        )
        raise StreamMisconfigured(
            f"consumer {durable} of stream {stream} cannot be made or adjusted: {refused.description}; {remedy}"
        ) from refused
