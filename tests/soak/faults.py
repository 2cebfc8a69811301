"""How each fault happens to the real parts, and how it ceases.

What parts servers and services is a proxy on each way (`actors.tcp_proxy`), because network namespaces want `ip` and
rights that most machines of developers and CI do not give. It drops bytes silently, or breaks and refuses connections.
What it cannot show is what the kernel would do: the proxy's own answers SYN, data and keepalive for the other side, so
that nothing is sent anew, no connect times out and no keepalive fails; and what was dropped never comes later.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import nats.errors
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from actors.broken_webhook import writes_fail
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import ProcessFailed
from soak.plan import Fault
from soak.stage import INSTANCES, PROBED, STORE, TROUBLED, Stage
from soak.witnessed import Window

STREAMS: Final = ("RUNS", "DEADLINES", "SIGNALS", "DEADLETTERS")
_FILLER: Final = "FILLER"
_A_MOMENT: Final = timedelta(seconds=0.5)
"""Until the kube-apiserver is killed: what is still made then is lost, too."""
_PIECE: Final = 500_000
"""Bytes of each message that fills the store."""


async def happen(on: Stage, fault: Fault) -> Window:
    """Has it begin, last and cease; returns how it was."""
    began = datetime.now(UTC)
    killed = await _FAULTS[fault.kind](on, fault) or ""
    return Window(fault.kind, began, datetime.now(UTC), killed)


# Services.


async def _service_killed(on: Stage, fault: Fault) -> str:
    service, number = INSTANCES[fault.choice % len(INSTANCES)]
    await on.mesh.kill(service, number)
    await asyncio.sleep(fault.lasts)
    on.revive(service, number)
    return service


async def _service_frozen(on: Stage, fault: Fault) -> None:
    with contextlib.suppress(RuntimeError):  # it is not there
        pid = on.mesh.pid(*INSTANCES[fault.choice % len(INSTANCES)])
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(fault.lasts)
        os.kill(pid, signal.SIGCONT)


async def _service_cut_off(on: Stage, fault: Fault) -> None:
    way = on.ways[INSTANCES[fault.choice % len(INSTANCES)]]
    match fault.choice % 3:
        case 0:
            way.swallow()
        case 1:
            way.go_silent()
        case _:
            way.cut(refuse=True)
    await asyncio.sleep(fault.lasts)
    way.restore()
    way.cut()


# NATS.


async def _nats_server_killed(on: Stage, fault: Fault) -> None:
    await _away(_one(on, fault), lasts=fault.lasts)


async def _leader_killed(on: Stage, fault: Fault) -> None:
    leader = on.nats.servers[fault.choice % 3]
    with contextlib.suppress(JetStreamError, nats.errors.Error):
        info = await on.bystander.streams.stream_info("RUNS")
        if info.cluster and info.cluster.leader:
            leader = on.nats.servers[int(info.cluster.leader[1:])]
    await _away(leader, lasts=fault.lasts)


async def _all_killed(on: Stage, fault: Fault) -> None:
    await _away(*on.nats.servers, lasts=fault.lasts)


async def _nats_server_frozen(on: Stage, fault: Fault) -> None:
    server = _one(on, fault)
    server.freeze()
    await asyncio.sleep(fault.lasts)
    server.thaw()


async def _nats_server_isolated(on: Stage, fault: Fault) -> None:
    on.nats.isolate(fault.choice % 3, refuse=fault.choice % 2 == 0)
    await asyncio.sleep(fault.lasts)
    on.nats.reunite()


async def _streams_lost(on: Stage, _: Fault) -> None:
    for stream in STREAMS:
        with contextlib.suppress(JetStreamError, nats.errors.Error):
            await on.bystander.streams.delete_stream(stream)


async def _store_full(on: Stage, fault: Fault) -> None:
    """A stream fills it; from then on nobody can delete that, and room is what helps (ADR 19). It is left to them:
    nats-server does not reload less.
    """
    streams = on.bystander.streams
    with contextlib.suppress(JetStreamError, nats.errors.Error):
        await streams.add_stream(name=_FILLER, subjects=[_FILLER], num_replicas=3)
        while True:
            await streams.publish(_FILLER, bytes(_PIECE), timeout=2)
    await asyncio.sleep(fault.lasts)
    before, on.store = on.store, on.store + STORE
    for server in on.nats.servers:
        config = server.folder / "nats-server.conf"
        config.write_text(config.read_text().replace(f"max_file_store: {before}MB", f"max_file_store: {on.store}MB"))
        server.reload()
    async with asyncio.timeout(60):
        while True:
            try:
                await streams.delete_stream(_FILLER)
            except NotFoundError:
                return
            except (JetStreamError, nats.errors.Error):
                await asyncio.sleep(0.2)


async def _away(*servers: NatsServer, lasts: float) -> None:
    await asyncio.gather(*(server.kill() for server in servers))
    await asyncio.sleep(lasts)
    await asyncio.gather(*(_started(server) for server in servers))


async def _started(server: NatsServer) -> None:
    """However long that takes: a busy machine needs longer than it may take."""
    async with asyncio.timeout(180):
        while True:
            with contextlib.suppress(ProcessFailed):
                return await server.start()


def _one(on: Stage, fault: Fault) -> NatsServer:
    return on.nats.servers[fault.choice % 3]


# Kubernetes.


async def _kube_apiserver_killed(on: Stage, fault: Fault) -> None:
    await on.control_plane.kill_apiserver()
    await asyncio.sleep(fault.lasts)
    await on.control_plane.start_apiserver()


async def _kube_apiserver_restarted(on: Stage, _: Fault) -> None:
    await on.control_plane.restart_apiserver()


async def _writes_refused(on: Stage, fault: Fault) -> None:
    async with writes_fail(on.control_plane, TROUBLED, PROBED, "terminator"):
        await asyncio.sleep(fault.lasts)


async def _etcd_restored(on: Stage, fault: Fault) -> None:
    backup = on.folder / f"backup-{fault.choice}"
    await on.control_plane.save(backup)
    await asyncio.sleep(fault.lasts)
    await on.rest()
    on.restored_at = datetime.now(UTC) + _A_MOMENT
    await on.control_plane.restore(backup)
    await on.operate()


_FAULTS: Final[dict[str, Callable[[Stage, Fault], Awaitable[str | None]]]] = {
    "service killed": _service_killed,
    "service frozen": _service_frozen,
    "service cut off": _service_cut_off,
    "nats-server killed": _nats_server_killed,
    "leader killed": _leader_killed,
    "all nats-servers killed": _all_killed,
    "nats-server frozen": _nats_server_frozen,
    "nats-server isolated": _nats_server_isolated,
    "streams lost": _streams_lost,
    "store full": _store_full,
    "kube-apiserver killed": _kube_apiserver_killed,
    "kube-apiserver restarted": _kube_apiserver_restarted,
    "writes refused": _writes_refused,
    "etcd restored": _etcd_restored,
}
