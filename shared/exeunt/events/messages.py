"""What is handed to the bus: a message as a value. Pure, so that deciding code can make one."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

MAX_HEADERS: Final = 65_535
"""Bytes of headers, as `header_size` counts them, that JetStream stores with one message at the most."""


class Message(Struct, frozen=True, kw_only=True):
    """One message to publish.

    `expected_last_subject_sequence` 0 means "only when nothing was ever published on this subject": exactly once
    (ADR 3). None publishes unconditionally.
    """

    subject: str
    payload: bytes
    headers: dict[str, str]
    expected_last_subject_sequence: int | None = None


def header_size(headers: Mapping[str, str] | None) -> int:
    """Bytes that headers take on the wire; for the server's max_payload they count as the body does."""
    if not headers:
        return 0
    lines = (f"{name.strip()}: {value.strip()}\r\n" for name, value in headers.items())
    return len("NATS/1.0\r\n") + sum(len(line.encode()) for line in lines) + len("\r\n")
