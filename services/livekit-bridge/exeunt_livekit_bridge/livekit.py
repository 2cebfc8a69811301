"""LiveKit's API, as far as the bridge asks it: which rooms there are, and who is in one. A thin shell over its SDK.

Both answer by name alone, and an unknown name is an empty answer (docs/livekit.md). Each call has a deadline; whoever
calls tries again later, so nothing is retried here.
"""

import asyncio
import os
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Self, TypeVar

import aiohttp
import structlog
from livekit.api import ListParticipantsRequest, ListRoomsRequest, ServerError
from livekit.api.room_service import RoomService
from livekit.protocol.models import ParticipantInfo
from yarl import URL

from exeunt.errors import ExeuntError, UsageError
from exeunt.net.proxies import Proxy, proxy_for
from exeunt.net.tls import client_context, explain
from exeunt.telemetry.tracing import calling
from exeunt_livekit_bridge.keys import Keys
from exeunt_livekit_bridge.room import Participant

_DEADLINE: Final = 3.0
"""Seconds for one call. It is LiveKit's memory that answers, so what takes longer is trouble."""
_KINDS: Final = {number: name for name, number in ParticipantInfo.Kind.items()}
_STATES: Final = {number: name for name, number in ParticipantInfo.State.items()}
"""As this version of the SDK knows them; a newer server may send others."""
_SAME: Final = {"ws": "http", "wss": "https"}

T = TypeVar("T")
log = structlog.get_logger()


class LiveKitUnavailable(ExeuntError):
    """LiveKit's API did not answer, or not with what was asked for; the same call may work later."""


class Room(NamedTuple):
    """One opening of a room."""

    sid: str
    name: str


class LiveKit:
    """The API at `url`. Enter it to open its connections; `unavailable_reason` says why it cannot be asked, for
    /readyz.

    `strict` is as in `exeunt.net.tls`. Raises UsageError when the URL, or the proxy that it is reached by, cannot be
    used.
    """

    def __init__(self, url: str, keys: Keys, *, strict: bool = False) -> None:
        self._url = _http(url)
        self._host = URL(self._url).authority
        self._proxy = proxy_for(self._url, os.environ)
        self._keys = keys
        self._strict = strict
        self._session: aiohttp.ClientSession | None = None
        self.unavailable_reason: str | None = f"LiveKit at {self._host} was not asked yet"

    async def rooms(self, *names: str) -> tuple[Room, ...]:
        """The rooms of these names; of no names, all. Raises LiveKitUnavailable."""
        request = ListRoomsRequest(names=names)
        answer = await self._ask("ListRooms", lambda service: service.list_rooms(request))
        return tuple(Room(room.sid, room.name) for room in answer.rooms)

    async def participants(self, name: str) -> tuple[Participant, ...]:
        """Who is in the room that has this name now, if there is one. Raises LiveKitUnavailable."""
        request = ListParticipantsRequest(room=name)
        answer = await self._ask("ListParticipants", lambda service: service.list_participants(request))
        return tuple(_participant(listed) for listed in answer.participants)

    async def _ask(self, method: str, call: Callable[[RoomService], Awaitable[T]]) -> T:
        if self._session is None:
            raise RuntimeError("the connections to LiveKit are not open")
        key = self._keys.first()
        service = RoomService(self._session, self._url, key.name, key.secret, failover=False)
        with calling("POST", f"/twirp/livekit.RoomService/{method}", self._host) as hop:
            try:
                async with asyncio.timeout(_DEADLINE):  # the SDK switches its session's off
                    answer = await call(service)
            except Exception as error:  # an answer that is not LiveKit's may trip the SDK in any way
                failure = self._failed(error, key.name)
                if isinstance(error, aiohttp.ClientHttpProxyError):  # it has in it what we have told the proxy
                    hop.failed(failure)
                    raise failure from None
                hop.failed(error)
                raise failure from error
        if self.unavailable_reason is not None:
            log.info("LiveKit answers", server=self._host)
        self.unavailable_reason = None
        return answer

    def _failed(self, error: Exception, key: str) -> LiveKitUnavailable:
        match error:
            case ServerError(status=401):
                why = (
                    f"refuses the API key {key!r}: key and secret in EXEUNT_LIVEKIT_KEYS have to be those of its config"
                )
            case ServerError(status=status):
                why = f"answers {status} {error.code}: {error.message[:200]}"
            case TimeoutError():
                why = f"does not answer within {_DEADLINE:g} s"
            case aiohttp.ClientConnectorCertificateError(certificate_error=OSError() as flaw):
                why = f"cannot be asked: {explain(flaw, ca='the file that SSL_CERT_FILE names')}"
            case aiohttp.ClientHttpProxyError():
                why = f"cannot be asked: the proxy {self._proxy} answered {error.status} {error.message}"
            case aiohttp.ClientError():
                why = f"cannot be asked: {error}"
            case _:
                why = f"answers, but not as LiveKit does ({error!r}): is EXEUNT_LIVEKIT_URL right?"
        self.unavailable_reason = f"LiveKit at {self._host} {why}"
        return LiveKitUnavailable(self.unavailable_reason)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=client_context(strict=self._strict)),
            proxy=_with_credentials(self._proxy) if self._proxy else None,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _with_credentials(proxy: Proxy) -> URL:
    """A session takes them in the URL only, and encodes them in Latin-1: so these bytes come out as they are."""
    if proxy.authorization is None:
        return URL(proxy.url)
    user, _, password = b64decode(proxy.authorization.removeprefix("Basic ")).decode("latin-1").partition(":")
    return URL(proxy.url).with_user(user).with_password(password)


def _http(url: str) -> str:
    """Raises UsageError, which tells no password."""
    scheme, separator, rest = url.strip().partition("://")
    scheme = _SAME.get(scheme.lower(), scheme.lower())
    try:
        read = URL(f"{scheme}://{rest}")
        usable = scheme in ("http", "https") and bool(read.host and read.port) and read.user is read.password is None
    except ValueError:
        usable = False
    if not separator or not usable or re.search(r"\s", rest):
        shown = "" if "@" in url else f"={url!r}"
        raise UsageError(
            f"EXEUNT_LIVEKIT_URL{shown} cannot be used: it has to be like http://livekit:7880 or https://...,"
            " without a user in it"
        )
    return f"{scheme}://{rest}"


def _participant(listed: ParticipantInfo) -> Participant:
    grants = listed.permission
    return Participant(
        identity=listed.identity,
        kind=_KINDS.get(listed.kind, str(listed.kind)),
        state=_STATES.get(listed.state, str(listed.state)),
        agent=grants.agent,
        recorder=grants.recorder,
        hidden=grants.hidden,
    )
