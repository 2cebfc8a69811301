"""nats-py's client, made to keep what Exeunt promises on the wire; the only module that reaches into it.

nats-py turns to TLS only if the server's INFO asks for it: whatever was configured, a server that does not ask, or
somebody in between who strikes that out, gets CONNECT with the password in plain text, on the first connection and on
every later one. When it is closed between two servers it even writes what is buffered. Servers that it learns of from
others it tries without user and password, it never forgets one, and what it reads from a file ends its reconnecting for
good when the file is half-written. A task that is cancelled in the moment of its answer, or of a forced flush, goes
on as if nothing had been. Here

- the transport lets nothing out before the server has spoken and, where TLS was asked for, TLS stands;
- each server has the login of its URL, or of the server that told of it, and each CONNECT the files as they are now;
- a server that is no longer told of is dropped once it does not answer either: one that is cut off tells of no others;
- a server that does not answer can be left for another, at once;
- whatever goes wrong in a handshake is an error that nats-py tries again after;
- whoever is cancelled while connecting, sending or waiting is cancelled, and what is closed stays closed.

tests/parts/test_bus_tls.py and test_bus_servers.py look at the bytes, so they fail if nats-py changes under this.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import ParseResult

import nats.errors
import structlog
from nats.aio.client import DEFAULT_BUFFER_SIZE, Client, Srv
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport

from exeunt.bus.credentials import NatsUser, Tls, read_user
from exeunt.bus.servers import Login, NatsServer
from exeunt.cancelled import cancellation_kept
from exeunt.errors import UsageError, said_by
from exeunt.net.keepalive import keep_alive
from exeunt.net.tls import explain

log = structlog.get_logger(__name__)

_NO_TLS: Final = (
    "it offers no TLS, which was asked for (by tls:// in EXEUNT_NATS_URL or by EXEUNT_NATS_TLS_*), so nothing was sent:"
    " switch TLS on there (`tls` in its configuration), or ask for none"
)
_SILENT: Final = (
    "it says nothing: is this a NATS server? One with `handshake_first: true` wants EXEUNT_NATS_TLS_FIRST=true"
)


class Unsafe(nats.errors.Error):
    """Refused, because it would go out in plain text or to nobody knows whom; the message says what to do."""


class NatsClient(Client):
    """A Client for `servers` that speaks as `tls` and the file `credentials` ("" for none) say."""

    def __init__(self, servers: Iterable[NatsServer], tls: Tls, credentials: str) -> None:
        super().__init__()
        self._logins: dict[str, Login | None] = {server.address: server.login for server in servers}
        self._tls = tls
        self._tls_asked_for = tls.asked_for or any(server.tls for server in servers)
        self._credentials = credentials
        self._last_context: ssl.SSLContext | None = None

    async def publish(self, *args: Any, **kwargs: Any) -> None:
        async with cancellation_kept():
            await super().publish(*args, **kwargs)

    async def request(self, *args: Any, **kwargs: Any) -> Msg:
        async with cancellation_kept():
            return await super().request(*args, **kwargs)

    async def flush(self, *args: Any, **kwargs: Any) -> None:
        async with cancellation_kept():
            await super().flush(*args, **kwargs)

    async def close(self) -> None:
        await super().close()
        if not self.is_closed:  # nats-py has connected in that moment
            await super().close()

    @property
    def server(self) -> str:
        """The name and address of the server that we are, or were, connected to; empty before the first."""
        if self._current_server is None:
            return ""
        name = self._server_info.get("server_name")
        return f"{name} ({self.address})" if name else self.address

    @property
    def address(self) -> str:
        """Its address alone, as `Server.uri.netloc` has it."""
        return self._current_server.uri.netloc if self._current_server else ""

    @property
    def has_others(self) -> bool:
        """Whether another connection may lead to another server: one name can stand for a whole cluster."""
        return len(self._server_pool) > 1 or "cluster" in self._server_info

    @property
    def known(self) -> int:
        """How many servers are known, under whatever names."""
        return len(self._server_pool)

    async def leave(self) -> None:
        """Connect to another server, and do not wait until this one has taken notice."""
        await self.force_reconnect()
        if isinstance(self._transport, _Transport):
            self._transport.abort()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A new one for every connection, because certificates rotate; while they are half-written, the one before."""
        try:
            self._last_context = self._tls.context()
        except UsageError as error:
            if self._last_context is None:
                raise nats.errors.Error(str(error)) from error
            log.warning("TLS files not read again", error=str(error))
        return self._last_context

    async def _connect_to_server(self, s: Srv) -> None:
        s.last_attempt = time.monotonic()
        if self._transport is not None:  # of an attempt that failed: nats-py forgets it
            self._transport.close()  # type: ignore[no-untyped-call]
        self._transport = transport = _Transport(s.uri.netloc, tls_asked_for=self._tls_asked_for)
        patience = self.options["connect_timeout"]
        async with cancellation_kept():
            try:
                await transport.connect(s.uri, DEFAULT_BUFFER_SIZE, patience)
            except TimeoutError:
                raise nats.errors.Error(f"{s.uri.netloc}: no connection within {patience:g} s") from None
            except (OSError, ValueError) as error:  # uvloop's do not say where; a name that DNS cannot have
                raise nats.errors.Error(f"{s.uri.netloc}: {error}") from error

    async def _process_connect_init(self) -> None:
        where = self._current_server.uri.netloc if self._current_server else ""
        async with cancellation_kept():
            try:
                await super()._process_connect_init()
            except TimeoutError:
                heard = isinstance(self._transport, _Transport) and self._transport.has_spoken
                raise nats.errors.Error(f"{where}: {'no answer to CONNECT' if heard else _SILENT}") from None
            except (OSError, nats.errors.Error):
                raise
            except (AttributeError, KeyError, TypeError, ValueError) as error:  # only a server's words can be so wrong
                raise nats.errors.Error(f"{where}: what it says is no NATS: {error!r}") from error

    def _connect_command(self) -> bytes:
        current = self._current_server
        login = self._logins.get(current.uri.netloc) if current else None
        user = self._user()
        self._auth_configured = self._auth_configured or bool(login or user)
        jwt = user.jwt if user else b""
        self._user_jwt_cb = (lambda: jwt) if jwt else None
        self._signature_cb = user.sign if user else None
        self._public_nkey = user.public_key if user else None
        token = login is not None and login.password is None
        self.options["user"] = login.user if login and not token else None
        self.options["password"] = login.password if login else None
        self.options["token"] = login.user if login and token and user is None else None
        return super()._connect_command()

    def _user(self) -> NatsUser | None:
        try:
            return read_user(self._credentials) if self._credentials else None
        except OSError as error:  # not there yet: the next attempt reads it again
            raise nats.errors.Error(f"EXEUNT_NATS_CREDENTIALS={self._credentials!r}: {said_by(error)}") from error
        except UsageError as error:  # half-written
            raise nats.errors.Error(str(error)) from error

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's
        known = {srv.uri.netloc for srv in self._server_pool}
        await super()._process_info(info, initial_connection)
        reported, current = info.get("connect_urls"), self._current_server
        if not reported or current is None:
            return
        for srv in self._server_pool:
            if srv.uri.netloc not in known:
                self._logins[srv.uri.netloc] = self._logins.get(current.uri.netloc)
                if _is_ip(srv.uri):  # its certificate has the name that we went by, or its own address if that was one
                    srv.tls_name = current.tls_name or (None if _is_ip(current.uri) else current.uri.hostname)
        self._server_pool[:] = [
            srv
            for srv in self._server_pool
            if not srv.discovered or srv is current or srv.uri.netloc in reported or not srv.reconnects
        ]
        self._logins = {srv.uri.netloc: self._logins.get(srv.uri.netloc) for srv in self._server_pool}

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - nats-py's
        if isinstance(self._transport, _Transport) and not self._transport.takes_bytes:
            self._pending.clear()
            self._pending_data_size = 0
        await super()._close(status, do_cbs)
        if self._transport is not None:  # nats-py left it open if an earlier closing was cancelled
            self._transport.close()  # type: ignore[no-untyped-call]


