"""Plays a company's HTTP proxy: it opens tunnels (CONNECT), forwards plain requests, and may ask who it is."""

import asyncio
import contextlib
import ssl
from typing import NamedTuple, Self


class Asked(NamedTuple):
    """What a client wanted of the proxy."""

    method: str
    target: str
    authorization: str | None


class ConnectProxy:
    """Whatever host a client names, it is led to `target_port` of the loopback interface.

    With `credentials`, the value of Proxy-Authorization, everybody else is answered with 407. With `tls` it is one that
    has to be talked to by TLS (https://).
    """

    def __init__(self, target_port: int, *, credentials: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.asked: list[Asked] = []
        self._target_port = target_port
        self._credentials = credentials
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        self.asked.append(Asked(method, target, headers.get("proxy-authorization")))
        if self._credentials is not None and headers.get("proxy-authorization") != self._credentials:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = "/" + target.split("/", 3)[3]
            server_writer.write(head.replace(target.encode(), path.encode(), 1))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, server_writer))
                group.create_task(_pass_on(server_reader, writer))
        except* OSError:
            pass
        finally:
            server_writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()
