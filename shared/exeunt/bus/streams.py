"""Streams, made when missing and checked when present; `exeunt.bus.mesh_streams` names those of the mesh.

Whoever runs NATS may have made the streams first, with replicas, placement or limits of their own. So a
present stream is judged only by what would lose data or break us, and then the start stops with the command
that mends it. What can only grow (subjects, direct reads, schedules) is switched on. `publisher` writes to
these streams, `consumers` makes what `pull` reads them by.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import ApiRefused, BusUnavailable, PermissionDenied, StreamMisconfigured
from exeunt.telemetry.metrics import STREAMS_CREATED

NANOSECONDS = 1_000_000_000
UNLIMITED = -1

NO_PEERS = 10005
STREAMS_LIMIT = 10027
NO_STORAGE = 10047
REPLICAS_UNSUPPORTED = 10074
MAX_BYTES_REQUIRED = 10113
NO_LIMITS_FOR_REPLICAS = 10120
MAX_BYTES_EXCEEDED = 10122
STREAM_NAME_IN_USE = 10058
STREAM_NOT_FOUND = 10059

log = structlog.get_logger(__name__)


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as we want it. `max_age` is in seconds, 0 for ever; the other limits are -1 for none.

    `size_setting` is what whoever runs us sets `max_bytes` by.
    """

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
    size_setting: str = ""

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
    bus.change.groups.add(f"STREAM.INFO.{stream.name}")
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
        log.info("stream updated", stream=stream.name)
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
        if refused.err_code == NO_PEERS and "peer offline" in refused.description:
            raise BusUnavailable(
                f"stream {stream.name} cannot be made now: {refused.description}; it needs {stream.replicas} servers"
                " that are up"
            ) from refused
        raise StreamMisconfigured(
            f"stream {stream.name} is missing and cannot be made: {refused.description}{_remedy(stream, refused)}"
        ) from refused
    STREAMS_CREATED.add(stream=stream.name)
    log.info("stream created", stream=stream.name)
    return _config(created)


def _remedy(stream: Stream, refused: ApiRefused) -> str:
    code, size = refused.err_code, stream.size_setting or "max_bytes"
    if code == MAX_BYTES_REQUIRED:
        return f"; set {size}"
    if code in {MAX_BYTES_EXCEEDED, NO_STORAGE}:
        return f"; set a smaller {size} (now {stream.max_bytes}), or have the account given more room"
    if code == STREAMS_LIMIT:
        return "; have max_streams of the account raised"
    if code in {REPLICAS_UNSUPPORTED, NO_LIMITS_FOR_REPLICAS}:
        return f"; set EXEUNT_STREAM_REPLICAS (now {stream.replicas}) to what this account may have"
    return ""


def _config(info: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = info["config"]
    return config


def _losses(stream: Stream, found: dict[str, Any]) -> Iterator[str]:
    """What about a present stream would lose messages or stop us, and what to run."""
    yield from _wrong_kind(stream, found)
    yield from _tight_limits(stream, found)


def _wrong_kind(stream: Stream, found: dict[str, Any]) -> Iterator[str]:
    name = stream.name
    replace, marker = _replace(name), found.get("subject_delete_marker_ttl", 0) / NANOSECONDS
    if found["storage"] != "file":
        yield _fault(name, "storage", found["storage"], "file", replace)
    if found.get("persist_mode", "default") != "default":  # what was acknowledged is lost when the server crashes
        yield _fault(name, "persist_mode", found["persist_mode"], "default", replace)
    if found["retention"] != stream.retention:
        yield _fault(name, "retention", found["retention"], stream.retention, replace)
    for field in ("mirror", "sources", "subject_transform", "allow_msg_counter"):
        if found.get(field):
            yield _fault(name, field, "set", "none", replace)
    if found.get("sealed"):
        yield _fault(name, "sealed", "true", "false", replace)
    if found.get("no_ack"):
        yield _fault(name, "no_ack", "true", "false", _edit(name, "--ack"))
    if found["discard"] != "old":
        yield _fault(name, "discard", found["discard"], "old", _edit(name, "--discard=old"))
    if marker:  # markers look like messages
        yield _fault(
            name, "subject_delete_marker_ttl", f"{marker:g} s", "none", _edit(name, "--subject-del-markers-ttl=0s")
        )


def _tight_limits(stream: Stream, found: dict[str, Any]) -> Iterator[str]:
    name, age = stream.name, found.get("max_age", 0) / NANOSECONDS
    if _tighter(age, stream.max_age):
        wants = f"{stream.max_age:g} s or more" if stream.max_age else "no limit"
        yield _fault(name, "max_age", f"{age:g} s", wants, _edit(name, f"--max-age={stream.max_age:g}s"))
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
            mend = _edit(name, f"--{field.replace('_', '-')}={limit}")
            if field == "max_bytes" and stream.size_setting:
                mend += f", or set {stream.size_setting}={has}"
            yield _fault(name, field, has, wants, mend)


def _fault(name: str, field: str, has: object, wants: object, mend: str) -> str:
    return f"stream {name} has {field} {has}, wanted {wants}: {mend}"


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
