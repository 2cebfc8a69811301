"""What a played controller stands on: cached objects, what wakes it, and one pass after another for each object.

As controller-runtime does it for the real ones: it decides from its cache, which may be a moment old, and never works
on one object twice at a time. `operator` says what wakes it and what it does then.
"""

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Self

from actors.kubernetes import Key, Kind, Kubernetes, Object, Refused, Unreachable, key_of

_WORKERS = 16


class Controller(ABC):
    """Follows objects of some kinds in all namespaces, entered as an async context manager."""

    def __init__(self, kubernetes: Kubernetes, *kinds: Kind) -> None:
        self.kubernetes = kubernetes
        self.cache: dict[Kind, dict[Key, Object]] = {kind: {} for kind in kinds}
        self._synced = {kind: asyncio.Event() for kind in kinds}
        self._awake: dict[tuple[Kind, Key], asyncio.Event] = {}
        self._workers = asyncio.Semaphore(_WORKERS)
        self._running: asyncio.Task[None] | None = None

    @abstractmethod
    def wakes(self, kind: Kind, before: Object | None, after: Object) -> Iterable[tuple[Kind, Key]]:
        """Which objects have to be looked after because one has changed."""

    @abstractmethod
    async def reconcile(self, kind: Kind, item: Object) -> float | None:
        """One pass over an object that was woken; returns the seconds until the next one, None for no other."""

    async def patch(self, kind: Kind, item: Object, change: Mapping[str, Any]) -> Object:
        """Patches spec and metadata, and knows the answer at once."""
        return self._known(kind, await self.kubernetes.patch(kind, *key_of(item), change))

    async def patch_status(self, kind: Kind, item: Object, status: Mapping[str, Any]) -> Object:
        """Patches the status, and knows the answer at once."""
        return self._known(kind, await self.kubernetes.patch_status(kind, *key_of(item), status))

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run(), name=type(self).__name__)
        try:
            async with asyncio.timeout(30):
                for synced in self._synced.values():
                    await synced.wait()
        except TimeoutError:
            await self.__aexit__()  # which tells what the matter was, if it has failed
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._running is not None
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for kind in self.cache:
                tasks.create_task(self._follow(kind, tasks))

    async def _follow(self, kind: Kind, tasks: asyncio.TaskGroup) -> None:
        cache = self.cache[kind]
        # What wakes it is the difference between two events. The cache may be ahead of them: the answer to a write of
        # its own is in there, and with it what somebody else had written just before.
        reported: dict[Key, Object] = {}
        async for event in self.kubernetes.follow(kind):
            if event.type == "SYNCED":
                self._synced[kind].set()
                continue
            key = key_of(event.object)
            before = reported.get(key)
            if event.type == "DELETED":
                cache.pop(key, None)
                reported.pop(key, None)
            else:
                reported[key] = event.object
                if key not in cache or _version(cache[key]) < _version(event.object):
                    cache[key] = event.object
            for woken in self.wakes(kind, before, event.object):
                self._wake(woken, tasks)

    def _wake(self, which: tuple[Kind, Key], tasks: asyncio.TaskGroup) -> None:
        if which in self._awake:
            self._awake[which].set()
        else:
            self._awake[which] = asyncio.Event()
            tasks.create_task(self._look_after(*which))

    async def _look_after(self, kind: Kind, key: Key) -> None:
        """One pass at a time, until nothing more is to be done for now."""
        woken = self._awake[kind, key]
        while True:
            woken.clear()
            async with self._workers:
                delay = await self._attempt(kind, key)
            if delay is None and not woken.is_set():
                del self._awake[kind, key]
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await woken.wait()

    async def _attempt(self, kind: Kind, key: Key) -> float | None:
        item = self.cache[kind].get(key)
        if item is None:
            return None
        try:
            return await self.reconcile(kind, item)
        except Unreachable:
            return random.uniform(0.1, 0.2)
        except Refused as refusal:
            if refusal.status == 404:
                return None  # gone meanwhile
            raise

    def _known(self, kind: Kind, item: Object) -> Object:
        cached = self.cache[kind].get(key_of(item))
        if cached is not None and cached["metadata"]["uid"] == item["metadata"]["uid"]:
            self.cache[kind][key_of(item)] = max(cached, item, key=_version)
        return item


def _version(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])
