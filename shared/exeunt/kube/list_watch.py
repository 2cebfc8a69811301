"""A collection on the kube-apiserver as a stream of changes: list once, then watch for ever.

The list may be narrowed by a field selector, the watch never is. So finished history is not read at the
start, yet the transition of an object out of the selection arrives as an ordinary change with its full new
state, and a removal always means a deletion. `client` makes the requests; the caller's projection keeps the
objects: here only their keys and uids are kept, to tell after an expired watch (410 Gone) what is no longer
listed.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Generic, NoReturn

import msgspec
import structlog

from exeunt.kube.client import KubeClient, Listing
from exeunt.kube.errors import ApiError, ApiUnavailable, Gone, Undecodable, api_error
from exeunt.kube.resources import Resource, T

_FIRST_DELAY: Final = 0.25  # seconds; doubled after every failure in a row
_LONGEST_DELAY: Final = 30.0
_HEALTHY: Final = 10.0  # seconds that a watch must live for the next failure to count as the first

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Changed(Generic[T]):
    """An object was created or modified."""

    object: T


@dataclass(frozen=True, slots=True)
class Removed(Generic[T]):
    """An object was deleted; this is its last state."""

    object: T


@dataclass(frozen=True, slots=True)
class Missing:
    """A known object is not in a new list: it was deleted, or it merely left the list's selector."""

    key: tuple[str, str]
    uid: str


@dataclass(frozen=True, slots=True)
class Relisted(Generic[T]):
    """The complete list, at the start and after an expired watch; never one that failed half-way.

    `missing` was known before; a name may be in both, under another uid. It is one change, because half of it is a
    state that there never was: a replaced object is gone, say.
    """

    items: list[T]
    missing: tuple[Missing, ...] = ()


Change = Relisted[T] | Changed[T] | Removed[T] | Missing


