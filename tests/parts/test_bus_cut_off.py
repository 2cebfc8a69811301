"""A nats-server of three that is cut off or frozen keeps its clients, and serves them no more: they go to another."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from actors.nats_cluster import NatsCluster
from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.delivery import Ack, Delivery
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.publisher import publish
from exeunt.bus.pull import PullLoop
from exeunt.bus.streams import Stream, ensure_stream
from exeunt.events.messages import Message
from exeunt.process.insist import insist
from exeunt_local.binaries import Binaries

Until = Callable[..., Awaitable[None]]

SECONDS = 45.0
"""For a move, an election and what was delivered into the void, on a busy machine."""
STREAM = Stream(name="S", subjects=("s.>",), description="a test's own", replicas=3)


@pytest.fixture
async def cluster(servers: Binaries, tmp_path: Path) -> AsyncIterator[NatsCluster]:
    async with NatsCluster(servers, tmp_path) as cluster:
        yield cluster


async def connected(cluster: NatsCluster, to: int = 0) -> Bus:
    """To one of the servers, which tells of the others."""
    url = cluster.servers[to].url
    bus = await connect(url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
    async with asyncio.timeout(SECONDS):
        while len(bus.nc.servers) < 3:  # noqa: ASYNC110 - nats-py tells nobody
            await asyncio.sleep(0.01)
    return bus


async def make(bus: Bus) -> None:
    await ensure_stream(bus, STREAM)
    await ensure_consumer(bus, "S", "d", STREAM.subjects, ack_wait=2, max_ack_pending=100)


class Client:
    """What a service does: it publishes, and takes from a consumer."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.taken: set[str] = set()
        self.loop = PullLoop(bus, "S", "d", max_in_flight=8, recreate=lambda: make(bus), ack_wait=2, max_deliveries=100)
        self._run = asyncio.create_task(self.loop.run(self._take))

    async def _take(self, delivery: Delivery) -> Ack:
        self.taken.add(delivery.subject)
        return Ack()

    async def publish(self, subject: str) -> None:
        message = Message(subject=subject, payload=b"", headers={}, expected_last_subject_sequence=0)
        await insist("publish", lambda: publish(self.bus, message, deadline=10))

    async def stop(self) -> None:
        await self.loop.stop(budget=1)
        await asyncio.wait_for(self._run, 10)
        await self.bus.close(budget=1)


async def leader(bus: Bus) -> int:
    """The number of the server that leads the stream."""
    name: str = (await bus.api("STREAM.INFO.S"))["cluster"]["leader"]
    return int(name.removeprefix("n"))


@pytest.mark.parametrize("fault", ["isolated", "refused", "frozen"])
@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_whoever_is_at_a_server_that_serves_nobody_goes_to_another(
    cluster: NatsCluster, until: Until, fault: str, role: str
) -> None:
    bus = await connected(cluster)
    await insist("make the stream", lambda: make(bus))
    number = (await leader(bus) + (role == "follower")) % 3
    await bus.close(budget=1)
    client = Client(await connected(cluster, number))
    try:
        await client.publish("s.before")
        await until(lambda: "s.before" in client.taken, within=SECONDS)
        if fault == "frozen":
            cluster.servers[number].freeze()
        else:
            cluster.isolate(number, refuse=fault == "refused")
        with capture_logs() as logs:
            async with asyncio.timeout(SECONDS):
                await client.publish("s.meanwhile")
            await until(lambda: "s.meanwhile" in client.taken, within=SECONDS)
        left = [entry["server"].partition(" ")[0] for entry in logs if entry["event"] == "nats-server left"]
        assert left[0] == f"n{number}"
        assert not client.bus.server.startswith(f"n{number} ")
        await until(
            lambda: client.bus.change.unavailable_reason is None and client.loop.unavailable_reason is None,
            within=SECONDS,
        )
    finally:
        cluster.servers[number].thaw()
        await client.stop()


async def test_a_single_server_is_not_left(bus: Bus, stream: Stream) -> None:
    """There is nowhere to go, but what is wrong is reported."""
    for _ in range(4):
        with pytest.raises(BusUnavailable):
            await publish(bus, Message(subject=f"{stream.name}.a", payload=b"", headers={}), deadline=1)
    assert f"nobody answers on {stream.name}.a" in str(bus.change.unavailable_reason)
    assert bus.session == 1
    await ensure_stream(bus, stream)
    await publish(bus, Message(subject=f"{stream.name}.a", payload=b"", headers={}), deadline=10)
    assert bus.change.unavailable_reason is None


async def test_clients_begin_at_any_server(cluster: NatsCluster) -> None:
    url = ",".join(server.url for server in cluster.servers)
    buses = [await connect(url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5) for _ in range(30)]
    assert len({bus.server for bus in buses}) == 3
    for bus in buses:
        await bus.close(budget=1)
