"""A small HTTP server for GETs that are answered at once: the kubelet's probes, Prometheus' scrapes, somebody's curl.

One request a connection, no body, no TLS. h11 speaks HTTP; a framework's server would cost each service 2 MiB (measured
with aiohttp), for three paths.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from socket import socket
from typing import Final, NamedTuple, cast

import h11
import structlog

_LONGEST_HEAD: Final = 16 * 1024
_DEADLINE: Final = 10.0
"""Seconds from the connection to the end of the answer."""
_MOST_AT_ONCE: Final = 64
"""Connections. A kubelet and two Prometheus have three, so those beyond are nobody's who needs us."""

log = structlog.get_logger()


class Request(NamedTuple):
    """What was asked for: the path, the query without its `?`, and the headers by their names in lower case."""

    path: str
    query: str
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """What is sent back; the headers that every answer has are not among these."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


Handler = Callable[[Request], Answer]
"""Answers without waiting for anything. An error that it raises is logged, and answered with 500."""


class HttpServer:
    """Answers on sockets that listen, until `close`. `routes` has the handlers by their paths."""

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._routes = routes
        self._open: set[_Connection] = set()
        self._servers: list[asyncio.Server] = []

    async def serve(self, sockets: Sequence[socket]) -> None:
        loop = asyncio.get_running_loop()
        for listening in sockets:
            self._servers.append(
                await loop.create_server(lambda: _Connection(self._open, self._answer), sock=listening)
            )

    def close(self) -> None:
        """Listen no more. Whoever has not had an answer gets none; those that were given are on their way."""
        for server in self._servers:
            server.close()
        for connection in [*self._open]:
            connection.abort()

    def _answer(self, method: str, request: Request) -> Answer:
        if method not in {"GET", "HEAD"}:
            return _plain(405, ("Allow", "GET, HEAD"))
        if (handler := self._routes.get(request.path)) is None:
            return _plain(404)
        try:
            return handler(request)
        except Exception:
            log.exception("request failed", path=request.path)
            return _plain(500)


class _Connection(asyncio.Protocol):
    """Hears one request, writes the answer, and closes."""

    def __init__(self, others: "set[_Connection]", answer: Callable[[str, Request], Answer]) -> None:
        self._others = others
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_HEAD)
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(_DEADLINE, self._transport.abort)
        self._others.add(self)
        if len(self._others) > _MOST_AT_ONCE:
            self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._deadline.cancel()
        self._others.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return  # a body, or one more request: there is one a connection
        try:
            self._http.receive_data(data)
            heard = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._send(_plain(error.error_status_hint), with_body=True)
            return
        if isinstance(heard, h11.Request):
            method = heard.method.decode()
            self._send(self._answer(method, _request(heard)), with_body=method != "HEAD")

    def abort(self) -> None:
        if not self._answered:
            self._transport.abort()

    def _send(self, answer: Answer, *, with_body: bool) -> None:
        self._answered = True
        headers = [
            *answer.headers,
            ("Content-Length", str(len(answer.body))),
            ("Date", formatdate(usegmt=True)),
            ("Connection", "close"),
        ]
        phrase = HTTPStatus(answer.status).phrase
        events = [
            h11.Response(status_code=answer.status, headers=headers, reason=phrase),
            *([h11.Data(data=answer.body)] if with_body else []),
            h11.EndOfMessage(),
        ]
        for event in events:
            self._transport.write(self._http.send(event) or b"")
        self._transport.close()  # when it is written


def _request(heard: h11.Request) -> Request:
    path, _, query = heard.target.decode("latin-1").partition("?")
    headers: dict[str, str] = {}
    for name, value in heard.headers:
        known, more = name.decode("latin-1"), value.decode("latin-1")
        headers[known] = f"{headers[known]}, {more}" if known in headers else more
    return Request(path, query, headers)


def _plain(status: int, *headers: tuple[str, str]) -> Answer:
    text = f"{status} {HTTPStatus(status).phrase}\n"
    return Answer(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), text.encode())
