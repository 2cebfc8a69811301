"""Instants and durations as Kubernetes and Go write them. Pure: nothing here reads a clock.

Instants are RFC 3339 in UTC; durations are Go duration text ("2m13s", "1h0m5s", "250ms").
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

_UNITS: Final = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_TERM: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION: Final = re.compile(rf"[+-]?(?:{_TERM.pattern})+", re.ASCII)
_LONGEST: Final = Decimal(2**63 - 1) / 10**9
_MOST_CHARACTERS: Final = 64
"""Text that users wrote may have any length; no sensible duration or instant is longer."""
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.(\d+))?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


@lru_cache(256)  # a Story's stands in all of its runs, and is read with each of their changes
def parse_duration(text: str) -> timedelta:
    """Read Go duration text, rounded up to a microsecond so that nothing that waits for it is early.

    Raises ValueError with a message for people when `text` is no Go duration or is longer than Go can hold.
    """
    if text in ("0", "+0", "-0"):
        return timedelta(0)
    if len(text) > _MOST_CHARACTERS or not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:_MOST_CHARACTERS]!r} is no Go duration such as 20s, 1m30s or 250ms")
    seconds = sum((Decimal(number) * _UNITS[unit] for number, unit in _TERM.findall(text)), Decimal(0))
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than a Go duration can be (about 292 years)")
    microseconds = int((seconds * 1_000_000).to_integral_value(rounding="ROUND_CEILING"))
    return timedelta(microseconds=-microseconds if text.startswith("-") else microseconds)


def format_duration(duration: timedelta) -> str:
    """Write a duration as Go's `Duration.String()` does: "0s", "1.5ms", "45s", "2m13s", "1h0m5s"."""
    total = duration // timedelta(microseconds=1)
    sign, total = ("-", -total) if total < 0 else ("", total)
    if total == 0:
        return "0s"
    if total < 1_000:
        return f"{sign}{total}µs"
    if total < 1_000_000:
        return f"{sign}{_trimmed(total, 1_000)}ms"
    minutes, rest = divmod(total, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_trimmed(rest, 1_000_000)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else sign + seconds


def in_words(duration: timedelta) -> str:
    """A duration for people, to the millisecond: "8ms", "2m0.003s"."""
    return format_duration(timedelta(milliseconds=round(duration / timedelta(milliseconds=1))))


def elapsed_in_words(milliseconds: float) -> str:
    """Time since the cancel, with its sign: "+25ms", "-1.288s"."""
    duration = timedelta(milliseconds=round(milliseconds))
    return f"-{in_words(-duration)}" if duration < timedelta(0) else f"+{in_words(duration)}"


def _trimmed(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    return f"{whole}.{fraction:0{len(str(unit)) - 1}d}".rstrip("0").rstrip(".")


@lru_cache(256)  # that of a cancel is read a dozen times in each of its events
def parse_instant(text: str) -> datetime:
    """Read RFC 3339 with up to nanoseconds, rounded up to a microsecond so that no deadline is early.

    Raises ValueError when `text` is no such instant, has no zone, or lies outside of the years 1678 to 2261: Go's
    nanoseconds end there, and what is inside takes any Go duration without overflow.
    """
    text = text.strip()
    match = _INSTANT.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if match is None:
        raise ValueError(f"{text[:_MOST_CHARACTERS]!r} is no RFC 3339 instant with a time zone")
    instant = datetime.fromisoformat(text.upper())
    if not 1678 <= instant.year <= 2261:
        raise ValueError(f"{text!r} is outside of the years 1678 to 2261")
    if (match[1] or "")[6:].strip("0"):
        instant += timedelta(microseconds=1)
    return instant.astimezone(UTC)


def readable_instant(text: str | None) -> datetime | None:
    """`parse_instant`, for what others wrote and nothing may stumble over: None when absent or unreadable."""
    try:
        return None if text is None else parse_instant(text)
    except ValueError:
        return None


def format_instant(instant: datetime) -> str:
    """Write an instant in UTC with microseconds: "2026-11-24T18:13:32.000000Z"."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def format_status_time(instant: datetime) -> str:
    """Write an instant as Kubernetes writes status times: whole seconds, cut off, not rounded (contract §9.10)."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
