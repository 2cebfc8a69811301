"""One message of the stream RUNS as it was read, from the stream or from an exported file. Pure."""

from typing import NamedTuple

from msgspec import Raw, Struct


class Record(Struct, frozen=True, kw_only=True):
    """A stored message: its place in the stream, when it was stored (RFC 3339), and all that it says.

    `headers` and `data` are as they were published. `line` is its line in the file that it was read from, 0 when it
    came from the stream. `extra` are fields of that line which this version does not know; they are kept.
    """

    sequence: int
    time: str
    subject: str
    headers: dict[str, str]
    data: bytes
    line: int = 0
    extra: dict[str, Raw] = {}

    @property
    def place(self) -> str:
        """Where to look for it, in words."""
        return f"line {self.line}" if self.line else f"sequence {self.sequence}"


class Problem(NamedTuple):
    """Something that could not be shown: where it stands, and why not."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"
