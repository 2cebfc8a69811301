"""People in a real room of a real LiveKit server, and the room as whoever has the API's key sees it.

Each of them is a process with LiveKit's own SDK, `exeunt_local.livekit_participant`.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from livekit import api

from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.processes import tail

_PATIENCE = 30  # seconds for an answer, on a machine that has more to do


class Participant:
    """Somebody in the room. Made by `LiveKitRoom.join`.

    Every method raises AssertionError, with the end of the log, when the process says something else than expected.
    """

    def __init__(self, room: "LiveKitRoom", identity: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.identity = identity
        self._room = room
        self.room_sid = ""
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The process id, to freeze it, say."""
        return self._process.pid

    async def publish_microphone(self) -> None:
        """Returns when LiveKit lists the microphone: the SDK is done before it has heard anything of it."""
        await self._do("publish")
        async with asyncio.timeout(_PATIENCE):
            while not (await self._room.listed())[self.identity].tracks:  # noqa: ASYNC110 - LiveKit tells it nowhere else
                await asyncio.sleep(0.05)

    async def unpublish_microphone(self) -> datetime:
        """Returns the time at which that was asked for."""
        return await self._do("unpublish")

    async def leave(self) -> datetime:
        """Hangs up; returns the time at which that was asked for."""
        asked = await self._do("leave")
        await self._process.wait()
        return asked

    async def kill(self) -> None:
        """SIGKILL, as when the machine is lost: nobody tells LiveKit. Does nothing to one that has ended."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()

    async def hear(self, what: str) -> dict[str, Any]:
        """Waits until the process says this."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            line = await self._process.stdout.readline()
        message: dict[str, Any] = json.loads(line or b"{}")
        if message.get("what") != what:
            raise AssertionError(f"{self.identity} says {line.decode()!r}, not {what}. {tail(self._log)}")
        return message

    async def _do(self, word: str) -> datetime:
        assert self._process.stdin is not None
        asked = datetime.now(UTC)
        self._process.stdin.write(f"{word}\n".encode())
        await self.hear(word)
        return asked


class LiveKitRoom:
    """A room by its name, entered as an async context manager: whoever is still in it at the end is killed."""

    def __init__(self, server: LiveKitServer, name: str) -> None:
        self.name = name
        self._server = server
        self._people: list[Participant] = []
        self._api: api.LiveKitAPI

    async def join(self, identity: str, *options: str) -> Participant:
        """Somebody comes in, and is connected when this returns; LiveKit makes the room for the first one.

        `options` are those of the program: `--kind=agent`, `--hidden` and so on.
        """
        log = self._server.folder / "participants.log"
        access = (f"--url={self._server.url}", f"--keys={self._server.keys_file}")
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "exeunt_local.livekit_participant", *access, *options, self.name, identity),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        participant = Participant(self, identity, process, log)
        self._people.append(participant)
        participant.room_sid = (await participant.hear("joined"))["room"]
        return participant

    async def sid(self) -> str | None:
        """LiveKit's name for the present opening of the room; None while there is no such room."""
        found = await self._api.room.list_rooms(api.ListRoomsRequest(names=[self.name]))
        return found.rooms[0].sid if found.rooms else None

    async def listed(self) -> dict[str, api.ParticipantInfo]:
        """Who is in the room, by identity, as LiveKit's API tells it."""
        found = await self._api.room.list_participants(api.ListParticipantsRequest(room=self.name))
        return {participant.identity: participant for participant in found.participants}

    async def delete(self) -> datetime:
        """Everybody is thrown out; returns the time at which that was asked for."""
        asked = datetime.now(UTC)
        await self._api.room.delete_room(api.DeleteRoomRequest(room=self.name))
        return asked

    async def __aenter__(self) -> Self:
        self._api = api.LiveKitAPI(self._server.url, self._server.api_key, self._server.api_secret)
        return self

    async def __aexit__(self, *_: object) -> None:
        for participant in self._people:
            await participant.kill()
        await self._api.aclose()
