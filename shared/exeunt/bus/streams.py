"""Streams and consumers, made when missing and checked when present; `exeunt.streams` names those of the mesh.

Whoever runs NATS may have made the streams first, with replicas, placement or limits of their own. So a
present stream is judged only by what would lose data or break us, and then the start stops with the command
that mends it. What can only grow (subjects, direct reads, schedules) is switched on. `publisher` writes to
these streams, `pull` reads.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import ApiRefused, PermissionDenied, StreamMisconfigured
from exeunt.metrics import STREAMS_CREATED

NANOSECONDS = 1_000_000_000
UNLIMITED = -1

CONSUMER_NOT_FOUND = 10014
STREAM_NAME_IN_USE = 10058
STREAM_NOT_FOUND = 10059

log = structlog.get_logger(__name__)


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as we want it. `max_age` is in seconds, 0 for ever; the other limits are -1 for none."""

    name: str
    subjects: tuple[str, ...]
    description: str
    retention: Literal["limits", "workqueue"] = "limits"
    max_age: float = 0.0
    max_msgs: int = UNLIMITED
    max_bytes: int = UNLIMITED
    max_msg_size: int = UNLIMITED
    max_msgs_per_subject: int = UNLIMITED
    replicas: int = 1
    allow_msg_schedules: bool = False
    allow_msg_ttl: bool = False

    def config(self) -> dict[str, Any]:
        """The configuration for `$JS.API.STREAM.CREATE`."""
        return {
            "name": self.name,
            "description": self.description,
            "subjects": list(self.subjects),
            "retention": self.retention,
            "storage": "file",
            "discard": "old",
            "max_age": int(self.max_age * NANOSECONDS),
            "max_msgs": self.max_msgs,
            "max_bytes": self.max_bytes,
            "max_msg_size": self.max_msg_size,
            "max_msgs_per_subject": self.max_msgs_per_subject,
            "max_consumers": -1,
            "num_replicas": self.replicas,
            "allow_direct": True,
            "allow_msg_schedules": self.allow_msg_schedules,
            "allow_msg_ttl": self.allow_msg_ttl,
        }


async def ensure_stream(bus: Bus, stream: Stream) -> None:
    """Make the stream when it is missing; check it, and switch on what may only grow, when it is there.

    Raises StreamMisconfigured (with the command that mends it), ApiRefused, BusUnavailable, PermissionDenied.
    """
    found = await _found_or_created(bus, stream)
    if faults := [*_losses(stream, found)]:
        raise StreamMisconfigured("; ".join(faults))
    if (grown := _grown(stream, found)) != found:
        try:
            found = (await bus.api(f"STREAM.UPDATE.{stream.name}", grown))["config"]
        except ApiRefused as refused:
            raise StreamMisconfigured(
                f"stream {stream.name} lacks settings and cannot get them: {refused.description}"
                f" (wanted {_difference(grown, found)}); {_replace(stream.name)}"
            ) from refused
        except PermissionDenied as denied:  # as it should be: a service must not change streams that are there
            raise StreamMisconfigured(
                f"stream {stream.name} lacks {_difference(grown, found)}, and this user may not change it:"
                f" set that with an admin's credentials (`nats stream edit {stream.name}`) and start again"
            ) from denied
        log.info("bus.stream_updated", stream=stream.name)
    if lacking := _difference(_grown(stream, found), found):
        raise StreamMisconfigured(f"the server ignored {lacking} on stream {stream.name}: 2.14 or later is needed")


async def _found_or_created(bus: Bus, stream: Stream) -> dict[str, Any]:
    try:
        return _config(await bus.api(f"STREAM.INFO.{stream.name}"))
    except ApiRefused as refused:
        if refused.err_code != STREAM_NOT_FOUND:
            raise
    try:
        created = await bus.api(f"STREAM.CREATE.{stream.name}", stream.config())
    except ApiRefused as refused:
        if refused.err_code == STREAM_NAME_IN_USE:  # somebody made it meanwhile, their way
            return _config(await bus.api(f"STREAM.INFO.{stream.name}"))
        raise StreamMisconfigured(
            f"stream {stream.name} is missing and cannot be made: {refused.description}"
        ) from refused
    STREAMS_CREATED.add(stream=stream.name)
    log.info("bus.stream_created", stream=stream.name)
    return _config(created)