class _Transport(TcpTransport):
    """One connection that nothing leaves before the server has spoken, and before TLS stands where it was asked for."""

    def __init__(self, where: str, *, tls_asked_for: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.has_spoken = False
        self.is_open = False
        self._where = where
        self._tls_asked_for = tls_asked_for
        self._encrypted = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        await super().connect(uri, buffer_size, connect_timeout)
        if self._io_writer is not None:
            keep_alive(self._io_writer.get_extra_info("socket"))

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        try:
            await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        except TimeoutError:
            raise nats.errors.Error(f"{self._where}: no TLS: no handshake within {connect_timeout:g} s") from None
        except OSError as error:
            reported = explain(error, ca="EXEUNT_NATS_TLS_CA")
            raise nats.errors.Error(f"{self._where}: no TLS: {reported}") from error
        self._encrypted = self.is_open = True

    async def readline(self) -> bytes:
        """A line of the handshake. The first is INFO, which decides what may follow."""
        try:
            line: bytes = await super().readline()  # type: ignore[no-untyped-call]
        except ValueError as error:  # longer than the buffer
            raise nats.errors.Error(f"{self._where}: what it says is no NATS: {error}") from error
        if not line:
            raise ConnectionResetError(f"{self._where}: it hung up" if self.has_spoken else f"{self._where}: {_SILENT}")
        if self.has_spoken:
            return line
        self.has_spoken = True
        return line if self._encrypted else self._plain(line)

    def _plain(self, line: bytes) -> bytes:
        op, _, body = line.partition(b" ")
        try:
            info = json.loads(body) if op == b"INFO" else None
        except ValueError:
            info = None
        if not isinstance(info, dict):
            raise nats.errors.Error(
                f"{self._where}: this is no NATS server, or one that wants EXEUNT_NATS_TLS_FIRST=true"
            )
        if info.get("tls_required"):
            return line
        if not self._tls_asked_for:
            self.is_open = True
            return line
        if not info.get("tls_available"):
            raise Unsafe(f"{self._where}: {_NO_TLS}")
        return b"INFO " + json.dumps(info | {"tls_required": True}).encode() + b"\r\n"

    def abort(self) -> None:
        """Close it without a farewell: TLS would wait half a minute for the other side's."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    @property
    def takes_bytes(self) -> bool:
        """Whether anything may be sent, and would be."""
        return self.is_open and not (self._io_writer is None or self._io_writer.is_closing())

    # Once it is closed asyncio ignores what is written, and nats-py relies on that; uvloop raises RuntimeError.

    def write(self, payload: bytes) -> None:
        self._check_open()
        if self.takes_bytes:
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        self._check_open()
        if self.takes_bytes:
            super().writelines(payload)  # type: ignore[no-untyped-call]

    async def wait_closed(self) -> None:
        """Shielded: whoever is cancelled while waiting would cancel what all others wait for."""
        await asyncio.shield(super().wait_closed())  # type: ignore[no-untyped-call]

    def _check_open(self) -> None:
        if not self.is_open:
            raise Unsafe(
                f"{self._where}: nothing is sent to it before it has spoken, and TLS stands if it was asked for"
            )


def _is_ip(uri: ParseResult) -> bool:
    try:
        ip_address(uri.hostname or "")
    except ValueError:
        return False
    return True
