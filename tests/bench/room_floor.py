"""The floor of a real call, as a process of its own: what has to be done from LiveKit's webhook to the end of a run.

`python -m bench.room_floor NAMESPACE LIVEKIT_URL KEYS_FILE PORT` in tests/, with $KUBECONFIG. It verifies the webhook
that somebody has left, asks LiveKit what the bridge has to ask (is it this opening of the room, who is there, after the
pause who is there still, is it the same room), and writes the terminator's conditional PATCH. It knows its runs by a
raw watch. No NATS, no second process, no retry, nothing stored: it ends on the first fault.
"""

import asyncio
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from aiohttp import web
from livekit.api import ListParticipantsRequest, ListRoomsRequest, TokenVerifier, WebhookReceiver
from livekit.api.room_service import RoomService

from bench.api import Api
from bench.floor import finalize, follow
from exeunt.kube.resources import STORY_RUNS
from exeunt.run.snapshot import RunState, read_run
from exeunt_livekit_bridge.machine import PAUSE

BOT = "bubu-agent-call-listen-3f2a"
"""Who stays in the room and holds no call open."""


class RoomFloor:
    """What it must know, and what it does when somebody has left."""

    def __init__(self, api: Api, livekit: RoomService, receiver: WebhookReceiver) -> None:
        self._api = api
        self._livekit = livekit
        self._receiver = receiver
        self._canceled: defaultdict[str, asyncio.Future[RunState]] = defaultdict(
            asyncio.get_running_loop().create_future
        )
        """By the room's sid."""

    async def run(self, namespace: str, port: int) -> None:
        """For ever; says so when it has begun."""
        watching = asyncio.Barrier(2)
        app = web.Application()
        async with asyncio.TaskGroup() as tasks:

            async def take(request: web.Request) -> web.Response:
                body = (await request.read()).decode()
                event = self._receiver.receive(body, request.headers["Authorization"])
                if event.event == "participant_left" and event.participant.identity != BOT:
                    tasks.create_task(self._look(event.room.name, event.room.sid))
                return web.Response()

            app.router.add_post("/webhook", take)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            tasks.create_task(self._follow(namespace, watching))
            await watching.wait()
            sys.stdout.write("watching\n")
            sys.stdout.flush()

    async def _follow(self, namespace: str, watching: asyncio.Barrier) -> None:
        async for run, _ in follow(self._api, STORY_RUNS, namespace, watching):
            now = datetime.now(UTC)
            state = read_run(run, first_seen=now, now=now, fence_wait=timedelta(0))
            if (
                state.cancel_observed_at is not None
                and state.trigger_token
                and not self._canceled[state.trigger_token].done()
            ):
                self._canceled[state.trigger_token].set_result(state)

    async def _look(self, name: str, sid: str) -> None:
        if not await self._is(name, sid) or await self._has_callers(name):
            return
        await asyncio.sleep(PAUSE)
        if not await self._has_callers(name) and await self._is(name, sid):
            await finalize(self._api, await self._canceled[sid])

    async def _is(self, name: str, sid: str) -> bool:
        found = await self._livekit.list_rooms(ListRoomsRequest(names=[name]))
        return sid in [room.sid for room in found.rooms]

    async def _has_callers(self, name: str) -> bool:
        found = await self._livekit.list_participants(ListParticipantsRequest(room=name))
        return any(participant.identity != BOT for participant in found.participants)


async def main(namespace: str, livekit_url: str, keys_file: str, port: str) -> None:
    key, secret = (await asyncio.to_thread(Path(keys_file).read_text)).strip().split(": ")
    async with Api.connected() as api, aiohttp.ClientSession() as session:
        livekit = RoomService(session, livekit_url, key, secret, failover=False)
        receiver = WebhookReceiver(TokenVerifier(key, secret))
        await RoomFloor(api, livekit, receiver).run(namespace, int(port))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
