"""One look at a room, as a machine: what was heard in, what to ask or say next out. Pure.

A webhook is a reason to look, never the truth: it may be late, repeated, out of order, or missing. The truth is whom
LiveKit lists, with three traps. It answers by name, and another opening of the room may have the name by now; it lists
nobody for a room that it does not know; and a caller who rejoins is listed nowhere for a millisecond or two. So the sid
is compared before and after, and nobody must be listed twice, a pause apart, before the call counts as over. A sid that
is gone is over for its run, whoever is in the room that has its name now.

A look ends when what it sees is what was published last. What it publishes is stored only if nothing was published
since it read that, and after it has published something it looks once more: whoever came or went meanwhile is not
missed for a whole interval.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from msgspec import Struct

from exeunt.events.messages import Message
from exeunt_livekit_bridge.last_signal import LastSignal, described, signal_message
from exeunt_livekit_bridge.look import Look
from exeunt_livekit_bridge.room import Participant, callers, present

PAUSE: Final = 0.05
"""Seconds between the two times that nobody was listed. A rejoin takes 1 to 2 ms."""
_MOST_ROUNDS: Final = 5
"""Times that others, or the room, may be faster than this look before it leaves the rest to the next one."""
_SHORTEST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 10.0


class Begin(Struct, frozen=True):
    """The look has been delivered."""


class LastSignalRead(Struct, frozen=True):
    """What was published last of this sid."""

    last_signal: LastSignal


class Rooms(Struct, frozen=True):
    """The sids of the rooms that LiveKit has under the name."""

    sids: tuple[str, ...]
    at: datetime


class Participants(Struct, frozen=True):
    """Whom LiveKit lists under the name."""

    listed: tuple[Participant, ...]
    at: datetime


class PauseOver(Struct, frozen=True):
    """The pause that was asked for is over."""


class Published(Struct, frozen=True):
    """The signal is stored, at this sequence."""

    sequence: int


class Overtaken(Struct, frozen=True):
    """The signal is not stored: somebody has published something since what was published last was read."""


class Failed(Struct, frozen=True):
    """The question was not answered, as has been the case for that many seconds."""

    away_for: float


Input = Begin | LastSignalRead | Rooms | Participants | PauseOver | Published | Overtaken | Failed


class ReadLastSignal(Struct, frozen=True):
    """Read back the last signal about this sid."""

    sid: str


class ListRooms(Struct, frozen=True):
    """Ask LiveKit for the rooms of this name."""

    name: str


class ListParticipants(Struct, frozen=True):
    """Ask LiveKit who is in the room of this name."""

    name: str


class Pause(Struct, frozen=True):
    """Wait that many seconds."""

    seconds: float


class Publish(Struct, frozen=True):
    """Store this signal."""

    message: Message
    gone: bool
    detail: str


class Done(Struct, frozen=True):
    """Forget the sid: it is over, and that is said."""


class LookAgain(Struct, frozen=True):
    """Look again after about that many seconds: how many exactly is left to chance, to spread the looks."""

    after: float


Asking = ReadLastSignal | ListRooms | ListParticipants | Pause | Publish
Command = Asking | Done | LookAgain


class Result(StrEnum):
    """What came of a look."""

    KNOWN = "known"
    """Nothing new."""
    GONE = "gone"
    """It was published that the call is over."""
    UP = "up"
    """It was published that the call is not over after all."""
    FAILED = "failed"
    """LiveKit or NATS did not answer."""


class Looking:
    """One look, from its delivery to Done or LookAgain. One question at a time, each command answered by an input;
    `result` is what came of it.

    `by_timer` says that the look was delivered before, so its event is no news. `interval` is in seconds.
    """

    def __init__(self, look: Look, *, by_timer: bool, not_callers: tuple[str, ...], interval: float) -> None:
        self.result = Result.KNOWN
        self._look = look
        self._by_timer = by_timer
        self._not_callers = not_callers
        self._interval = interval
        self._rounds = 0
        self._last_signal = LastSignal()
        self._publishing = LastSignal()  # what is on its way to the stream
        self._over = False  # whether the sid is gone
        self._empty = False  # whether nobody was listed once already
        self._seen: Participants | None = None  # what stands if the sid is still the same

    def receive(self, heard: Input) -> Command:
        match heard:
            case Begin() | Overtaken():
                return ReadLastSignal(self._look.sid)
            case LastSignalRead(last_signal):
                self._last_signal = last_signal
                return self._next_round()
            case Rooms(sids, at) if self._look.sid not in sids:
                self._over = True
                return self._publish(gone=True, at=at, seen=None)
            case Rooms() if self._seen is not None:
                gone = not self._callers(self._seen)
                return self._publish(gone=gone, at=self._seen.at, seen=self._seen)
            case Rooms() | PauseOver():
                return ListParticipants(self._look.room)
            case Participants():
                return self._judge(heard)
            case Published(sequence):
                self.result = Result.GONE if self._publishing.gone else Result.UP
                self._last_signal = LastSignal(sequence, self._publishing.gone, self._publishing.at)
                return Done() if self._over else self._next_round()
            case Failed(away_for):
                self.result = Result.FAILED if self.result is Result.KNOWN else self.result
                return LookAgain(min(_LONGEST_BACKOFF, max(_SHORTEST_BACKOFF, away_for)))

    def _next_round(self) -> Command:
        self._rounds += 1
        if self._rounds > _MOST_ROUNDS:
            return LookAgain(self._interval)
        self._empty, self._seen = False, None
        return ListRooms(self._look.room)

    def _judge(self, listed: Participants) -> Command:
        """Whether that is news, and whether it is sure but for the sid."""
        gone = not self._callers(listed)
        if gone == self._last_signal.gone:
            return LookAgain(self._interval)
        if gone and not self._empty:
            self._empty = True
            return Pause(PAUSE)
        self._seen = listed
        return ListRooms(self._look.room)

    def _callers(self, seen: Participants) -> tuple[Participant, ...]:
        return callers(seen.listed, self._not_callers)

    def _publish(self, *, gone: bool, at: datetime, seen: Participants | None) -> Command:
        if gone == self._last_signal.gone:  # and over, or it would not have come here
            return Done()
        left = None if seen is None else (present(seen.listed) if gone else self._callers(seen))
        detail = described(self._look, by_timer=self._by_timer, left=left, gone=gone)
        self._publishing = LastSignal(gone=gone, at=(at := self._last_signal.next_time(at)))
        message = signal_message(self._look.sid, gone=gone, at=at, detail=detail, after=self._last_signal)
        return Publish(message, gone, detail)
