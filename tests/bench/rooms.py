"""How long a real call takes to end: from LiveKit's webhook that the last caller has left to "Finished".

Real rooms of a real LiveKit server, the caller and the bot on its SDK, the bridge and the services against a process
that does no more than must be done (`room_floor`). One call at a time, the floor's and Exeunt's in turn, either one
first as often as the other. Each is canceled before its last caller leaves, as by the impulse when another one has
left: what ends it is LiveKit's word.

LiveKit tells both sides through a `Post`, which reads the clock and passes the webhook on to the side whose room it is:
neither side works on the other's calls, and both pay the same for the way.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple, Self

import aiohttp
import msgspec
from aiohttp import web

from actors.livekit_room import LiveKitRoom, Participant
from bench.observer import Moment
from bench.report import Row, percentile
from bench.room_floor import BOT
from bench.sides import EXEUNT, FLOOR, running, within
from bench.stage import Stage
from bench.world import Run
from exeunt_livekit_bridge.machine import PAUSE
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.mesh import LIVEKIT_BRIDGE
from exeunt_local.processes import free_port

SIDES: Final = (FLOOR, EXEUNT)
_CALLER: Final = "alice"
_WARM_UP: Final = 1
"""Calls of each side that are not counted."""
_REST: Final = 0.2
"""Seconds in which what has led up to the last caller's leaving comes to rest: looks at who has joined, too."""


class Took(NamedTuple):
    """The end of one call, as the stage's observer and the post saw it, in milliseconds."""

    livekit: float
    """From the SDK's leave() to the webhook."""
    rest: float
    """From the webhook to "Finished"."""


class Post:
    """Takes LiveKit's webhooks at `url`, and passes each on to the side that its room's name begins with."""

    def __init__(self, sides: Mapping[str, str]) -> None:
        self._sides = sides
        self._left: defaultdict[str, asyncio.Future[Moment]] = defaultdict(asyncio.get_running_loop().create_future)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/webhook"

    async def left(self, sid: str) -> Moment:
        """When it came in that the caller had left that room; raises TimeoutError."""
        return await within(self._left[sid])

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        now = Moment.now()
        event = msgspec.json.decode(body)
        room = event["room"]
        if event["event"] == "participant_left" and event["participant"]["identity"] == _CALLER:
            left = self._left[room["sid"]]
            if not left.done():  # LiveKit says again what a side has not taken
                left.set_result(now)
        side, *_ = room["name"].split("-")
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type")}
        try:
            async with self._session.post(self._sides[side], data=body, headers=headers) as answer:
                return web.Response(status=answer.status)
        except aiohttp.ClientError:  # it has ended, and LiveKit goes on telling
            return web.Response(status=503)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_post("/webhook", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()


async def measure(stage: Stage, livekit_server: Path, *, calls: int) -> list[Row]:
    """That many calls of each side."""
    took: dict[str, list[Took]] = {side: [] for side in SIDES}
    async with _livekit(stage, livekit_server) as (livekit, post):
        for number in range(_WARM_UP + calls):
            async with AsyncExitStack() as rooms:
                order = SIDES if number % 2 else reversed(SIDES)  # who comes first has the busier machine
                prepared = [await _prepare(stage, livekit, rooms, side, number) for side in order]
                for run, caller in prepared:
                    took[run.namespace].append(await _end(stage, post, run, caller))
    return rows({side: each[_WARM_UP:] for side, each in took.items()})


def rows(took: Mapping[str, Sequence[Took]]) -> list[Row]:
    """What is shown of the calls of both sides.

    Both pause between two looks, which is most of a short end, so the ratio is shown without that, too.
    """
    floor, exeunt = (percentile([each.rest for each in took[side]], 50) for side in SIDES)
    livekit = [percentile([each.livekit for each in took[side]], 50) for side in SIDES]
    pause = 1000 * PAUSE
    whole = percentile([sum(each) for each in took[EXEUNT]], 50)
    what = "webhook in -> Finished"
    return [
        Row(what=f"{what}, p50", unit="ms", floor=floor, exeunt=exeunt, of=FLOOR, at_most=4),
        Row(what=f"{what}, less pause, p50", unit="ms", floor=floor - pause, exeunt=exeunt - pause),
        Row(what="leave() -> webhook in, LiveKit's, p50", unit="ms", floor=livekit[0], exeunt=livekit[1]),
        Row(what="leave() -> Finished, p50", unit="ms", exeunt=whole, at_most=1000),
    ]


@asynccontextmanager
async def _livekit(stage: Stage, binary: Path) -> AsyncIterator[tuple[LiveKitServer, Post]]:
    """LiveKit, whom it tells, and both sides; nothing of it goes on afterwards."""
    bridge, floor = free_port(), free_port()
    sides = {FLOOR: f"http://127.0.0.1:{floor}/webhook", EXEUNT: f"http://127.0.0.1:{bridge}/webhook"}
    async with AsyncExitStack() as stack:
        post = await stack.enter_async_context(Post(sides))
        livekit = await stack.enter_async_context(
            LiveKitServer(stage.exeunt.mesh.folder / "livekit", binary=binary, webhook_urls=[post.url])
        )
        await stage.exeunt.mesh.start_livekit_bridge(livekit, bridge, 0, **stage.exeunt.settings)
        stack.push_async_callback(stage.exeunt.mesh.stop, LIVEKIT_BRIDGE)
        arguments = (livekit.url, str(livekit.keys_file), str(floor))
        await stack.enter_async_context(running("room_floor", FLOOR, stage.kubeconfig, *arguments))
        yield livekit, post


async def _prepare(
    stage: Stage, livekit: LiveKitServer, rooms: AsyncExitStack, side: str, number: int
) -> tuple[Run, Participant]:
    """A canceled call with one caller left in its room, beside the bot."""
    room = await rooms.enter_async_context(LiveKitRoom(livekit, f"{side}-{number}"))
    caller, _ = await asyncio.gather(room.join(_CALLER), room.join(BOT))
    rooms.push_async_callback(room.delete)  # or its bot is missed in the middle of a later call
    run = await stage.world.start_in_room(side, f"room-{number}", caller.room_sid)
    await stage.world.cancel(run)
    return run, caller


async def _end(stage: Stage, post: Post, run: Run, caller: Participant) -> Took:
    """The caller leaves."""
    await stage.rest()
    await asyncio.sleep(_REST)
    asked = await caller.leave()
    heard = await post.left(caller.room_sid)
    (ended,) = await stage.ended([run])
    return Took((heard.wall - asked) / timedelta(milliseconds=1), 1000 * (ended.clock - heard.clock))