def _config(info: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = info["config"]
    return config


def _losses(stream: Stream, found: dict[str, Any]) -> Iterator[str]:
    """What about a present stream would lose messages or stop us, and what to run."""
    name = stream.name

    def fault(field: str, has: object, wants: object, mend: str) -> str:
        return f"stream {name} has {field} {has}, wanted {wants}: {mend}"

    if found["storage"] != "file":
        yield fault("storage", found["storage"], "file", _replace(name))
    if found["retention"] != stream.retention:
        yield fault("retention", found["retention"], stream.retention, _replace(name))
    for field in ("mirror", "sources", "subject_transform"):
        if found.get(field):
            yield fault(field, "set", "none", _replace(name))
    if found.get("sealed"):
        yield fault("sealed", "true", "false", _replace(name))
    if found.get("no_ack"):
        yield fault("no_ack", "true", "false", _edit(name, "--ack"))
    if found["discard"] != "old":
        yield fault("discard", found["discard"], "old", _edit(name, "--discard=old"))
    age = found.get("max_age", 0) / NANOSECONDS
    if _tighter(age, stream.max_age):
        has, wants = f"{age:g} s", f"{stream.max_age:g} s or more" if stream.max_age else "no limit"
        yield fault("max_age", has, wants, _edit(name, f"--max-age={stream.max_age:g}s"))
    for field, limit in (
        ("max_msgs", stream.max_msgs),
        ("max_bytes", stream.max_bytes),
        ("max_msg_size", stream.max_msg_size),
        ("max_msgs_per_subject", stream.max_msgs_per_subject),
    ):
        # Where a message is to take the place of the one before it on its subject, more than that is as wrong as less.
        exact = field == "max_msgs_per_subject" and limit > 0
        if _tighter(has := found.get(field, UNLIMITED), limit) or (exact and has != limit):
            wants = str(limit) if exact else f"{limit} or more" if limit > 0 else "no limit"
            yield fault(field, has, wants, _edit(name, f"--{field.replace('_', '-')}={limit}"))


def _tighter(found: float, wanted: float) -> bool:
    """Whether a limit (0 or less: none) throws away what the wanted one keeps."""
    return found > 0 and (wanted <= 0 or found < wanted)


def _edit(name: str, flag: str) -> str:
    return f"run `nats stream edit {name} {flag}`"


def _replace(name: str) -> str:
    return f"this cannot be edited, so run `nats stream rm {name}` (after `nats stream backup`) and start again"


def _grown(stream: Stream, found: dict[str, Any]) -> dict[str, Any]:
    """The found configuration with all on that only adds. Settings unknown to us stay as they are."""
    subjects = found.get("subjects") or []
    missing = [subject for subject in stream.subjects if subject not in subjects]
    flags = {
        "allow_direct": True,
        "allow_msg_schedules": stream.allow_msg_schedules,
        "allow_msg_ttl": stream.allow_msg_ttl,
    }
    return found | {"subjects": subjects + missing} | {flag: True for flag, wanted in flags.items() if wanted}


def _difference(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    return ", ".join(f"{field}={value}" for field, value in wanted.items() if found.get(field) != value)


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
    position. Raises StreamMisconfigured when it is of another kind, ApiRefused (10059: the stream is
    missing), BusUnavailable.
    """
    wanted = {
        "filter_subjects": sorted(filter_subjects),
        "ack_wait": int(ack_wait * NANOSECONDS),
        "max_ack_pending": max_ack_pending,
        "max_deliver": -1,
    }
    kind = {
        **(
            {"name": durable, "inactive_threshold": int(inactive_after * NANOSECONDS)}
            if inactive_after
            else {"durable_name": durable}
        ),
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
    }
    try:
        found = _config(await bus.api(f"CONSUMER.INFO.{stream}.{durable}"))
    except ApiRefused as refused:
        if refused.err_code != CONSUMER_NOT_FOUND:
            raise
        config = wanted | kind | {"description": description}
    else:
        if found.get("deliver_subject") or found["ack_policy"] != "explicit":
            raise StreamMisconfigured(
                f"consumer {durable} of stream {stream} is no pull consumer with explicit acks:"
                f" run `nats consumer rm {stream} {durable}` and start again"
            )
        filters = found.pop("filter_subjects", None) or [found.pop("filter_subject", "")]
        config = found | wanted
        if config == found | {"filter_subjects": sorted(filters)}:
            return
        config.pop("backoff", None)  # would override ack_wait
    await bus.api(f"CONSUMER.CREATE.{stream}.{durable}", {"stream_name": stream, "config": config})
    log.info("bus.consumer_set", stream=stream, consumer=durable, **wanted)


async def purge_subject(bus: Bus, stream: str, subject: str) -> int:
    """Delete the messages of `subject`; returns how many, 0 when none was there (a schedule that has fired) or when
    the whole stream is missing.

    A schedule purged in the quarter of a second after it was due may have fired already all the same: check
    what fires, do not trust "cancelled". Raises ApiRefused, BusUnavailable, PermissionDenied.
    """
    try:
        purged: int = (await bus.api(f"STREAM.PURGE.{stream}", {"filter": subject}))["purged"]
    except ApiRefused as refused:
        if refused.err_code == STREAM_NOT_FOUND:
            return 0
        raise
    return purged
