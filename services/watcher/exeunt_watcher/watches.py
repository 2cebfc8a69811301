"""What a watcher is made of, as the settings say: its machine, and the watches whose changes are told to it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Final, NoReturn

import structlog

from exeunt.cancelled import as_own_task
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import Rewound
from exeunt.kube.list_watch import ListWatch
from exeunt.settings import Settings
from exeunt_watcher.commands import Restored, Seen, Tick
from exeunt_watcher.machine import RESOURCES, Watching, selector

LISTS_AT_ONCE: Final = 16
"""Lists fetched in parallel: hundreds of namespaces have four lists each, at the start and when a kube-apiserver
restarts.
"""

log = structlog.get_logger()


def watching(namespaces: Iterable[str | None], settings: Settings) -> Watching:
    """A machine that knows nothing yet; `namespaces` is (None,) for all of them."""
    return Watching(
        namespaces,
        default_timeout=settings.shutdown_timeout,
        fence_wait=settings.fence_wait,
        heartbeats_stale_after=settings.heartbeat_stale_after or None,
        sweep_interval=settings.sweep_interval,
        second_look=settings.second_look,
    )


def watches(namespaces: Iterable[str | None], kube: KubeClient) -> Iterator[ListWatch[Any]]:
    """One for each kind in each namespace, which list in turns."""
    turns = asyncio.Semaphore(LISTS_AT_ONCE)
    for namespace in namespaces:
        for resource in RESOURCES:
            yield ListWatch(kube, resource, namespace=namespace, list_field_selector=selector(resource), turns=turns)


Hear = Callable[[Seen | Restored | Tick], Awaitable[None]]


async def follow(begin: Callable[[], Iterable[ListWatch[Any]]], hear: Hear, *, tick: float) -> NoReturn:
    """Have all changes heard, and every `tick` seconds that time has passed, for ever; with watches that are begun anew
    where etcd was restored from a backup.
    """
    while True:
        try:
            await as_own_task(_follow_all(begin(), hear, tick))
        except* Rewound as rewound:
            log.warning("etcd was restored from a backup: starting over", found=str(rewound.exceptions[0]))
        await hear(Restored())


async def _follow_all(watches: Iterable[ListWatch[Any]], hear: Hear, tick: float) -> None:
    async with asyncio.TaskGroup() as tasks:
        for watch in watches:
            tasks.create_task(_follow_one(watch, hear))
        while True:
            await asyncio.sleep(tick)
            await hear(Tick())


async def _follow_one(watch: ListWatch[Any], hear: Hear) -> None:
    async with aclosing(aiter(watch)) as changes:
        async for change in changes:
            await hear(Seen(watch.resource, watch.namespace, change))
            del change  # a page may be large, and the next change far away
