"""A LiveKit server on this machine: the real livekit-server, a single node without Redis, on the loopback interface.

`binaries` builds the program. Media goes over the loopback interface, too: `livekit_participant` really is in a room,
and needs neither sound card nor camera for it.
"""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from exeunt_local.processes import Process, free_port


class LiveKitServer:
    """Entered as an async context manager; configuration, API key and log are in `folder`. Restarts keep them.

    `url` is for clients and the API. Each of `webhook_urls` gets every event, as far as the queues of LiveKit hold it.
    The timeouts, in seconds, are when a room that nobody has entered, and one that everybody has left, is closed.
    `config` adds sections of LiveKit's own configuration, or options to those that are there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: Path,
        webhook_urls: Sequence[str] = (),
        empty_timeout: int = 300,
        departure_timeout: int = 20,
        config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.api_key, self.api_secret = "exeunt", secrets.token_urlsafe(32)
        self.keys_file = folder / "keys"
        """`key: secret` lines: LiveKit's own format, which it refuses where others may read it."""
        self.keys_file.touch(mode=0o600)
        self.keys_file.write_text(f"{self.api_key}: {self.api_secret}\n")
        sections: dict[str, Any] = {
            "rtc": {
                "tcp_port": free_port(),
                "udp_port": free_port(),
                "use_external_ip": False,
                "node_ip": "127.0.0.1",
                "interfaces": {"includes": ["lo"]},
                "ips": {"includes": ["127.0.0.1/32"]},
                "enable_loopback_candidate": True,
            },
            "room": {"empty_timeout": empty_timeout, "departure_timeout": departure_timeout},
            "webhook": {"api_key": self.api_key, "urls": list(webhook_urls)},
        }
        for section, options in (config or {}).items():
            sections[section] = sections.get(section, {}) | dict(options)
        document = {"port": port, "bind_addresses": ["127.0.0.1"], "key_file": str(self.keys_file), **sections}
        (folder / "livekit.yaml").write_bytes(msgspec.json.encode(document))  # JSON is YAML, too
        self._process = Process(
            [binary, "--config", folder / "livekit.yaml"], log=folder / "livekit-server.log", ready_url=self.url
        )

    @property
    def pid(self) -> int | None:
        """The process id while it runs, to freeze it, say."""
        return self._process.pid

    async def start(self) -> None:
        """Starts it where it was, and waits until it is ready; raises ProcessFailed. The rooms of before are gone."""
        await self._process.start()

    async def stop(self, within: float = 10) -> None:
        """SIGTERM, upon which it waits until everybody has left, and SIGKILL after `within` seconds."""
        await self._process.stop(within)

    async def kill(self) -> None:
        """SIGKILL, as when its machine is lost: no webhook tells of it."""
        await self._process.kill()

    async def restart(self) -> None:
        """Kills and starts it: whoever is in a room comes back by himself, into another one of the same name."""
        await self.kill()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
