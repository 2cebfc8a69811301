"""The kernel looks after connections that wait. Read from its tables, so on Linux only."""

import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from exeunt.bus.connection import Bus
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import NotFound
from exeunt.kube.resources import STORY_RUNS
from exeunt_local.control_plane import ControlPlane
from exeunt_local.nats_server import NatsServer

Until = Callable[..., Awaitable[None]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

KEEPALIVE = "02"


def timers(url: str) -> dict[str, str]:
    """What the kernel's timer of each connection of this process to that server is for: see proc_net_tcp."""
    port = f"{int(url.rpartition(':')[2]):04X}"
    ours = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile, as the one that lists them is
            ours.add(str(fd.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9]: row[5][:2] for row in rows if row[2].endswith(f":{port}") and f"socket:[{row[9]}]" in ours}


async def test_a_connection_to_nats_that_waits_is_looked_after(nats_server: NatsServer, bus: Bus, until: Until) -> None:
    assert bus.unavailable_reason is None
    await until(lambda: list(timers(nats_server.url).values()) == [KEEPALIVE])


async def test_a_connection_to_the_kube_apiserver_that_waits_is_looked_after(
    control_plane: ControlPlane, namespace: str, until: Until
) -> None:
    before = timers(control_plane.url).keys()  # of other clients in this process
    client = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    try:
        with pytest.raises(NotFound):
            await client.get(STORY_RUNS, namespace, "nobody")
        await until(
            lambda: [timer for it, timer in timers(control_plane.url).items() if it not in before] == [KEEPALIVE],
            within=30,
        )
    finally:
        await client.close()
