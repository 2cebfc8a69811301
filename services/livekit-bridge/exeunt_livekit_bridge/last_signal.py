"""What the bridge says of a room's call, as a signal by trigger token (docs/signals.md), and reads back. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from exeunt.clock import format_instant
from exeunt.errors import PoisonEvent
from exeunt.events import cloudevents
from exeunt.events.messages import Message
from exeunt.events.signals import TOPOLOGY_GONE, TOPOLOGY_UP, SignalBody, read_signal
from exeunt.events.subjects import trigger_token_subject
from exeunt_livekit_bridge.look import Look
from exeunt_livekit_bridge.room import Participant

SOURCE: Final = "/livekit/bridge"
_MOST_NAMED: Final = 4
_MOST_CHARACTERS: Final = 48
"""Of a name that people chose. The whole detail stays below the 512 characters that a history keeps."""


class LastSignal(Struct, frozen=True):
    """The last signal about a room: its sequence in the stream, what it says, and since when by its own clock.

    Where nothing was said, or nothing that counts, nobody takes the call for over: that is `gone` False.
    """

    sequence: int = 0
    gone: bool = False
    at: datetime | None = None

    def next_time(self, at: datetime) -> datetime:
        """`at`, or as little later as what is published next needs to be the newest, whosoever clock is behind."""
        return at if self.at is None else max(at, self.at + timedelta(microseconds=1))


def read_last_signal(
    subject: str, headers: Mapping[str, str], payload: bytes, *, sequence: int, stored_at: datetime
) -> LastSignal:
    """Understand what is stored as the last signal. What watchers would not believe counts as nothing said, and so does
    what somebody said of one run only, by its uid: it does not speak for the others that have the token.
    """
    try:
        signal = read_signal(subject, headers, payload)
    except PoisonEvent:
        return LastSignal(sequence)
    if signal.uid is not None or signal.is_ahead_of(stored_at):
        return LastSignal(sequence)
    return LastSignal(sequence, signal.gone, signal.at)


def signal_message(sid: str, *, gone: bool, at: datetime, detail: str, after: LastSignal) -> Message:
    """The signal that the call in the room `sid` is over or not, stored only if it comes next `after` that."""
    attributes = cloudevents.Attributes(
        id=f"{sid}/{'gone' if gone else 'up'}/{format_instant(at)}",
        source=SOURCE,
        type=TOPOLOGY_GONE if gone else TOPOLOGY_UP,
        time=format_instant(at),
    )
    return Message(
        subject=trigger_token_subject(sid),
        payload=msgspec.json.encode(SignalBody(trigger_token=sid, detail=detail)),
        headers=cloudevents.to_headers(attributes),
        expected_last_subject_sequence=after.sequence,
    )


def described(look: Look, *, by_timer: bool, left: Iterable[Participant] | None, gone: bool) -> str:
    """For people: the room, the event that led here, and who was there; `left` is None where the room is no more."""
    heard = f"{_shown(look.event)} {_shown(look.who)}".strip()
    why = f"looked again some time after {heard}" if by_timer else heard
    if left is None:
        rest = "the room is no more"
    else:
        rest = f"{'still there' if gone else 'there'}: {_named([participant.identity for participant in left])}"
    return f"room {_shown(look.room)} ({_shown(look.sid)}): {why}; {rest}"


def _named(identities: list[str]) -> str:
    shown = [_shown(identity) for identity in identities[:_MOST_NAMED]]
    more = len(identities) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "") if shown else "nobody"


def _shown(text: str) -> str:
    """Fit for a line: whoever joins a room chooses a name."""
    cut = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
    return "".join(character if character.isprintable() else "?" for character in cut)
