"""Nothing can be stored, and consumers look well: whoever publishes in vain tells the terminators, and runs end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import nats.errors
import pytest
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from actors import kubelet
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.nats_cluster import NatsCluster
from actors.recorder import Recorder
from actors.services import start_all
from exeunt.events.event_types import EventType, Verdict
from exeunt.run import bobrapet
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

FILLER: Final = "FILLER"
STORE: Final = "16MB"
SMALL: Final = {
    "EXEUNT_BUS_PATIENCE": "300ms",
    "EXEUNT_DEADLETTERS_BYTES": "1100000",
    "EXEUNT_SIGNALS_BYTES": "1100000",
    "EXEUNT_SWEEP_INTERVAL": "1s",
}
"""A sweep finds deadlines that have come due meanwhile, as schedules do not fire either (ADR 5)."""


@pytest.fixture
async def own_nats(servers: Binaries, tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, store=STORE) as own_nats:
        yield own_nats


async def fill(streams: JetStreamContext, replicas: int) -> None:
    """Until not even a byte is taken."""
    await streams.add_stream(name=FILLER, subjects=[FILLER], num_replicas=replicas)
    for size in (200_000, 3_000, 100, 1):
        with contextlib.suppress(JetStreamError, nats.errors.Error):
            while True:
                await streams.publish(FILLER, bytes(size), timeout=2)


async def empty(streams: JetStreamContext) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await streams.delete_stream(FILLER)
            except NotFoundError:
                return
            except (JetStreamError, nats.errors.Error):
                await asyncio.sleep(0.2)


async def ends(listener: Bystander, call: Call, within: float = 60) -> list[tuple[EventType, bool]]:
    """The events that have ended a run, once all is settled, and whether that was without the bus."""
    async with asyncio.timeout(within):
        await listener.wait_for_event(call.uid, EventType.RUN_TERMINAL, within)
        while True:
            await listener.wait_until_idle(within)
            if found := [
                (recorded.event_type, recorded.outcome.without_bus)
                for recorded in await listener.history(call.uid)
                if recorded.outcome is not None and recorded.outcome.verdict is Verdict.FINALIZE
            ]:
                return found
            await asyncio.sleep(0.1)


async def test_runs_end_while_the_store_is_full_and_the_history_is_complete_afterwards(
    kubernetes: Kubernetes,
    namespace: str,
    own_mesh: Mesh,
    listener: Bystander,
    recorder: Recorder,
) -> None:
    await start_all(own_mesh, 0, **SMALL | {"EXEUNT_BUS_PATIENCE": "3s"})
    early, before, gone, up, out, calm = await asyncio.gather(
        Call.start(kubernetes, namespace, "early", shutdown_timeout="120s"),
        Call.start(kubernetes, namespace, "before", shutdown_timeout="15s"),
        Call.start(kubernetes, namespace, "gone", shutdown_timeout="120s"),
        Call.start(kubernetes, namespace, "up", shutdown_timeout="5s"),
        Call.start(kubernetes, namespace, "out", shutdown_timeout="1s", annotations={bobrapet.ENABLED: "false"}),
        Call.start(kubernetes, namespace, "calm", shutdown_timeout="1s"),
    )
    await before.cancel()
    await listener.wait_until_armed(before.uid, 30)
    await fill(listener.streams, 1)
    await early.cancel()
    await early.wait_observed(30)
    await early.lose_bindings()  # that there were any a list does not show
    await asyncio.gather(*(call.cancel() for call in (gone, up, out)))
    await asyncio.gather(*(call.wait_observed(30) for call in (gone, up, out)))
    await kubelet.wait_until_missing(own_mesh.url("terminator"), "facts", "runs are ended from here", 30)
    await gone.lose_bindings()
    for call, timeout in ((early, 0), (gone, 0), (up, 5), (before, 15)):
        await call.wait_finished(60)
        await recorder.wait_until_seen(await call.get())
        [end] = recorder.terminal_transitions(call.uid)
        assert end.written_by == "exeunt-terminator"
        assert end.at >= end.cancel_observed_at + timedelta(seconds=timeout)
    for call in (out, calm):
        assert recorder.terminal_transitions(call.uid) == []
    await kubelet.wait_until_missing(own_mesh.url("terminator"), "facts", "insufficient resources (503/10023)")

    await empty(listener.streams)
    await kubelet.wait_until_ready(own_mesh.url("terminator"), 60)
    assert [without_bus for _, without_bus in await ends(listener, early)] == [True]  # at its cancel, or after it
    assert await ends(listener, gone) == [(EventType.TOPOLOGY_TERMINATED, True)]
    assert await ends(listener, up) == [(EventType.DEADLINE_REACHED, True)]
    assert await ends(listener, before) == [(EventType.DEADLINE_REACHED, True)]
    for call in (early, before, gone, up):
        assert len(recorder.terminal_transitions(call.uid)) == 1
    again = await Call.start(kubernetes, namespace, "again", shutdown_timeout="120s")
    await again.cancel()
    await again.wait_observed(30)
    await again.lose_bindings()
    await again.wait_finished(30)
    assert await ends(listener, again) == [(EventType.TOPOLOGY_TERMINATED, False)]


@pytest.mark.timeout(240)
async def test_so_they_do_where_every_stream_has_lost_its_leader_over_it(
    kubernetes: Kubernetes,
    namespace: str,
    servers: Binaries,
    control_plane: ControlPlane,
    recorder: Recorder,
    tmp_path: Path,
) -> None:
    async with NatsCluster(servers, tmp_path / "nats", store=STORE) as cluster:
        urls = ",".join(server.url for server in cluster.servers)
        async with (
            Mesh(tmp_path / "mesh", control_plane=control_plane, nats_url=urls) as mesh,
            Bystander(cluster.servers[0].url) as listener,
        ):
            await start_all(mesh, 0, **SMALL, EXEUNT_STREAM_REPLICAS="3")
            call = await Call.start(kubernetes, namespace, shutdown_timeout="120s")
            await fill(listener.streams, 3)
            await call.cancel()
            await call.wait_observed(30)
            await kubelet.wait_until_missing(mesh.url("terminator"), "facts", "runs are ended from here", 60)
            await call.lose_bindings()
            await call.wait_finished(30)
            for server in cluster.servers:
                config = server.folder / "nats-server.conf"
                config.write_text(config.read_text().replace(f"max_file_store: {STORE}", "max_file_store: 64MB"))
                server.reload()
            await empty(listener.streams)
            assert await ends(listener, call, within=90) == [(EventType.TOPOLOGY_TERMINATED, True)]
            await recorder.wait_until_seen(await call.get())
            assert [end.written_by for end in recorder.terminal_transitions(call.uid)] == ["exeunt-terminator"]
