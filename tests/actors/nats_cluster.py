"""Several nats-servers that know each other: two that tell clients of each other, or three with JetStream that can be
parted.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from aiohttp import ClientSession

from actors.tcp_proxy import TcpProxy
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port

_SECONDS = 30  # until three servers are one


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


class NatsCluster:
    """Three nats-servers, n0 to n2, one JetStream. Each way between two of them is a proxy, so that one can be cut off
    from the others while its clients still reach it.
    """

    def __init__(self, servers: Binaries, folder: Path, *, config: str = "", store: str = "") -> None:
        self.servers: list[NatsServer] = []
        self._binaries = servers
        self._folder = folder
        self._config = config
        self._store = store
        self._ways: dict[frozenset[int], list[TcpProxy]] = {}
        self._stack = AsyncExitStack()

    def isolate(self, number: int, *, refuse: bool = False) -> None:
        """Cut one off from the others: what they send each other is lost, or with `refuse` broken off at once."""
        for pair, ways in self._ways.items():
            for way in ways if number in pair else ():
                if refuse:
                    way.cut(refuse=True)
                else:
                    way.swallow()

    def reunite(self) -> None:
        for ways in self._ways.values():
            for way in ways:
                way.restore()
                way.cut()

    async def __aenter__(self) -> Self:
        ports = [free_port() for _ in range(3)]
        for number in range(3):
            routes = []
            for other in {0, 1, 2} - {number}:
                way = await self._stack.enter_async_context(TcpProxy(ports[other]))
                self._ways.setdefault(frozenset({number, other}), []).append(way)
                routes.append(f'"nats://127.0.0.1:{way.port}"')
            # Others are told of an address where nobody is, or they would find a way around the proxies.
            config = f"""{self._config}
                server_name: n{number}
                cluster {{ name: c, listen: "127.0.0.1:{ports[number]}", advertise: "127.0.0.1:1"
                           routes: [{", ".join(routes)}] }}"""
            folder = self._folder / f"n{number}"
            self.servers.append(NatsServer(folder, binary=self._binaries.nats_server, config=config, store=self._store))
        async with asyncio.TaskGroup() as group:
            for server in self.servers:
                group.create_task(server.start())
                self._stack.push_async_callback(server.kill)
        async with asyncio.timeout(_SECONDS), ClientSession() as http:
            while not any([await _leads_all(http, server) for server in self.servers]):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def _leads_all(http: ClientSession, server: NatsServer) -> bool:
    """Whether it is the one that places streams, and sees both others."""
    async with http.get(f"{server.monitor_url}/jsz") as answer:
        replicas = (await answer.json()).get("meta_cluster", {}).get("replicas") or []
    return [replica["current"] and not replica.get("offline", False) for replica in replicas] == [True, True]
