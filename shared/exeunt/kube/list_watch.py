"""A collection on the kube-apiserver as a stream of changes: list, then watch.

The list may be narrowed by a field selector, the watch never is. So finished history is not read at the
start, yet the transition of an object out of the selection arrives as an ordinary change with its full new
state, and a removal always means a deletion. `client` makes the requests; the caller's projection keeps the
objects: here only what has been `shown` of them is kept. A list is handed over page by page, so that a large one never
is in memory as a whole.

A watch goes on where the one before it was only when that one had brought something and ended at the time that was
asked for. Whatever else ends a watch may have been a restart, and behind a restart may be another history, in which
the place where we were is still to come: such a watch is accepted and stays silent, or tells what follows without what
went before (ADR 22). So everything is listed anew.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import ceil, inf
from typing import Final, Generic

import msgspec
import structlog

from exeunt.back_off import BackOff
from exeunt.kube.changes import Change, Changed, Missing, Page, Removed
from exeunt.kube.client import KubeClient, Listing
from exeunt.kube.errors import (
    ApiError,
    ApiUnavailable,
    Forbidden,
    Gone,
    NotFound,
    Silent,
    Undecodable,
    api_error,
)
from exeunt.kube.resources import Resource, T
from exeunt.kube.shown import Shown

_BACK_OFF: Final = BackOff(0.25, 5)
_BACK_OFF_REFUSED: Final = BackOff(0.25, 30)  # what is forbidden, or has no CRD, waits for people
_LONGEST_ASKED: Final = 30.0  # seconds that a server may ask us to wait (Retry-After)
_HEALTHY: Final = 10.0  # seconds that a watch must live for the next failure to count as the first
_PUNCTUAL: Final = 1.0  # seconds that a watch may end before we think it was to: the server began to count first
_BETWEEN: Final = 4.0  # seconds from the last bookmark of a watch, two before its end, until the next is opened
_PAGE_SIZE: Final = 250  # objects: half a megabyte, and some milliseconds in which nothing else is done

log = structlog.get_logger(__name__)


class ListWatch(Generic[T]):
    """Follows one resource in one namespace, or in all of them.

    `idle_timeout`: seconds without a line after which a watch is given up; more than a minute, since bookmarks arrive
    about that often (60 to 62 s, measured), and not much more: for so long nobody knows that it is silent. (Where etcd
    was not told to notify progress, the first bookmark takes two minutes, measured: there, an idle resource is listed
    that often, at the cost of an interruption that is counted.) `watch_timeout`: the server ends a watch after one to
    two times these seconds. `turns`: how many lists may be fetched at once, for many of us together.

    For health checks:
    `synced`: the first list has been handed over.
    `last_progress`: loop time of the last line, list or attempt; it stands still for at most `idle_timeout`,
    or 30 s where it is refused, unless nobody asks for more. Infinite while it waits for its turn.
    `last_heard`: loop time of the last event, bookmark or list, at first that of the construction. That a watch was
    accepted does not count.
    `relists`: how often a new list caught up on what a watch may have missed.
    `interruptions`: how often the list or the watch failed.
    `error`: what is wrong now, else None. `refused`: it is that we may not, or that there is no such thing here.
    `unavailable_reason`: why changes may be missed or late now: the `error`, or that nothing was heard for too long.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[T],
        *,
        namespace: str | None,
        list_field_selector: str | None = None,
        idle_timeout: float = 68,
        watch_timeout: float = 300,
        turns: asyncio.Semaphore | None = None,
    ) -> None:
        self.synced = False
        self.last_progress = 0.0
        self.last_heard = asyncio.get_running_loop().time()
        self.relists = 0
        self.interruptions = 0
        self.error: str | None = None
        self.refused = False
        self._refusals = 0  # since all was well
        self._client = client
        self.resource = resource
        self.namespace = namespace
        self._selector = list_field_selector
        self._idle_timeout = idle_timeout
        self._watch_timeout = watch_timeout
        self._turns = turns or asyncio.Semaphore()
        self._log = log.bind(list_watch=str(resource), namespace=namespace)
        self._resource_version = ""  # where the watch goes on from; empty: list first
        self._shown = Shown(str(self))
        self._replaced: list[Missing] = []  # by what cannot be decoded, since the last complete list
        self._shows_more = False  # the present list, than what was known before it
        self._reported: dict[str, str] = {}  # uid: resourceVersion of undecodable objects that were logged

    def __str__(self) -> str:
        return f"{self.resource} in {self.namespace or 'all namespaces'}"

    @property
    def unavailable_reason(self) -> str | None:
        if self.error is not None:
            return self.error
        silent = time.monotonic() - self.last_heard  # metrics ask from a thread without a loop
        return f"nothing heard for {silent:.0f} s" if silent > self._idle_timeout + _BETWEEN else None

    async def __aiter__(self) -> AsyncGenerator[Change[T], None]:
        """One change after another, for ever; the next is read when it is asked for. To be closed (`aclosing`).

        Trouble with the kube-apiserver is waited out. Raises Rewound: all that was handed over may never have happened,
        and whoever knows it has to forget it.
        """
        loop = asyncio.get_running_loop()
        failures = 0
        silent = False  # the last watch was accepted and brought nothing for as long as we waited
        deaf = False  # and there had been something to bring
        change: Change[T] | None = None
        while True:
            self.last_progress = loop.time()
            watching_since: float | None = None
            failure: ApiError | ApiUnavailable | None = None
            lifetime = ceil(_spread(self._watch_timeout, 2 * self._watch_timeout))
            try:
                if not self._resource_version:
                    async with aclosing(self._list()) as pages:
                        async for page in pages:
                            yield page
                    deaf = silent and self._shows_more
                    self.relists += self.synced  # but for the first
                    self.synced = True
                    self.last_progress = self.last_heard = loop.time()
                start, self._resource_version = self._resource_version, ""  # good for one watch, unless it brings more
                async with self._client.watch(
                    self.resource,
                    self.namespace,
                    resource_version=start,
                    timeout_seconds=lifetime,
                    idle_timeout=self._idle_timeout,
                ) as lines:
                    self.last_progress = watching_since = loop.time()
                    if not deaf:
                        self._well()
                    async for line in lines:
                        self.last_progress = loop.time()
                        change = self._read(line)
                        if change is not None:
                            yield change
                if loop.time() - watching_since < min(lifetime - _PUNCTUAL, _HEALTHY):
                    failure = ApiUnavailable(f"watch {self.resource}: closed by the server at once")
            except (ApiError, ApiUnavailable) as error:
                failure = error
            lived = 0.0 if watching_since is None else loop.time() - watching_since
            silent = isinstance(failure, Silent) and not self._resource_version
            if failure is not None or lived < lifetime - _PUNCTUAL:
                self._resource_version = ""
            if lived >= _HEALTHY:
                failures = 0
                if failure is None:
                    continue
            failures = await self._wait(failure, failures)

    async def _wait(self, failure: ApiError | ApiUnavailable | None, failures: int) -> int:
        """Back off, visibly; returns how many failures there were in a row."""
        asked = failure.retry_after if isinstance(failure, ApiError) else None
        refused = isinstance(failure, (Forbidden, NotFound))
        # Refusals count apart: a server that has just begun, after many failures, refuses what it soon allows.
        back_off, number = (_BACK_OFF_REFUSED, self._refusals) if refused else (_BACK_OFF, failures)
        self._refusals += refused
        delay = back_off.wait(number, asked=min(asked or 0, _LONGEST_ASKED))
        if failure is not None:
            self.interruptions += 1
            self.error = str(failure)
            self.refused = refused
            self._log.warning("watch interrupted", error=self.error, retry_in=round(delay, 3))
        await asyncio.sleep(delay)
        return failures + 1

    def _well(self) -> None:
        self.error, self.refused, self._refusals = None, False, 0

    async def _list(self) -> AsyncGenerator[Page[T], None]:
        """Raises Rewound, and Gone when it took too long twice."""
        self.last_progress = inf  # whoever waits for others is not stuck
        async with self._turns:
            self.last_progress = asyncio.get_running_loop().time()
            self._shows_more = False
            try:
                async for page in self._pages():
                    yield page
            except Gone:  # the snapshot that it began with is compacted away
                async for page in self._pages():
                    yield page

    async def _pages(self) -> AsyncGenerator[Page[T], None]:
        self._shown.begin_list()
        pages = self._client.pages(
            self.resource,
            self.namespace,
            field_selector=self._selector,
            limit=_PAGE_SIZE,
            retry=False,
            optional=True,
        )
        async with aclosing(pages):
            async for listing in pages:
                self.last_progress = asyncio.get_running_loop().time()
                yield self._take(listing)

    def _take(self, listing: Listing[T]) -> Page[T]:
        """What of a page is news, and at the end what was not on any. Raises Rewound."""
        self._shown.page(listing.resource_version)
        items, replaced = [], []
        for item in listing.items:
            meta = item.metadata
            news, missing = self._shown.show(meta.namespace, meta.name, meta.uid, meta.resource_version)
            self._shows_more |= news
            if news:
                items.append(item)
            if missing:
                replaced.append(missing)
        for error in listing.undecodable:
            news, missing = self._shown.show(error.namespace, error.name, error.uid, error.resource_version)
            self._shows_more |= news
            if missing:
                self._replaced.append(missing)
            self._report(error)
        if not listing.last:
            return Page(items, tuple(replaced), complete=False)
        replaced += self._replaced + self._shown.end_list(listing.resource_version)
        self._replaced.clear()
        self._resource_version = listing.resource_version
        there = self._shown.uids() if self._reported else ()
        self._reported = {uid: version for uid, version in self._reported.items() if uid in there}
        return Page(items, tuple(replaced))

    def _read(self, line: bytes) -> Change[T] | None:
        """What a line of a watch says, if it says anything; raises the error that an ERROR event carries."""
        try:
            event = _EVENT.decode(line)
            if event.type == "BOOKMARK":
                self._go_on_from(_BOOKMARK.decode(event.object).metadata.resource_version)
                return None
        except msgspec.DecodeError as error:
            raise ApiUnavailable(f"watch {self.resource}: the stream broke within a line") from error
        if event.type == "ERROR":
            raise api_error(event.object, action=f"watch {self.resource}")
        deleted = event.type == "DELETED"
        try:
            item = self.resource.decode(event.object)
        except Undecodable as error:
            return self._skip(error, deleted=deleted)
        meta = item.metadata
        self._go_on_from(meta.resource_version)
        if deleted:
            self._shown.drop(*meta.key)
            return Removed(item)
        self._shown.keep(meta.namespace, meta.name, meta.uid, meta.resource_version)
        return Changed(item)

    def _skip(self, error: Undecodable, *, deleted: bool) -> Missing | None:
        """Go on after an undecodable object; its deletion can still be reported, though not its last state."""
        self._go_on_from(error.resource_version)
        if deleted:
            self._reported.pop(error.uid, None)
            known = self._shown.drop(error.namespace, error.name)
            return Missing((error.namespace, error.name), known or error.uid)
        self._shown.keep(error.namespace, error.name, error.uid, error.resource_version)
        self._report(error)
        return None

    def _go_on_from(self, version: str) -> None:
        """A line of a watch has told us where we are: that is what shows that it brings something."""
        if version:
            self._resource_version = self._shown.latest = version
            self.last_heard = asyncio.get_running_loop().time()
            self._well()

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
