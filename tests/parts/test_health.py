"""What whoever asks a service by hand gets, and what becomes of those who ask in a way of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from exeunt.net.http_server import Answer, HttpServer, Request
from exeunt.net.listening import listen
from exeunt.process.health import Health, serve_health
from exeunt_local.processes import free_port

PATIENCE = 20.0
"""Seconds, on a machine that has more to do."""


@pytest.mark.parametrize(("unavailable_reason", "status"), [(None, 200), ("not connected to NATS", 503)])
async def test_an_answer_ends_with_a_newline(unavailable_reason: str | None, status: int) -> None:
    address = f"127.0.0.1:{free_port()}"
    health = Health({"nats": lambda: unavailable_reason}, {})
    server = await serve_health(health, address, lambda _: Answer(200, (), b""))
    try:
        async with aiohttp.ClientSession() as http, http.get(f"http://{address}/readyz") as answer:
            message = await answer.text()
    finally:
        server.close()
    assert answer.status == status
    assert answer.content_type == "application/json"
    assert message.endswith("}\n")


def echo(request: Request) -> Answer:
    return Answer(200, (), f"{request.query} {request.headers.get('accept', '')}".encode())


def broken(_: Request) -> Answer:
    raise KeyError("a bug")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int]]:
    port = free_port()
    server = HttpServer({"/echo": echo, "/broken": broken, "/long": lambda _: Answer(200, (), b"x" * 10_000_000)})
    await server.serve(listen("ADDR", f"127.0.0.1:{port}"))
    try:
        yield "127.0.0.1", port
    finally:
        server.close()


async def said(where: tuple[str, int], *parts: bytes) -> bytes:
    """All that comes back for these bytes, sent one after the other; none of it if the connection is torn down."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*where)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        ([b"GET /echo?a=1 HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"], 200, b"a=1 text/plain"),
        ([b"GET /echo HTTP/1.0\r\nACCEPT:  a/b \r\nAccept: c/d\r\n\r\n"], 200, b" a/b, c/d"),
        ([b"GET /ec", b"ho?b HTTP/1.1\r\nHost: x\r", b"\n\r", b"\n"], 200, b"b "),
        ([b"HEAD /echo?a=1 HTTP/1.1\r\nHost: x\r\n\r\n"], 200, b""),
        ([b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", b"ab"], 405, b"405 Method Not Allowed\n"),
        ([b"GET /echo?1 HTTP/1.1\r\nHost: x\r\n\r\nGET /echo?2 HTTP/1.1\r\nHost: x\r\n\r\n"], 200, b"1 "),
        ([b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"], 404, b"404 Not Found\n"),
        ([b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n"], 500, b"500 Internal Server Error\n"),
        ([b"hello\r\n\r\n"], 400, b"400 Bad Request\n"),
        ([b"GET /echo HTTP/1.1\r\n\r\n"], 400, b"400 Bad Request\n"),  # no Host
        ([b"GET /echo HTTP/1.1\r\nA: " + b"a" * 20_000], 431, b"431 Request Header Fields Too Large\n"),
    ],
)
async def test_a_request_is_answered_and_the_connection_is_over(parts: list[bytes], status: int, body: bytes) -> None:
    async with serving() as where:
        head, _, got = (await said(where, *parts)).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert (int(first.split()[1]), got) == (status, body)
    assert headers["Connection"] == "close"
    assert got == b"" or int(headers["Content-Length"]) == len(got)


async def test_a_long_answer_comes_whole() -> None:
    async with serving() as where:
        answer = await said(where, b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n" + b"x" * 10_000_000)


async def test_whoever_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exeunt.net.http_server._DEADLINE", 0.2)
    async with serving() as where:
        assert await said(where, b"GET /echo HTTP/1.1\r\n") == b""


async def test_more_than_there_can_be_are_turned_away_and_nobody_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exeunt.net.http_server._MOST_AT_ONCE", 3)
    request = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving() as where:
        silent = [await asyncio.open_connection(*where) for _ in range(3)]
        assert await said(where, request) == b""
        silent[0][1].close()
        async with asyncio.timeout(PATIENCE):
            answer = b""
            while not answer:
                await asyncio.sleep(0.05)
                answer = await said(where, request)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        for _, writer in silent:
            writer.close()


async def test_it_ends_with_connections_that_are_open() -> None:
    async with serving() as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"GET /echo HTTP/1.1\r\n")
        await said(where, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")  # so the one before has been accepted, too
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
