"""Plays livekit-webhook-impulse 0.1.6, which starts and cancels calls as LiveKit's webhooks tell of rooms.

Where each thing was seen ("source" is its pkg/impulse/impulse.go with bubu-sdk-go 0.1.5, "recorded" a real run):

- A start event of somebody who is not it itself makes a StoryRun; its trigger token is the room's sid (source:
  triggerTokenFromEvent; recorded, with name and inputs, and `bobrapet` as field manager, which acts on a StoryTrigger).
- While it knows of a run for the room, further start events do nothing (source: HasSession, 202).
- The first end event of *any* participant cancels that run, with the field manager `bubu-sdk-go`, and it then forgets
  the room (source: handleRoomEnded; StopStoryRun, which leaves runs alone that are over). `participant_left` of itself
  does not; `track_unpublished` of itself does (source: handleNonStartingEvent).
- A start event in a room that it has forgotten is answered 500, "storytrigger already exists with different immutable
  request identity", because the room's sid is used up (source: triggerStoryOnce; observed). LiveKit repeats it for
  15 s, and whatever else there is to tell it of a room of this name waits meanwhile.
- Self identities are compared exactly, or by prefix with a `*` at the end (source: matchDimension), so that the default
  misses the bot, whom the livekit-bridge engram calls `bubu-agent-...`.
- 400 for a wrong signature, 415 for another content type (source: webhookHandler).

Not played: policies, the allowlist of events, and the search for runs after a restart.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Self

from aiohttp import web
from livekit import api

from actors.call import Call
from actors.engine import Staging, start_run
from actors.kubernetes import STORY_RUN, Kubernetes
from actors.names import RUN_FINALIZER, TERMINAL, TRIGGER_TOKEN
from exeunt_local.livekit_server import LiveKitServer

SELF_IDENTITIES = ("bubu-agent",)
START_EVENTS = ("participant_joined", "track_published")
END_EVENTS = ("room_finished", "room_ended", "participant_left", "track_unpublished")


@dataclass(frozen=True)
class Cancel:
    """When, and upon what of whom, a call was canceled; `identity` is empty for events of the room."""

    at: datetime
    event: str
    identity: str


class Impulse:
    """Entered as an async context manager; listens on `port` for the webhooks of `livekit`, at `url_at(port)`.

    Runs are of `story`, in `namespace`, and started by the played `engine`, as `staging` says.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        namespace: str,
        story: str,
        *,
        livekit: LiveKitServer,
        port: int,
        staging: Staging | None = None,
        self_identities: Collection[str] = SELF_IDENTITIES,
        start_events: Collection[str] = START_EVENTS,
        end_events: Collection[str] = END_EVENTS,
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._story = story
        self._receiver = api.WebhookReceiver(api.TokenVerifier(livekit.api_key, livekit.api_secret))
        self._port = port
        self._staging = staging or Staging()
        self._self_identities = self_identities
        self._start_events = start_events
        self._end_events = end_events
        self._sessions: dict[str, Call] = {}
        self._triggers: dict[str, str] = {}  # by sid, the id of the event that its one StoryTrigger was made for
        self._changed = asyncio.Condition()
        self.calls: dict[str, Call] = {}
        """By the room's sid."""
        self.cancels: dict[str, Cancel] = {}
        """By the room's sid."""
        self.refused = 0
        """How often it has answered 500, repetitions and all."""

    @staticmethod
    def url_at(port: int) -> str:
        """What LiveKit is reported before the impulse is there."""
        return f"http://127.0.0.1:{port}/webhook"

    async def call(self, sid: str, within: float = 30) -> Call:
        """The call of that room, as soon as everyone is connected; raises TimeoutError."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: sid in self.calls)
        return self.calls[sid]

    async def cancel(self, sid: str, within: float = 30) -> Cancel:
        """The cancel of that call, as soon as it is written; raises TimeoutError."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: sid in self.cancels)
        return self.cancels[sid]

    async def repeatedly_refused(self, within: float = 30) -> None:
        """Returns when LiveKit has tried again what was refused; raises TimeoutError."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: self.refused > 1)

    async def _webhook(self, request: web.Request) -> web.Response:
        if request.content_type != "application/webhook+json":
            return web.Response(status=415)
        try:
            event = self._receiver.receive(await request.text(), request.headers.get("Authorization", ""))
        except Exception:  # noqa: BLE001 - the SDK raises nothing narrower
            return web.Response(status=400)
        itself = self._is_itself(event.participant.identity)
        if event.event in self._end_events:
            if not (itself and event.event == "participant_left"):
                await self._end(event)
        elif event.event in self._start_events and not itself and event.room.sid not in self._sessions:
            if self._triggers.setdefault(event.room.sid, event.id) != event.id:
                async with self._changed:
                    self.refused += 1
                    self._changed.notify_all()
                return web.Response(status=500, text="failed to trigger story")
            await self._start(event)
        return web.Response(status=202)

    async def _start(self, event: api.WebhookEvent) -> None:
        room = {"name": event.room.name, "sid": event.room.sid}
        participant = {"identity": event.participant.identity, "sid": event.participant.sid}
        about = {"type": event.event, "id": event.id, "createdAt": event.created_at}
        token = event.room.sid.lower().replace("_", "-")
        run = await self._kubernetes.acting_as("bobrapet").create(
            STORY_RUN,
            self._namespace,
            f"{self._story}-{token}-{sha256(token.encode()).hexdigest()[:16]}",
            {
                "storyRef": {"name": self._story, "namespace": self._namespace},
                "impulseRef": {"name": "livekit-webhook", "namespace": self._namespace},
                "inputs": {
                    "event": {**about, "room": room, "participant": participant},
                    "room": room,
                    "participant": participant,
                },
            },
            annotations={TRIGGER_TOKEN: event.room.sid},
            finalizers=[RUN_FINALIZER],
        )
        metadata = run["metadata"]
        await start_run(self._kubernetes, run, self._staging)
        call = Call(self._kubernetes, self._namespace, metadata["name"], metadata["uid"], self._story, self._staging)
        self._sessions[event.room.sid] = call
        async with self._changed:
            self.calls[event.room.sid] = call
            self._changed.notify_all()

    async def _end(self, event: api.WebhookEvent) -> None:
        call = self._sessions.pop(event.room.sid, None)
        if call is None or (await call.get()).get("status", {}).get("phase") in TERMINAL:
            return
        at = datetime.now(UTC)
        await self._kubernetes.acting_as("bubu-sdk-go").patch(
            STORY_RUN, self._namespace, call.name, {"spec": {"cancelRequested": True}}
        )
        async with self._changed:
            self.cancels[event.room.sid] = Cancel(at, event.event, event.participant.identity)
            self._changed.notify_all()

    def _is_itself(self, identity: str) -> bool:
        return any(
            identity.startswith(each[:-1]) if each.endswith("*") else identity == each for each in self._self_identities
        )

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/webhook", self._webhook)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
