"""Makes calls by the thousand: one is made as all others here are, and its objects are copied within etcd.

Written one by one they would take the kube-apiserver minutes. What comes out is the same: the objects differ in names
and uids only, and every watch brings them.
"""

import asyncio
import random
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

import aiohttp
import msgspec

_KINDS: Final = (
    "runs.bubustack.io/storyruns",
    "runs.bubustack.io/stepruns",
    "transport.bubustack.io/transportbindings",
)
_AT_ONCE: Final = 16
"""Writes in flight. In one transaction they would share a version, and a watch that goes on from it would lack some."""
_TRIES: Final = 5

Objects = dict[bytes, bytes]
"""As etcd has them: JSON by its key."""


class Template(NamedTuple):
    """A call's objects, and what a copy of it has instead: another name, other uids, another shutdown timeout."""

    name: str
    shutdown_timeout: str
    objects: Objects
    uids: tuple[bytes, ...]

    def copy(self, name: str, shutdown_timeout: str) -> Iterator[tuple[bytes, bytes]]:
        """Its objects, which refer to each other as those of the template do."""
        replaced = [(uid, str(uuid4()).encode()) for uid in self.uids]
        replaced += [
            (f'"{self.name}'.encode(), f'"{name}'.encode()),
            (f'"{self.shutdown_timeout}"'.encode(), f'"{shutdown_timeout}"'.encode()),
        ]
        for key, value in self.objects.items():
            for old, new in replaced:
                value = value.replace(old, new)  # noqa: PLW2901 - one after the other
            yield key.replace(f"/{self.name}".encode(), f"/{name}".encode()), value


class Etcd:
    """The JSON gateway of a local control plane's etcd. Make one with `connected`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        async with aiohttp.ClientSession(url) as session:
            yield cls(session)

    async def template(self, namespace: str, name: str, shutdown_timeout: str) -> Template:
        """The call of that name, as it is now."""
        objects: Objects = {}
        for kind in _KINDS:
            key = f"/registry/{kind}/{namespace}/{name}".encode()
            answer = await self._post("range", {"key": _base64(key), "range_end": _base64(key + b"\xff")})
            objects |= {b64decode(pair["key"]): b64decode(pair["value"]) for pair in answer.get("kvs", [])}
        uids = tuple(msgspec.json.decode(value)["metadata"]["uid"].encode() for value in objects.values())
        return Template(name, shutdown_timeout, objects, uids)

    async def copy(self, template: Template, calls: Iterable[tuple[str, str]]) -> None:
        """One copy for each name and shutdown timeout."""
        writes = (write for name, timeout in calls for write in template.copy(name, timeout))

        async def write_some() -> None:
            for key, value in writes:
                await self._post("put", {"key": _base64(key), "value": _base64(value)})

        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(write_some())

    async def _post(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        """Tried again while etcd is too busy; all that is asked of it here may be done twice."""
        tries = 0
        while True:
            async with self._session.post(f"/v3/kv/{call}", json=body) as response:
                if response.status == 503 and tries < _TRIES:
                    tries += 1
                    await asyncio.sleep(random.uniform(0.5, 1) * tries)
                    continue
                response.raise_for_status()
                answer: dict[str, Any] = await response.json()
                return answer


def _base64(text: bytes) -> str:
    return b64encode(text).decode()
