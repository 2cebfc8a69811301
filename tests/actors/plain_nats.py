"""What a server without TLS, or somebody in between, gets to see: every byte that a client sends it is kept."""

import asyncio
import json
from typing import Self


class PlainNats:
    """Speaks enough of NATS to be taken for a server, without TLS. Entered as an async context manager.

    Its first words are `info`, which may change, as INFO or, as bytes, as they are; without it says nothing.
    `connections` counts who came, `received` is what they said.
    """

    def __init__(self, port: int, info: dict[str, object] | bytes | None = None) -> None:
        self.port = port
        self.connections = 0
        self.received = b""
        self.info = info
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    def send(self, words: dict[str, object] | bytes) -> None:
        """To whoever came last."""
        assert self._writer is not None
        if not isinstance(words, bytes):
            ours = {"server_id": "plain", "version": "2.15.0", "proto": 1, "max_payload": 1_048_576, "headers": True}
            words = b"INFO " + json.dumps(ours | words).encode() + b"\r\n"
        self._writer.write(words)

    def connect(self) -> dict[str, object]:
        """What the first CONNECT said."""
        published: dict[str, object] = json.loads(self.received.partition(b"CONNECT ")[2].partition(b"\r\n")[0])
        return published

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writer = writer
        try:
            if self.info is not None:
                self.send(self.info)
            while data := await reader.read(65_536):
                self.received += data
                writer.writelines([b"PONG\r\n"] * data.count(b"PING\r\n"))
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
