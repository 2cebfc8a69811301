"""Who is in a room, and who of them holds its call open. Pure.

LiveKit lists everybody who has signalled, the bot, recorders and hidden participants too (docs/livekit.md). JOINING and
JOINED, whose media are not there yet, are present like ACTIVE ones.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

_NO_CALLERS: Final = frozenset({"AGENT", "EGRESS"})
"""Kinds of participant for whom LiveKit itself keeps no room open. SIP callers and ingress are callers, and so is every
kind that LiveKit may yet invent: a call must not end for want of a word."""
_AWAY: Final = "DISCONNECTED"


class Participant(Struct, frozen=True):
    """One participant as LiveKit lists it; `kind` and `state` by their names in its API."""

    identity: str
    kind: str = "STANDARD"
    state: str = "ACTIVE"
    agent: bool = False
    recorder: bool = False
    hidden: bool = False


def present(participants: Iterable[Participant]) -> tuple[Participant, ...]:
    return tuple(participant for participant in participants if participant.state != _AWAY)


def callers(participants: Iterable[Participant], not_callers: Iterable[str]) -> tuple[Participant, ...]:
    """Those who hold the call open; `not_callers` are patterns of identities that do not (EXEUNT_LIVEKIT_NOT_CALLERS).

    A grant is looked at beside the kind, because who joins as an agent by its token alone is listed as STANDARD.
    """
    patterns = tuple(not_callers)
    return tuple(
        participant
        for participant in present(participants)
        if participant.kind not in _NO_CALLERS
        and not (participant.agent or participant.recorder or participant.hidden)
        and not any(fnmatchcase(participant.identity, pattern) for pattern in patterns)
    )
