"""LiveKit's webhooks: verified, stored as something to look at, answered at once.

LiveKit repeats what is answered with 503 after 1, 3, 7 and 15 s, and a 4xx never; while it repeats one, later ones of
the same room wait. So only a signature that is not LiveKit's is refused, only what could not be stored is asked for
again, and no request is held for long (docs/livekit.md).
"""

import asyncio
from datetime import UTC, datetime
from typing import Final, NamedTuple

import jwt
import structlog
from aiohttp import web
from google.protobuf.json_format import ParseError
from livekit.api import TokenVerifier, WebhookReceiver
from livekit.protocol.webhook import WebhookEvent

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusError, PublishRefused
from exeunt.bus.publisher import publish
from exeunt.net.listening import addresses, listen
from exeunt.run.snapshot import LONGEST_TRIGGER_TOKEN
from exeunt.telemetry import semconv
from exeunt.telemetry.metrics import LIVEKIT_WEBHOOKS
from exeunt.telemetry.tracing import apart
from exeunt_livekit_bridge.keys import Keys
from exeunt_livekit_bridge.look import Look, look_message, new_look

PATH: Final = "/webhook"
LOOKED_AT: Final = frozenset(
    {"room_started", "room_finished", "participant_joined", "participant_left", "participant_connection_aborted"}
)
"""Events that are a reason to look: those that say who is in a room."""
_LARGEST_BODY: Final = 1024 * 1024
_STORE_DEADLINE: Final = 2.5
_BODY_DEADLINE: Final = 5.0
_SHUTDOWN: Final = 5.0
"""Seconds that requests in progress have when the listening ends."""
_MOST_AT_ONCE: Final = 256
"""Requests in progress. A webhook has a few kilobytes and takes a millisecond, so this many come when nothing moves."""

log = structlog.get_logger()


class _Answer(NamedTuple):
    """What came of a webhook, and the event for the metric."""

    status: int
    event: str
    text: str


class Webhooks:
    """The HTTP side, once it is told where to listen."""

    def __init__(self, keys: Keys, bus: Bus) -> None:
        self._keys = keys
        self._bus = bus
        self._in_progress = 0

    async def listen_on(self, addr: str) -> web.AppRunner:
        """At EXEUNT_LIVEKIT_WEBHOOK_ADDR, as `listening` reads it. Raises UsageError when that is not possible."""
        setting = "EXEUNT_LIVEKIT_WEBHOOK_ADDR"
        sockets = listen(setting, addr)
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_post(PATH, self._post)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN)
        await runner.setup()
        for listening in sockets:
            await web.SockSite(runner, listening).start()
        log.info("listening", setting=setting, addresses=addresses(sockets))
        return runner

    async def _post(self, request: web.Request) -> web.Response:
        heard_at = datetime.now(UTC)
        if self._in_progress >= _MOST_AT_ONCE:
            answer = _Answer(503, "other", "too many requests at once")
        else:
            self._in_progress += 1
            try:
                answer = await self._take(request, heard_at)
            finally:
                self._in_progress -= 1
        LIVEKIT_WEBHOOKS.add(event=answer.event, answer=str(answer.status))
        return web.Response(status=answer.status, text=f"{answer.text}\n")

    async def _take(self, request: web.Request, heard_at: datetime) -> _Answer:
        token = request.headers.get("Authorization", "")
        try:
            verifier = self._verifier(token)
            verifier.verify(token)  # before the body is read: whoever is not LiveKit shall not fill our memory
            async with asyncio.timeout(_BODY_DEADLINE):
                body = (await request.read()).decode()
            event = WebhookReceiver(verifier).receive(body, token)
        except web.HTTPRequestEntityTooLarge:
            log.warning("webhook too large", limit=_LARGEST_BODY)
            return _Answer(413, "other", "too large")
        except TimeoutError:
            return _Answer(503, "other", "the body did not come")
        except ParseError:
            log.warning("webhook does not parse")  # its text may quote the body
            return _Answer(200, "other", "not understood")
        except Exception as error:  # noqa: BLE001 - the SDK knows no narrower one
            log.warning("webhook refused", error=_reason(error))
            return _Answer(401, "unverified", "not signed by LiveKit")
        look = _look(event, heard_at)
        if look is None:
            return _Answer(200, "other", "nothing to look at")
        return await self._store(look)

    def _verifier(self, token: str) -> TokenVerifier:
        """For the key in whose name the token is signed, whether or not it is. Raises jwt.InvalidTokenError."""
        name = jwt.decode(token, options={"verify_signature": False}).get("iss")
        key = self._keys.named(name) if isinstance(name, str) else None
        if key is None:
            raise jwt.InvalidIssuerError("signed with a key that is not in EXEUNT_LIVEKIT_KEYS")
        return TokenVerifier(key.name, key.secret)

    async def _store(self, look: Look) -> _Answer:
        attributes = {
            semconv.LIVEKIT_ROOM: look.room,
            semconv.LIVEKIT_SID: look.sid,
            semconv.LIVEKIT_EVENT: look.event,
        }
        with apart("POST /webhook", "SERVER", {}, attributes) as hop:
            try:
                await publish(self._bus, look_message(look, hop.headers), deadline=_STORE_DEADLINE)
            except PublishRefused as error:  # it would be refused again
                hop.failed(error)
                log.warning("webhook refused by the stream", sid=look.sid, error=str(error))
                return _Answer(200, look.event, "not storable")
            except BusError as error:
                hop.failed(error)
                log.warning("webhook not stored", room=look.room, sid=look.sid, event_=look.event, error=str(error))
                return _Answer(503, look.event, "not stored")
        log.debug("webhook", room=look.room, sid=look.sid, heard=look.event, who=look.who)
        return _Answer(200, look.event, "stored")


def _look(event: WebhookEvent, heard_at: datetime) -> Look | None:
    sid = event.room.sid
    if event.event not in LOOKED_AT or not (0 < len(sid) <= LONGEST_TRIGGER_TOKEN and event.room.name):
        return None
    return new_look(sid, event.room.name, event.event, event.participant.identity, heard_at)


def _reason(error: Exception) -> str:
    """What is wrong with a signature, without a word of the token or the body."""
    if isinstance(error, jwt.PyJWTError) or type(error) is Exception:
        return str(error)[:200]
    return type(error).__name__
