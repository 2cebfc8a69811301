"""What a watcher costs that sees thousands of calls: memory of each, processor time to begin, and of stops that wait.

All figures are the operating system's accounts of the real process, on a real kube-apiserver. Writing that many objects
would take it minutes: one call is made as all others here are, and its objects are copied within etcd.
"""

import asyncio
import os
import tempfile
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import aiohttp
import msgspec

from actors.admin import admin_client
from actors.bystander import Bystander
from actors.kubernetes import Kubernetes
from bench.report import Row
from bench.stage import within
from bench.world import World
from exeunt.events.subjects import RUNS
from exeunt_local import BASE, CRDS
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

EMPTY: Final = "empty"
LIVE: Final = "live"
WAITING: Final = "waiting"
"""Namespaces: without calls, with calls that go on, and with canceled ones that have an hour to stop."""
_TEMPLATE: Final = "template"
_AT_ONCE: Final = 100
"""Writes in one transaction; etcd takes 128."""
_SETTLED: Final = 5.0
"""Seconds in which a watcher that has published everything comes to rest."""


class Account(NamedTuple):
    """What a process has used: resident memory in bytes, and seconds of processor time."""

    resident: int
    cpu: float

    @classmethod
    def of(cls, pid: int) -> "Account":
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


class Watched(NamedTuple):
    """One watcher: when it was ready, when it had come to rest, and its processor time in each second from then on."""

    ready: Account
    rested: Account
    per_second: float


async def measure(servers: Binaries, *, calls: int, waiting: int, seconds: float) -> list[Row]:
    """With `calls` that go on, and with as many as `waiting` that are canceled, those for `seconds`."""
    with tempfile.TemporaryDirectory(prefix="exeunt-bench-scale-") as folder:
        async with scale(Path(folder), servers) as on:
            idle = await on.watch(EMPTY)
            await on.copy(LIVE, calls)
            live = await on.watch(LIVE, events=calls)
            await on.copy(WAITING, waiting)
            stops = await on.watch(WAITING, events=2 * waiting, seconds=seconds)
    return [
        Row(
            what=f"watcher: memory of each of {calls} calls",
            unit="KB",
            exeunt=(live.rested.resident - idle.rested.resident) / calls / 1000,
            at_most=5,
        ),
        Row(
            what=f"watcher: CPU from its start until it is ready, {calls} calls",
            unit="s",
            exeunt=live.ready.cpu,
            at_most=0.9,
        ),
        Row(
            what=f"watcher: CPU a second while {waiting} stops wait",
            unit="ms",
            exeunt=1000 * stops.per_second,
            at_most=5,
        ),
    ]


class Scale:
    """Servers with many objects, and watchers one after the other. Make one with `scale`."""

    def __init__(self, control_plane: ControlPlane, mesh: Mesh, bystander: Bystander) -> None:
        self._etcd = control_plane.etcd_url
        self._mesh = mesh
        self._bystander = bystander
        self._watchers = 0

    async def copy(self, namespace: str, calls: int) -> None:
        """As many calls more as the template of that namespace, each with all of its objects."""
        async with aiohttp.ClientSession(self._etcd) as http:
            template = await _read(http, namespace)
            uids = [msgspec.json.decode(value)["metadata"]["uid"].encode() for value in template.values()]
            writes = (write for number in range(calls) for write in _copies(template, uids, f"call-{number}"))
            while chunk := list(islice(writes, _AT_ONCE)):
                await _post(http, "txn", {"success": [{"requestPut": write} for write in chunk]})

    async def watch(self, namespace: str, *, events: int = 0, seconds: float = 0) -> Watched:
        """A new watcher, until `events` are stored of that namespace and it has come to rest, and `seconds` more."""
        instance, self._watchers = self._watchers, self._watchers + 1
        await self._mesh.start("watcher", instance, EXEUNT_NAMESPACES=namespace, EXEUNT_LOG_LEVEL="warning")
        pid = self._mesh.pid("watcher", instance)
        ready = Account.of(pid)
        await within(self._stored(namespace, events))
        await asyncio.sleep(_SETTLED)
        rested = Account.of(pid)
        await asyncio.sleep(seconds)
        used = Account.of(pid).cpu - rested.cpu
        await self._mesh.stop("watcher", instance)
        return Watched(ready, rested, used / seconds if seconds else 0)

    async def _stored(self, namespace: str, events: int) -> None:
        subjects = f"exeunt.runs.{namespace}.>"
        while events:
            info = await self._bystander.streams.stream_info(RUNS, subjects_filter=subjects)
            if sum((info.state.subjects or {}).values()) >= events:
                return
            await asyncio.sleep(1)


@asynccontextmanager
async def scale(folder: Path, servers: Binaries) -> AsyncIterator[Scale]:
    """Starts the servers in `folder`, with one call in each namespace that has calls."""
    async with (
        ControlPlane(folder / "kubernetes", binaries=servers) as control_plane,
        NatsServer(folder / "nats", binary=servers.nats_server) as nats_server,
        Bystander(nats_server.url) as bystander,
        admin_client(control_plane.kubeconfig) as client,
        Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url) as mesh,
    ):
        mesh.ready_within = 120
        await control_plane.install_crds(CRDS)
        await control_plane.apply(BASE)
        world = World(Kubernetes(client))
        for namespace in (EMPTY, LIVE, WAITING):
            await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            await world.add_story(namespace)
        await world.start(LIVE, _TEMPLATE, ["1h"])
        (run,) = await world.start(WAITING, _TEMPLATE, ["1h"])
        await world.cancel(run)
        yield Scale(control_plane, mesh, bystander)


async def _read(http: aiohttp.ClientSession, namespace: str) -> dict[bytes, bytes]:
    """Keys and values of the template's objects."""
    found: dict[bytes, bytes] = {}
    for kind in (
        "runs.bubustack.io/storyruns",
        "runs.bubustack.io/stepruns",
        "transport.bubustack.io/transportbindings",
    ):
        key = f"/registry/{kind}/{namespace}/{_TEMPLATE}".encode()
        answer = await _post(http, "range", {"key": _base64(key), "range_end": _base64(key + b"\xff")})
        found |= {b64decode(pair["key"]): b64decode(pair["value"]) for pair in answer["kvs"]}
    return found


def _copies(template: dict[bytes, bytes], uids: list[bytes], name: str) -> Iterator[dict[str, str]]:
    """The objects of another call, which refer to each other as those of the template do."""
    others = {uid: str(uuid4()).encode() for uid in uids}
    for key, value in template.items():
        for uid, other in others.items():
            value = value.replace(uid, other)  # noqa: PLW2901 - one after the other
        key, value = (text.replace(f"{_TEMPLATE}-1".encode(), name.encode()) for text in (key, value))  # noqa: PLW2901
        yield {"key": _base64(key), "value": _base64(value)}


async def _post(http: aiohttp.ClientSession, call: str, body: dict[str, Any]) -> dict[str, Any]:
    async with http.post(f"/v3/kv/{call}", json=body, raise_for_status=True) as response:
        answer: dict[str, Any] = await response.json()
        return answer


def _base64(text: bytes) -> str:
    return b64encode(text).decode()