class ListWatch(Generic[T]):
    """Follows one resource in one namespace, or in all of them.

    `idle_timeout`: seconds without a line after which the connection counts as dead; more than a minute,
    since bookmarks arrive about that often. (Where etcd was not told to notify progress, the first one takes two
    minutes, measured: there, the watch of an idle resource is made anew that often, at the cost of an interruption that
    is counted.) `watch_timeout`: the server ends a watch after one to two times
    these seconds.

    For health checks:
    `synced`: the first list has been handed over.
    `last_progress`: loop time of the last line, list or attempt; it stands still for at most `idle_timeout`
    or the longest back-off (30 s), unless the handler blocks.
    `last_heard`: loop time of the last line or list, at first that of the construction; attempts do not count.
    `relists`: how often the watch had expired.
    `interruptions`: how often the list or the watch failed.
    `error`: what is wrong now, else None.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[T],
        *,
        namespace: str | None,
        list_field_selector: str | None = None,
        idle_timeout: float = 90,
        watch_timeout: float = 300,
        name: str | None = None,
    ) -> None:
        self.synced = False
        self.last_progress = 0.0
        self.last_heard = asyncio.get_running_loop().time()
        self.relists = 0
        self.interruptions = 0
        self.error: str | None = None
        self._client = client
        self.resource = resource
        self._namespace = namespace
        self._selector = list_field_selector
        self._idle_timeout = idle_timeout
        self._watch_timeout = watch_timeout
        self._log = log.bind(list_watch=name or str(resource), namespace=namespace)
        self._resource_version = ""  # where the watch goes on from; empty: list first
        self._known: dict[tuple[str, str], str] = {}
        self._reported: dict[str, str] = {}  # uid: resourceVersion of undecodable objects that were logged

    def __str__(self) -> str:
        return f"{self.resource} in {self._namespace or 'all namespaces'}"

    async def run(self, handle: Callable[[Change[T]], Awaitable[None]]) -> NoReturn:
        """Hand over one change after another, for ever; the next is read when `handle` has returned.

        Trouble with the kube-apiserver is waited out; what `handle` raises ends the run.
        """
        async with aclosing(self._changes()) as changes:
            async for change in changes:
                await handle(change)
        raise AssertionError("a watch goes on for ever")

    async def _changes(self) -> AsyncGenerator[Change[T], None]:
        loop = asyncio.get_running_loop()
        failures = 0
        change: Change[T] | None
        while True:
            self.last_progress = loop.time()
            watching_since: float | None = None
            trouble: ApiError | ApiUnavailable | None = None
            resumed = bool(self._resource_version)
            try:
                if not resumed:
                    yield self._relist(await self._list())
                    self.synced = True
                    self.last_heard = loop.time()
                async with self._client.watch(
                    self.resource,
                    self._namespace,
                    resource_version=self._resource_version,
                    timeout_seconds=_spread(self._watch_timeout, 2 * self._watch_timeout),
                    idle_timeout=self._idle_timeout,
                ) as lines:
                    self.error = None
                    self.last_progress = self.last_heard = watching_since = loop.time()
                    async for line in lines:
                        self.last_progress = self.last_heard = loop.time()
                        change = self._read(line)
                        if change is not None:
                            yield change
            except Gone as error:
                trouble = error
                self._resource_version = ""
                self.relists += 1
                if resumed:  # the server is well, only our place in its history is gone
                    failures = 0
            except (ApiError, ApiUnavailable) as error:
                trouble = error
            if watching_since is not None and loop.time() - watching_since >= _HEALTHY:
                failures = 0
                if trouble is None:  # the server's timeout, in good order
                    continue
            longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2**failures)
            delay = _spread(longest / 2, longest)
            failures = min(failures + 1, 16)
            if trouble is not None:
                self.interruptions += 1
                self.error = str(trouble)
                self._log.warning("watch interrupted", error=self.error, retry_in=round(delay, 3))
            await asyncio.sleep(delay)

    async def _list(self) -> Listing[T]:
        return await self._client.list(self.resource, self._namespace, field_selector=self._selector, retry=False)

    def _relist(self, listing: Listing[T]) -> Relisted[T]:
        listed = {item.metadata.key: item.metadata.uid for item in listing.items}
        listed |= {(error.namespace, error.name): error.uid for error in listing.undecodable}
        missing = tuple(Missing(key, uid) for key, uid in self._known.items() if listed.get(key) != uid)
        self._known = listed
        self._reported = {error.uid: self._reported.get(error.uid, "") for error in listing.undecodable}
        for error in listing.undecodable:
            self._report(error)
        self._resource_version = listing.resource_version
        return Relisted(listing.items, missing)

    def _read(self, line: bytes) -> Change[T] | None:
        """What a line of a watch says, if it says anything; raises the error that an ERROR event carries."""
        try:
            event = _EVENT.decode(line)
        except msgspec.DecodeError as error:
            raise ApiUnavailable(f"watch {self.resource}: the stream broke within a line") from error
        if event.type == "ERROR":
            raise api_error(event.object, action=f"watch {self.resource}")
        if event.type == "BOOKMARK":
            self._resource_version = _BOOKMARK.decode(event.object).metadata.resource_version
            return None
        deleted = event.type == "DELETED"
        try:
            item = self.resource.decode(event.object)
        except Undecodable as error:
            return self._skip(error, deleted=deleted)
        key, uid = item.metadata.key, item.metadata.uid
        self._resource_version = item.metadata.resource_version
        if deleted:
            self._known.pop(key, None)
            return Removed(item)
        self._known[key] = uid
        return Changed(item)

    def _skip(self, error: Undecodable, *, deleted: bool) -> Missing | None:
        """Go on after an undecodable object; its deletion can still be told, though not its last state."""
        self._resource_version = error.resource_version or self._resource_version
        key = (error.namespace, error.name)
        if deleted:
            self._reported.pop(error.uid, None)
            return Missing(key, self._known.pop(key, error.uid))
        self._known[key] = error.uid
        self._report(error)
        return None

    def _report(self, error: Undecodable) -> None:
        if self._reported.get(error.uid) != error.resource_version:
            self._reported[error.uid] = error.resource_version
            self._log.error(
                "undecodable object skipped",
                object=f"{error.namespace}/{error.name}",
                uid=error.uid,
                resource_version=error.resource_version,
                error=str(error),
            )


def _spread(least: float, most: float) -> float:
    """Some seconds in between, so that not all watches of a cluster reconnect at once."""
    return random.uniform(least, most)  # noqa: S311


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _BookmarkMetadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMetadata


_EVENT = msgspec.json.Decoder(_Event)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
