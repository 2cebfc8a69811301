"""A NATS server with JetStream on this machine: the real nats-server, on the loopback interface.

`binaries` finds the program. TLS, users and permissions go into `config`, in the server's own configuration
language.
"""

import os
import signal
from pathlib import Path
from typing import Self

from exeunt_local.processes import Process, free_port


class NatsServer:
    """Entered as an async context manager; configuration, log and streams are in `folder`. `store` is the most that may
    be stored, as "64MB"; without it, it is what the disk has.

    `url` is for clients, `monitor_url` has the server's JSON pages (`/varz`, `/jsz`). Restarts keep it all.
    """

    def __init__(
        self, folder: Path, *, binary: Path, config: str = "", jetstream: bool = True, store: str = ""
    ) -> None:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        port, monitor_port = free_port(), free_port()
        self.folder = folder
        self.url = f"nats://127.0.0.1:{port}"
        self.monitor_url = f"http://127.0.0.1:{monitor_port}"
        room = f", max_file_store: {store}" if store else ""
        (folder / "nats-server.conf").write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'http: "127.0.0.1:{monitor_port}"\n'
            + (f'jetstream {{ store_dir: "{folder / "jetstream"}"{room} }}\n' if jetstream else "")
            + config
        )
        self._process = Process(
            [binary, "--config", folder / "nats-server.conf"],
            log=folder / "nats-server.log",
            ready_url=f"{self.monitor_url}/healthz",
        )

    async def start(self) -> None:
        """Starts it where it was, and waits until JetStream is ready; raises ProcessFailed."""
        await self._process.start()

    async def stop(self) -> None:
        """SIGTERM: an orderly end."""
        await self._process.stop()

    async def kill(self) -> None:
        """SIGKILL, as when its machine is lost."""
        await self._process.kill()

    def freeze(self) -> None:
        """SIGSTOP, as when its machine hangs: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on as if nothing had happened."""
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """It takes in what has changed in its configuration, as far as it can while it runs."""
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        if pid := self._process.pid:
            os.kill(pid, number)

    async def restart(self) -> None:
        """Stops and starts it."""
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
