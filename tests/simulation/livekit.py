"""LiveKit: rooms that have a name and, for each time that they are made, a sid; who is in them; and webhooks that are
late, out of order, or lost.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from exeunt_livekit_bridge.room import Participant
from simulation.clockwork import Clockwork

CALLER: Final = "alice"
BOT: Final = "bubu-agent-1"


class Room:
    def __init__(self, name: str, sid: str) -> None:
        self.name = name
        self.sid = sid
        self.people = {CALLER, BOT}


class LiveKit:
    """`on_event` takes a webhook: its event, and the room."""

    def __init__(self, clock: Clockwork) -> None:
        self.clock = clock
        self.rooms: dict[str, Room] = {}
        self.on_event: list[Callable[[str, Room], None]] = []
        self.occupied: dict[str, list[tuple[float, bool]]] = {}
        """By sid, since when there was a caller, or not, in order."""
        self._made = 0

    def open(self, name: str) -> str:
        """A room is made, with a caller and a bot in it."""
        self.close(name)
        self._made += 1
        room = self.rooms[name] = Room(name, f"RM_{self._made}")
        self._happened("room_started", room)
        return room.sid

    def join(self, name: str) -> None:
        if name not in self.rooms:
            self.open(name)
        else:
            self.rooms[name].people.add(CALLER)
            self._happened("participant_joined", self.rooms[name])

    def leave(self, name: str) -> None:
        if name in self.rooms:
            self.rooms[name].people.discard(CALLER)
            self._happened("participant_left", self.rooms[name])

    def close(self, name: str) -> None:
        room = self.rooms.pop(name, None)
        if room is not None:
            room.people.clear()
            self._happened("room_finished", room)

    def _happened(self, event: str, room: Room) -> None:
        self.occupied.setdefault(room.sid, []).append((self.clock.now, CALLER in room.people))
        for told in self.on_event:
            self.clock.after(self.clock.little(0.001, 1.5), partial(told, event, room))

    def is_over(self, sid: str) -> bool:
        return not self.occupied[sid][-1][1]

    def was(self, sid: str, since: float, *, over: bool) -> bool:
        """Whether its call was over, or not, at some time since then."""
        *before, last = self.occupied[sid]
        if last[1] is not over:
            return True
        ends = [at for at, _ in (*before[1:], last)] if before else []
        return any(state is not over and end >= since for (_, state), end in zip(before, ends, strict=True))

    def participants(self, name: str) -> tuple[Participant, ...]:
        room = self.rooms.get(name)
        return tuple(map(Participant, sorted(room.people))) if room else ()
