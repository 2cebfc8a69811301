"""Two nats-servers that tell clients of each other."""

from pathlib import Path

from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port


def nats_cluster(servers: Binaries, folder: Path, one: str, two: str) -> tuple[NatsServer, NatsServer]:
    """They have these configurations, no JetStream, and have yet to be started."""
    routes = free_port(), free_port()
    first, second = (
        NatsServer(
            folder / f"n{number}",
            binary=servers.nats_server,
            jetstream=False,
            config=f"""{config}
                server_name: n{number}
                cluster {{ name: c, listen: "127.0.0.1:{routes[number]}"
                           routes: ["nats://127.0.0.1:{routes[1 - number]}"] }}""",
        )
        for number, config in enumerate((one, two))
    )
    return first, second
