"""What a watcher is made of, as the settings say: its machine, and the watches that it is shown."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

from exeunt.kube.client import KubeClient
from exeunt.kube.list_watch import ListWatch
from exeunt.settings import Settings
from exeunt_watcher.machine import RESOURCES, Watching, selector

LISTS_AT_ONCE: Final = 16
"""Lists fetched in parallel: hundreds of namespaces have four lists each, at the start and when a kube-apiserver
restarts.
"""


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
