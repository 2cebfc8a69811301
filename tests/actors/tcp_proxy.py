"""Plays the network between a client and one server: it can go silent, break, or lose an answer.

Bytes pass unread, so TLS is end to end and the server behind it stays the real one.
"""

import asyncio
import contextlib
from typing import Self


class TcpProxy:
    """Forwards connections on `port` to a port of the loopback interface, until told otherwise."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._target_port = target_port
        self._silent = False
        self._swallowing = False
        self._refusing = False
        self._lose_answers = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections)

    def go_silent(self) -> None:
        """Open connections stay open, but nothing from the server gets through on them any more."""
        self._silent = True

    def swallow(self) -> None:
        """Connections stay open, new ones too, and nothing gets through either way: a network that drops everything."""
        self._swallowing = True

    def cut(self, *, refuse: bool = False) -> None:
        """Break all connections, and with `refuse` each new one too."""
        self._refusing = refuse
        for writer in self._writers:
            writer.transport.abort()

    def restore(self) -> None:
        """What was cut or silent works again for new connections."""
        self._refusing = self._silent = self._swallowing = False

    def lose_next_answer(self) -> None:
        """Break the connection on which the server speaks next, instead of passing that on."""
        self._lose_answers += 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # nobody listens there now
            writer.transport.abort()
            self._connections.discard(task)
            return
        both = {writer, server_writer}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._to_server(reader, server_writer))
                group.create_task(self._to_client(server_reader, writer))
        except* OSError:
            pass
        finally:
            for end in both:
                end.transport.abort()
            self._writers -= both
            self._connections.discard(task)

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        swallowed = False
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                swallowed = swallowed or self._swallowing
                if not swallowed:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent = False
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self._lose_answers:
                    self._lose_answers -= 1
                    break
                silent = silent or self._silent or self._swallowing
                if not silent:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
