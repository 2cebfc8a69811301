"""Histories as files: JSON lines, a header first and then one record a line. Pure.

    {"exeunt": "history", "version": 1, "exported_at": "2026-11-24T18:20:00.000000Z", "run": "livekit-voice/call"}
    {"sequence": 12, "time": "...", "subject": "exeunt.runs...", "headers": {"ce-id": "..."}, "data": {...}}

`data` is the payload when that is JSON, else `data_base64` holds it, as in CloudEvents' own JSON format. What cannot be
read is said with its line, and the rest is read all the same; fields that this version does not know are kept.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from exeunt.clock import format_instant, parse_instant
from exeunt.history.record import Problem, Record

VERSION: Final = 1
"""Version of the file format. The events in it carry the version of their own schema."""


class Header(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first line."""

    exeunt: str
    version: int
    exported_at: str
    run: str
    redacted: bool = False


class History(NamedTuple):
    """A file as it was read: `header` is None when there was none; `records` are in the order of the stream."""

    header: Header | None
    records: list[Record]
    problems: list[Problem]


class _Line(Struct, frozen=True, kw_only=True):
    sequence: int
    time: str
    subject: str
    headers: dict[str, str]
    data: Raw | UnsetType = UNSET
    data_base64: str | UnsetType = UNSET


_KNOWN: Final = frozenset(_Line.__struct_fields__)
_LINE: Final = msgspec.json.Decoder(_Line)
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_HEADER: Final = msgspec.json.Decoder(Header)


def write_history(records: Iterable[Record], *, run: str, now: datetime, redacted: bool = False) -> Iterator[bytes]:
    """The lines of a file, each with its newline."""
    header = Header(exeunt="history", version=VERSION, exported_at=format_instant(now), run=run, redacted=redacted)
    yield msgspec.json.encode(header) + b"\n"
    for record in records:
        yield line_of(record) + b"\n"


def line_of(record: Record) -> bytes:
    """One record as a line of JSON, without the newline."""
    fields: dict[str, object] = {
        "sequence": record.sequence,
        "time": record.time,
        "subject": record.subject,
        "headers": record.headers,
    }
    return msgspec.json.encode(fields | json_data(record.data) | record.extra)


def json_data(data: bytes) -> dict[str, object]:
    """A payload as the member `data` of a JSON object, or as `data_base64` when it is no JSON."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"data_base64": b64encode(data).decode()}
    # Line breaks can stand between the tokens of JSON only: one record stays one line, and means the same.
    return {"data": Raw(data.replace(b"\n", b" ").replace(b"\r", b" "))}


def read_history(lines: Iterable[bytes]) -> History:
    """Read a file. Whatever is wrong with it is in `problems`; this raises nothing."""
    header: Header | None = None
    problems: list[Problem] = []
    records: dict[int, Record] = {}
    last = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number == 1:
            header, problem = _header(line)
            if problem is not None:
                problems.append(Problem("line 1", problem))
            if header is not None:
                continue
        record = _record(line, number)
        if isinstance(record, Problem):
            problems.append(record)
            continue
        known = records.setdefault(record.sequence, record)
        if known is not record:
            kind = "a copy" if _same(known, record) else "not the same"
            reason = f"sequence {record.sequence} was on line {known.line} already, this is {kind}; it is left out"
            problems.append(Problem(f"line {number}", reason))
        elif record.sequence < last:
            reason = f"sequence {record.sequence} comes after {last}; it is put back into its place"
            problems.append(Problem(f"line {number}", reason))
        last = max(last, record.sequence)
    return History(header, sorted(records.values(), key=lambda record: record.sequence), problems)


def _header(line: bytes) -> tuple[Header | None, str | None]:
    """The header, and what is wrong with it."""
    try:
        header = _HEADER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, 'no header such as {"exeunt": "history", "version": 1, ...}; was the beginning cut off?'
    if header.exeunt != "history":
        return header, f"this is {header.exeunt!r} of Exeunt, not a history"
    if header.version > VERSION:
        newer = f"format version {header.version} is newer than {VERSION}, which this Exeunt reads"
        return header, f"{newer}; what it understands is reported, a newer Exeunt tells all"
    return header, None


def _record(line: bytes, number: int) -> Record | Problem:
    try:
        fields = _FIELDS.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else "; the file ends within it"
        return Problem(f"line {number}", f"no JSON object: {error}{cut}")
    try:
        known = _LINE.decode(line)
        parse_instant(known.time)
        data = _data(known)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        return Problem(f"line {number}", f"no record of an event: {error}")
    return Record(
        sequence=known.sequence,
        time=known.time,
        subject=known.subject,
        headers=known.headers,
        data=data,
        line=number,
        extra={name: value.copy() for name, value in fields.items() if name not in _KNOWN},
    )


def _data(line: _Line) -> bytes:
    """Raises ValueError."""
    if line.data_base64 is not UNSET:
        return b64decode(line.data_base64, validate=True)
    return bytes(line.data) if line.data is not UNSET else b""


def _same(one: Record, other: Record) -> bool:
    return (one.subject, one.headers, one.data) == (other.subject, other.headers, other.data)
