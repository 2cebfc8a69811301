"""One connection to NATS that survives the server, and says what is wrong while it cannot.

nats-py reconnects by itself. This module sets it so that it never gives up, notices a dead peer in half a
minute, spreads its attempts, and turns its many exceptions into the few of `exeunt.bus.errors`; what goes over the wire
before a connection stands is `client`'s. A server whose connection stands while JetStream answers nothing is left for
another (`server_change`). `streams`, `publisher` and `pull` do all their talking through `Bus`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Server
from nats.aio.msg import Msg

from exeunt.back_off import BackOff, spread
from exeunt.bus.client import NatsClient
from exeunt.bus.credentials import Tls, read_user
from exeunt.bus.errors import ApiRefused, BusClosed, BusError, BusUnavailable, NoResponders, PermissionDenied
from exeunt.bus.server_change import ServerChange
from exeunt.bus.servers import read_servers
from exeunt.bus.unanswered import asked_of
from exeunt.clock import readable_instant
from exeunt.errors import UsageError, said_by
from exeunt.events.messages import MAX_HEADERS, header_size
from exeunt.net.other_clock import OtherClock
from exeunt.telemetry.metrics import NATS_ERRORS, NATS_RECONNECTS

PING_INTERVAL = 10  # seconds; two unanswered pings make the peer dead
RECONNECT = BackOff(0.1, 1)
VIOLATION_MEMORY = 60.0  # seconds for which a denied ack counts: by then it would be denied again
REPEAT_SILENCE = 30.0  # seconds for which an identical error is counted, not logged

log = structlog.get_logger(__name__)


class Bus:
    """A connection to NATS. Make one with `connect`, end it with `close`.

    `change` leads to another server when this one does not serve us.
    `session` grows with every (re)connection: whoever keeps state at the server compares it and starts over.
    `recreate_streams` is what to run when a publish finds its stream missing; None leaves streams alone. `unstored` are
    the subjects of what the terminators were told not to be stored (`hearsay`), the oldest first. `clock` is
    that of the nats-servers, as they tell it when they are asked of streams and consumers.
    """

    def __init__(self, url: str, tls: Tls, credentials: str) -> None:
        servers = read_servers(url)
        self.nc = NatsClient(servers, tls, credentials)
        self.change = ServerChange(self.nc)
        self.session = 0
        self.recreate_streams: Callable[[], Awaitable[None]] | None = None
        self.unstored: dict[str, None] = {}
        self.clock = OtherClock("nats-server")
        self._servers = [server.url for server in servers]
        self._where = ", ".join(self._servers)
        self._connected = asyncio.Event()
        self._on_session: list[Callable[[], None]] = []
        self._connecting: asyncio.Task[None] | None = None
        self._closing = False
        self._last_error = "not tried yet"
        self._last_logged = float("-inf")
        self._repeated = 0
        self._violations: deque[tuple[float, str]] = deque(maxlen=32)
        self._open: set[asyncio.Timeout] = set()  # of requests that wait for an answer over this connection

    @property
    def unavailable_reason(self) -> str | None:
        """Why nothing can be sent now, for /readyz; None when the connection is up."""
        if self.nc.is_closed and self.session:
            return f"the connection to NATS at {self._where} is closed for good: {self._last_error}"
        if not self._connected.is_set():
            return f"not connected to NATS at {self._where}: {self._last_error}"
        return None

    @property
    def server(self) -> str:
        """The server that we are, or were, connected to, for people; before the first, those that were named."""
        return self.nc.server or self._where

    def on_session(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` with every (re)connection; the returned function ends that."""
        self._on_session.append(callback)
        return lambda: self._on_session.remove(callback)

    async def wait_connected(self, timeout: float) -> None:  # noqa: ASYNC109 - the error tells the reason
        """Raises BusUnavailable without a connection in `timeout` seconds, BusClosed when none will come, and
        UsageError when what `connect` was given is of no use.
        """
        self._check_open()
        if self._connected.is_set():
            return
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError:
            self._check_open()
            raise BusUnavailable(str(self.unavailable_reason)) from None

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout: float,  # noqa: ASYNC109 - a denied request shows as a timeout, which this method explains
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Send one request and wait `timeout` seconds in all, a reconnection included, for its reply.

        Raises BusUnavailable (no answer), NoResponders, PermissionDenied, BusClosed. Errors about the message
        itself (nats.errors.MaxPayloadError, BadHeaderError, BadSubjectError) pass through.
        """
        try:
            return await self._request(subject, payload, timeout, headers)
        except BusError as error:
            NATS_ERRORS.add(error_type=type(error).__name__)
            raise

    async def _request(
        self,
        subject: str,
        payload: bytes,
        timeout: float,  # noqa: ASYNC109 - as above
        headers: dict[str, str] | None,
    ) -> Msg:
        loop = asyncio.get_running_loop()
        since = loop.time()
        await self.wait_connected(timeout)
        # nats-py looks at the body alone. The server counts headers, too, and would close the connection for good.
        room = self.nc.max_payload - len(payload)
        if room < MAX_HEADERS and room < header_size(headers):
            raise nats.errors.MaxPayloadError
        waiting = asyncio.timeout_at(max(since + timeout, loop.time() + 0.01))
        self._open.add(waiting)
        try:
            async with waiting:
                # nats-py's own deadline would be a second timer.
                return await self.nc.request(subject, payload, timeout=None, headers=headers)
        except nats.errors.NoRespondersError:
            why = f"nobody answers on {subject}: the stream or consumer is missing, or has no leader (yet)"
            self.change.unanswered(asked_of(subject), why, since=since)
            raise NoResponders(why) from None
        except TimeoutError:
            if waiting not in self._open:
                raise BusUnavailable(f"the connection was lost before an answer on {subject}") from None
            if self.is_denied(subject, since=since):
                raise PermissionDenied(f"permission denied for subject {subject}: grant it to this user") from None
            self.change.unanswered(asked_of(subject), f"no answer on {subject}", since=since)
            raise BusUnavailable(f"no answer on {subject} within {timeout:g} s") from None
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError):
            raise BusClosed(f"the connection to NATS at {self._where} is closed: {self._last_error}") from None
        except (nats.errors.OutboundBufferLimitError, nats.errors.ConnectionReconnectingError) as error:
            raise BusUnavailable(f"cannot send to {subject} now: {error}") from error
        finally:
            self._open.discard(waiting)

    async def api(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call of the JetStream API, for example `api("STREAM.INFO.RUNS")`, answered within 5 s.

        Raises ApiRefused, and what `request` raises; a "not now" of the server (429, 503) is BusUnavailable.
        """
        loop = asyncio.get_running_loop()
        subject, since = f"$JS.API.{call}", loop.time()
        reply = await self.request(subject, msgspec.json.encode(request or {}), timeout=5.0)
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        if (reported := readable_instant(answer.get("ts"))) is not None:
            leader = answer.get("cluster", {}).get("leader", "")
            self.clock.tells(reported, round_trip=loop.time() - since, server=leader)
        if error := answer.get("error"):
            code, err_code, text = error["code"], error.get("err_code", 0), error.get("description", "")
            if code in {429, 503}:
                why = f"JetStream cannot answer {call} now: {text} ({code}/{err_code})"
                self.change.unanswered(asked_of(subject), why, since=since)
                raise BusUnavailable(why)
            self.change.answered(asked_of(subject))
            raise ApiRefused(call, code, err_code, text)
        self.change.answered(asked_of(subject))
        return answer

    def is_denied(self, subject: str, *, since: float) -> bool:
        """Whether the server forbade `subject`, or our inbox, after the loop time `since`."""
        # nats-py hands the server's words over in lower case. A forbidden inbox is reported once, on subscribing.
        quoted, inbox = f'"{subject.lower()}"', self.nc.new_inbox().rpartition(".")[0].lower()
        return any(
            (when >= since and quoted in text) or f'subscription to "{inbox}' in text for when, text in self._violations
        )

    def are_acks_denied(self, stream: str, durable: str) -> bool:
        """Whether the server forbade an ack of that consumer within the last minute. It comes again meanwhile.

        Metrics ask this from a thread of their own, where there is no loop and the violations may grow.
        """
        consumer, since = f".{stream}.{durable}.".lower(), time.monotonic() - VIOLATION_MEMORY
        return any(
            when >= since and 'publish to "$js.ack.' in text and consumer in text
            for when, text in list(self._violations)
        )

    async def close(self, budget: float) -> None:
        """Send what is buffered, wait for the server to have read it, and close; within `budget` seconds."""
        self._closing = True
        await self.change.close()
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.wait({self._connecting}, timeout=budget)
        try:
            async with asyncio.timeout(budget):
                if self.nc.is_connected:
                    await self.nc.flush()
        except (TimeoutError, nats.errors.Error) as error:
            log.warning("NATS closed before all was sent", error=str(error) or "timed out", server=self._where)
        await self.nc.close()
        self._connected.clear()

    def _check_open(self) -> None:
        first = self._connecting
        if first is not None and first.done() and not first.cancelled() and (error := first.exception()) is not None:
            raise UsageError(f"cannot use NATS at {self._where}: {error}") from error
        if self._closing or (self.nc.is_closed and self.session):
            raise BusClosed(f"the connection to NATS at {self._where} is closed: {self._last_error}")

    def _start(self, options: dict[str, Any]) -> asyncio.Task[None]:
        NATS_RECONNECTS.expect()
        self._connecting = asyncio.create_task(self._connect(options), name="nats-connect")
        return self._connecting

    async def _connect(self, options: dict[str, Any]) -> None:
        try:
            await self.nc.connect(
                self._servers,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
                reconnect_to_server_handler=self._next_server,
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL,
                max_outstanding_pings=2,
                **options,
            )
        except Exception as error:
            self._last_error = str(error)  # for /readyz, until whoever needs the connection raises it
            raise
        self._up("NATS connected")

    def _up(self, event: str) -> None:
        self.session += 1
        self._violations.clear()
        self.change.connected()
        self._connected.set()
        log.info(event, server=self.server, session=self.session)
        for callback in self._on_session:
            callback()

    def _next_server(self, pool: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        """Which, after a wait that doubles with its failures and is never the same twice."""
        server = self.change.choose(pool)
        return server, RECONNECT.wait(server.reconnects)

    async def _on_reconnected(self) -> None:
        NATS_RECONNECTS.add()
        self._up("NATS reconnected")

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        self.change.lost()
        for waiting in self._open:  # their answers will not come over another connection
            if not waiting.expired():
                waiting.reschedule(0)
        self._open.clear()
        if not self._closing:
            log.warning("NATS disconnected", server=self.server, error=self._last_error)

    async def _on_closed(self) -> None:
        if not self._closing:
            self._last_error = str(self.nc.last_error or self._last_error)
            log.error("NATS closed", server=self._where, error=self._last_error)

    async def _on_error(self, error: Exception) -> None:
        NATS_ERRORS.add(error_type=type(error).__name__)
        text, now = str(error) or type(error).__name__, asyncio.get_running_loop().time()
        if "permissions violation" in text:
            self._violations.append((now, text))
        if text == self._last_error and now - self._last_logged < REPEAT_SILENCE:
            self._repeated += 1
            return
        log.warning("NATS error", error=text, kind=type(error).__name__, server=self._where, repeated=self._repeated)
        self._last_error, self._last_logged, self._repeated = text, now, 0


async def connect(
    url: str,
    *,
    name: str,
    inbox_prefix: str,
    credentials: str = "",
    tls: Tls = Tls(),  # noqa: B008 - frozen
    connect_timeout: float,
    patience: float | None = None,
) -> Bus:
    """Connect to NATS; after `patience` seconds (`connect_timeout`, when None) return all the same, with
    `Bus.unavailable_reason`, and go on trying. `connect_timeout` is for each attempt.

    `url` may list several servers, separated by commas. `credentials` (user credentials, or an nkey seed) and
    those of `tls` are paths of files; they are read again for every new connection, so rotated ones are picked up, and
    credentials that are not there yet are waited for. Raises UsageError when the url or a file cannot be used.
    """
    bus = Bus(url, tls, credentials)
    if tls.asked_for:
        tls.context()
    if credentials:
        _check_user(credentials)
    first = bus._start(  # noqa: SLF001 - this function is the constructor of a Bus
        {
            "name": name,
            "inbox_prefix": inbox_prefix,
            "tls_handshake_first": tls.first,
            "connect_timeout": connect_timeout,
            # Before the first connection nats-py knows a constant wait only: let every process have another.
            "reconnect_time_wait": spread(RECONNECT.longest),
        }
    )
    # Its first step is made in any case, in which nats-py takes in the inbox prefix.
    await asyncio.wait({first}, timeout=connect_timeout if patience is None else patience)
    bus._check_open()  # noqa: SLF001 - as above
    return bus


def _check_user(credentials: str) -> None:
    try:
        read_user(credentials)
    except FileNotFoundError:
        log.warning("NATS credentials awaited", file=credentials)
    except OSError as error:
        raise UsageError(f"EXEUNT_NATS_CREDENTIALS={credentials!r} cannot be used: {said_by(error)}") from error
