"""A small HTTP server for GETs that are answered at once: the kubelet's probes, Prometheus' scrapes, somebody's curl.

One request a connection, no body, no TLS. A framework's server would cost each service 2 MiB, and with the client that
it brings along 11 (measured with aiohttp), for three paths.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from socket import socket
from typing import Final, NamedTuple, cast

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
    """Collects the head of a request, writes the answer, and closes."""

    def __init__(self, others: "set[_Connection]", answer: Callable[[str, Request], Answer]) -> None:
        self._others = others
        self._answer = answer
        self._received = bytearray()
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
        self._received += data
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if end or len(self._received) > _LONGEST_HEAD:
            self._answered = True
            self._transport.write(self._answer_to(bytes(head)) if end else _encoded(_plain(431)))
            self._transport.close()  # when it is written

    def abort(self) -> None:
        if not self._answered:
            self._transport.abort()

    def _answer_to(self, head: bytes) -> bytes:
        first, *lines = head.decode("latin-1").split("\r\n")
        match first.split(" "):
            case [method, target, "HTTP/1.1" | "HTTP/1.0"]:
                path, _, query = target.partition("?")
                answer = self._answer(method, Request(path, query, _headers(lines)))
                return _encoded(answer, with_body=method != "HEAD")
        return _encoded(_plain(400))


def _headers(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
    return found


def _plain(status: int, *headers: tuple[str, str]) -> Answer:
    text = f"{status} {HTTPStatus(status).phrase}\n"
    return Answer(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), text.encode())


def _encoded(answer: Answer, *, with_body: bool = True) -> bytes:
    headers = [
        *answer.headers,
        ("Content-Length", str(len(answer.body))),
        ("Date", formatdate(usegmt=True)),
        ("Connection", "close"),
    ]
    head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    return head.encode("latin-1") + b"\r\n" + (answer.body if with_body else b"")
