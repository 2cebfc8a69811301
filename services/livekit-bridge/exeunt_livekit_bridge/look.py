"""What is stored on NATS to be looked at: one message for each opening of a room, the newest reason in it. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from exeunt.clock import format_instant, readable_instant
from exeunt.errors import PoisonEvent
from exeunt.events.messages import Message
from exeunt.events.subjects import look_subject

DISCOVERED: Final = "discovered"
"""Stands where the webhook's event would: the room was found by asking for all of them."""


class Look(Struct, frozen=True, omit_defaults=True):
    """Look at this room, and why.

    `sid` names this opening of the room, `room` is the name under which alone LiveKit answers. `event` is a webhook's,
    `who` the identity that it is about. `heard_at` is when the bridge heard of it.
    """

    sid: str
    room: str
    event: str
    who: str = ""
    heard_at: str = ""

    @property
    def heard(self) -> datetime | None:
        return readable_instant(self.heard_at or None)


def look_message(look: Look, context: Mapping[str, str], *, unless_known: bool = False) -> Message:
    """The message that has the room looked at; it takes the place of the one before, or of none if `unless_known`.

    `context` is W3C trace context for the headers.
    """
    return Message(
        subject=look_subject(look.sid),
        payload=msgspec.json.encode(look),
        headers=dict(context),
        expected_last_subject_sequence=0 if unless_known else None,
    )


def new_look(sid: str, room: str, event: str, who: str, now: datetime) -> Look:
    return Look(sid=sid, room=room, event=event, who=who, heard_at=format_instant(now))


_LOOK: Final = msgspec.json.Decoder(Look)


def read_look(payload: bytes) -> Look:
    """Raises PoisonEvent."""
    try:
        return _LOOK.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PoisonEvent(f"the look does not decode: {error}") from error
