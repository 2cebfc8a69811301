"""What was set aside, as it is shown and as it is published again. Pure; `exeunt.bus.acknowledge` writes it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from exeunt.clock import format_instant
from exeunt.errors import UsageError
from exeunt.events.messages import Message
from exeunt.events.subjects import DEADLINES, RUNS, SIGNALS
from exeunt.history.file import json_data

EVERY_DEAD_LETTER: Final = "exeunt.deadletters.>"
_STREAMS: Final = {RUNS: "exeunt.runs.", DEADLINES: "exeunt.deadlines.due.", SIGNALS: "exeunt.signals."}
"""Where messages come from that may be republished, and how their subjects begin."""


class DeadLetter(Struct, frozen=True, kw_only=True):
    """One message in DEADLETTERS. Empty or 0 is what its headers do not tell: anybody may have put it there.

    `cut_from` is the original's size in bytes when this is only the beginning of it, because the whole was too large to
    be set aside with its reason; else 0.
    """

    sequence: int
    set_aside_at: str
    consumer: str
    reason: str
    stream: str
    subject: str
    stream_sequence: int
    deliveries: int
    cut_from: int
    headers: dict[str, str]
    data: bytes

    @property
    def event(self) -> str:
        """What it says: the last token of its subject, "cancel-requested" say."""
        return self.subject.rpartition(".")[2] if self.stream == RUNS else self.stream.lower() or "-"

    @property
    def namespace(self) -> str:
        return self._tokens[0]

    @property
    def run(self) -> str:
        """Namespace and name of its run; dots of a name are lost on subjects, `ce-subject` has them."""
        return self.headers.get("ce-subject") or "/".join(token for token in self._tokens if token) or "-"

    @property
    def _tokens(self) -> tuple[str, str]:
        prefix = _STREAMS.get(self.stream, "\0")
        namespace, _, rest = self.subject.removeprefix(prefix).partition(".")
        return (namespace, rest.partition(".")[0]) if self.subject.startswith(prefix) else ("", "")


def dead_letter(sequence: int, at: datetime, subject: str, headers: Mapping[str, str], data: bytes) -> DeadLetter:
    """Understand a message of the stream DEADLETTERS, whatever it is."""
    headers = {name.lower(): value for name, value in headers.items()}
    return DeadLetter(
        sequence=sequence,
        set_aside_at=format_instant(at),
        consumer=subject.removeprefix(EVERY_DEAD_LETTER[:-1]),
        reason=headers.get("exeunt-reason", ""),
        stream=headers.get("exeunt-stream", ""),
        subject=headers.get("exeunt-subject", ""),
        stream_sequence=_number(headers.get("exeunt-sequence", "")),
        deliveries=_number(headers.get("exeunt-deliveries", "")),
        cut_from=_number(headers.get("exeunt-cut-from", "")),
        headers={name: value for name, value in headers.items() if not name.startswith(("nats-", "exeunt-"))},
        data=data,
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def republished(letter: DeadLetter, *, expected: int) -> Message:
    """The message as it was, for its own subject, on which `expected` must be the last sequence.

    That makes it safe to repeat: once it was published again, another sequence is the last. Where that one is taken off
    the stream when it is answered (DEADLINES), its Nats-Msg-Id makes a second one a duplicate within the duplicate
    window, unless nats-server was restarted in between; a deadline that comes twice does no harm.

    Raises UsageError when the letter does not tell where it came from, or is only a part of what came.
    """
    prefix = _STREAMS.get(letter.stream)
    if prefix is None or not letter.subject.startswith(prefix):
        raise UsageError(
            f"dead letter {letter.sequence} cannot be republished: its headers name no subject of Exeunt's streams;"
            f" `exeunt deadletters show {letter.sequence}` shows it, `drop` drops it"
        )
    if letter.cut_from:
        raise UsageError(
            f"dead letter {letter.sequence} cannot be republished: it is only the beginning of a message of"
            f" {letter.cut_from} bytes; the whole is sequence {letter.stream_sequence} of the stream {letter.stream},"
            f" for as long as that keeps it: `nats stream get {letter.stream} {letter.stream_sequence}` shows it,"
            f" `exeunt deadletters drop {letter.sequence}` takes the letter off the list"
        )
    again = {
        "Nats-Msg-Id": f"redrive:{letter.stream}:{letter.stream_sequence}:{letter.consumer}",
        "Nats-Expected-Stream": letter.stream,
    }
    return Message(
        subject=letter.subject,
        payload=letter.data,
        headers=letter.headers | again,
        expected_last_subject_sequence=expected,
    )


def render_letter(letter: DeadLetter) -> dict[str, Any]:
    """All of it, for programs; the payload as in an exported history."""
    fields = msgspec.structs.asdict(letter)
    del fields["data"]
    return fields | {"run": letter.run, "event": letter.event} | json_data(letter.data)
