"""Single requests to the kube-apiserver: get, list, create, patch, delete, and the raw lines of a watch.

A request is tried until it gets an answer that counts or its retry budget is used up; whoever calls decides
what an answer means. Requests must therefore be safe to repeat: ours are, a PATCH is conditional, and a delete is
narrowed to one name, one uid and what must hold of it. Single attempts and authentication are in `connection`,
kinds in `resources`; `list_watch` builds on `watch`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Final, Generic, TypedDict, Unpack
from urllib.parse import urlencode

import aiohttp
import msgspec
import structlog

from exeunt.back_off import BackOff, spread
from exeunt.kube.connection import Call, Connection
from exeunt.kube.credentials import Credentials
from exeunt.kube.errors import (
    ApiError,
    ApiUnavailable,
    Forbidden,
    Gone,
    NotFound,
    ResourceVersionTooLarge,
    Silent,
    Undecodable,
)
from exeunt.kube.observed import observed
from exeunt.kube.resources import STORY_RUNS, Resource, T
from exeunt.net.other_clock import OtherClock

_BACK_OFF: Final = BackOff(0.25, 5)
_PROBE_INTERVAL: Final = 10.0  # seconds
JSON_PATCH: Final = "application/json-patch+json"


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list, or a page of one: `resource_version` is where a watch goes on from; what cannot be read is set apart."""

    items: list[T]
    resource_version: str
    undecodable: list[Undecodable]
    last: bool = True


class ListOptions(TypedDict, total=False):
    """What a list is to have, `limit` objects (500) at a time.

    `not_older_than`: it may be as old as this resourceVersion, so that a server that has seen it need not ask etcd how
    things are now. Without `retry` every page is tried once, for callers that have a back-off of their own. `optional`:
    being refused it is no trouble, for one namespace of several.
    """

    field_selector: str | None
    label_selector: str | None
    not_older_than: str | None
    limit: int
    retry: bool
    optional: bool


class KubeClient:
    """A connection to one kube-apiserver.

    `request_timeout` is for one attempt, `retry_budget` for beginning all of them, in seconds: a wait that would last
    longer than that is not begun. Every method raises ApiError (its subclasses say what was answered), ApiUnavailable,
    and Undecodable when a single object is not what its kind should be.
    """

    def __init__(self, credentials: Credentials, *, request_timeout: float = 10, retry_budget: float = 60) -> None:
        """Use `connect`; credentials that are given here must have been loaded."""
        self._connection = Connection(credentials)
        self._limits = aiohttp.ClientTimeout(total=request_timeout)
        self._retry_budget = retry_budget

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        strict: bool = False,
        request_timeout: float = 10,
        retry_budget: float = 60,
    ) -> "KubeClient":
        """Read the configuration; the kube-apiserver need not be there yet.

        Sources are an explicit kubeconfig, $KUBECONFIG (also a list of files), ~/.kube/config, and the pod's service
        account; `context` is another than the current one of the kubeconfig; `strict` is how the server's certificate
        is verified. Raises ConfigurationError when there is none or it cannot be used.
        """
        credentials = Credentials.find(kubeconfig, context=context, strict=strict)
        await credentials.refresh()
        return cls(credentials, request_timeout=request_timeout, retry_budget=retry_budget)

    async def close(self) -> None:
        await self._connection.close()

    def unavailable_reason(self) -> str | None:
        """None, or why the latest request was not served: unreachable, throttled, not authorized."""
        return self._connection.unavailable_reason

    @property
    def clock(self) -> OtherClock:
        """The kube-apiserver's, which every answer tells."""
        return self._connection.clock

    async def probe(self, namespaces: Sequence[str]) -> None:
        """Ask now and then for a StoryRun that nobody has, for ever: "not found" shows that we are served.

        It keeps `unavailable_reason` true to the moment, and a connection open for the next stop. A namespace may be
        closed to us without that; only when all of them are, we are not served.
        """
        while True:
            for namespace in namespaces:
                call = Call("get", STORY_RUNS, namespace, "exeunt-probe", optional=namespace != namespaces[-1])
                try:
                    await self._request(call, retry=False)
                except Forbidden:
                    continue
                except NotFound:
                    pass
                except (ApiError, ApiUnavailable) as error:
                    log.debug("probe failed", error=str(error))
                break
            await asyncio.sleep(spread(_PROBE_INTERVAL))

    async def get(self, resource: Resource[T], namespace: str, name: str, *, optional: bool = False) -> T:
        """One object. `optional`: being refused it is no trouble, for a reference that may lead out of our rights."""
        return resource.decode(await self._request(Call("get", resource, namespace, name, optional=optional)))

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None,
        **options: Unpack[ListOptions],
    ) -> Listing[T]:
        """All objects of a namespace, or of all namespaces: of the `pages` of that list.

        When the snapshot that it began with is compacted away, it begins once more.
        """
        try:
            return await _joined(self.pages(resource, namespace, **options))
        except Gone:
            return await _joined(self.pages(resource, namespace, **options))

    async def pages(
        self,
        resource: Resource[T],
        namespace: str | None,
        **options: Unpack[ListOptions],
    ) -> AsyncGenerator[Listing[T], None]:
        """All objects of a namespace, or of all namespaces; to be closed (`aclosing`).

        Raises Gone between two pages when the snapshot that the list began with is compacted away, and
        ResourceVersionTooLarge.
        """
        query = {"limit": str(options.get("limit", 500))}
        if (selector := options.get("field_selector")) is not None:
            query["fieldSelector"] = selector
        if (selector := options.get("label_selector")) is not None:
            query["labelSelector"] = selector
        if (version := options.get("not_older_than")) is not None:
            query |= {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"}
        while True:
            call = Call("list", resource, namespace, query=urlencode(query), optional=options.get("optional", False))
            page = _decode_page(call, await self._request(call, retry=options.get("retry", True)))
            listing: Listing[T] = Listing([], page.metadata.resource_version, [], last=not page.metadata.continue_)
            for item in page.items or []:
                try:
                    listing.items.append(resource.decode(item))
                except Undecodable as error:
                    listing.undecodable.append(error)
            query = {key: value for key, value in query.items() if not key.startswith("resourceVersion")}
            query["continue"] = page.metadata.continue_
            del page  # the whole of its text
            yield listing
            if listing.last:
                return

    async def create(self, resource: Resource[T], namespace: str, body: bytes, *, field_manager: str) -> T:
        """Create an object that has a name of its own: sent again, it is answered with Conflict.

        What Exeunt creates can be done without, so a refusal does not count for `unavailable_reason`.
        """
        query = urlencode({"fieldManager": field_manager, "fieldValidation": "Strict"})
        call = Call("create", resource, namespace, query=query, body=body, optional=True)
        return resource.decode(await self._request(call))

    async def patch(
        self,
        resource: Resource[T],
        namespace: str,
        name: str,
        body: bytes,
        *,
        field_manager: str,
        subresource: str | None = None,
    ) -> None:
        """Send a JSON Patch to the object, or to a subresource of it. What comes back is not looked at: the write is
        done.

        The patch must be conditional: after a broken connection it is sent again. Unknown fields are refused.
        """
        query = urlencode({"fieldManager": field_manager, "fieldValidation": "Strict"})
        call = Call("patch", resource, namespace, name, subresource, query, body, JSON_PATCH)
        await self._request(call)

    async def delete(self, resource: Resource[T], namespace: str, name: str, *, uid: str, where: str) -> bool:
        """Delete, dependents in the background, but only this uid, and only if the field selector `where` is true of
        it. Returns whether one was found (it may have been on its way out); raises Conflict when there is another uid
        of that name.

        A DELETE of one object cannot be shown what else must hold. One of a collection can, so this is such a request,
        narrowed to one name (ADR 4). It looks at the watch cache first, which is cheaper; what that does not know is
        looked for in etcd.
        """
        query = {"fieldSelector": f"{where},metadata.name={name}"}
        options = msgspec.json.encode({"propagationPolicy": "Background", "preconditions": {"uid": uid}})
        for version in ({"resourceVersion": "0"}, {}):
            call = Call(
                "deletecollection", resource, namespace, query=urlencode(query | version), body=options, of=name
            )
            if _decode_page(call, await self._request(call)).items:
                return True
        return False

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource[T],
        namespace: str | None,
        *,
        resource_version: str,
        timeout_seconds: float,
        idle_timeout: float,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The events since `resource_version` with bookmarks, one JSON line each; one attempt, never a retry.

        The server ends the watch after `timeout_seconds`. ApiUnavailable is raised when the stream breaks, and Silent
        when nothing arrives for `idle_timeout` seconds. A refusal does not count for `unavailable_reason`; whoever
        watches has to tell.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(ceil(timeout_seconds)),  # 0 would mean: as long as the server likes
        }
        limits = aiohttp.ClientTimeout(total=None, connect=self._limits.total, sock_read=idle_timeout)
        call = Call("watch", resource, namespace, query=urlencode(query), optional=True)
        response = await self._connection.open(call, limits)
        try:
            async with aclosing(self._lines(call, response)) as lines:
                yield lines
        finally:
            response.close()

    async def _lines(self, call: Call, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        try:
            async for line in response.content:
                yield line
        except TimeoutError as error:  # aiohttp's is a ClientError, too
            raise Silent(str(self._connection.unavailable(call, error))) from error
        except aiohttp.ClientError as error:
            raise self._connection.unavailable(call, error) from error

    async def _request(self, call: Call, *, retry: bool = True) -> bytes:
        clock = asyncio.get_running_loop().time
        until, failures, perhaps_done = clock() + self._retry_budget, 0, False
        while True:
            try:
                return await observed(call, self._connection.server, self._read(call))
            except (ApiError, ApiUnavailable) as error:
                if isinstance(error, ApiError):
                    error.perhaps_done = perhaps_done
                if not retry or not _is_transient(error):
                    raise
                asked = error.retry_after if isinstance(error, ApiError) else None
                wait = _BACK_OFF.wait(failures, asked=asked)
                if clock() + wait > until:
                    last = str(error).removeprefix(f"{call}: ")
                    why = f"{call}: no success within {self._retry_budget:g} s; last: {last}"
                    raise ApiUnavailable(why, retry_after=wait if asked else None) from error
                perhaps_done = perhaps_done or _perhaps_done(error)
            await asyncio.sleep(wait)
            failures += 1

    async def _read(self, call: Call) -> bytes:
        async with await self._connection.open(call, self._limits) as response:
            try:
                return await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._connection.unavailable(call, error) from error


async def _joined(pages: AsyncGenerator[Listing[T], None]) -> Listing[T]:
    async with aclosing(pages):
        whole = await anext(pages)
        async for page in pages:
            whole.items.extend(page.items)
            whole.undecodable.extend(page.undecodable)
        return Listing(whole.items, whole.resource_version, whole.undecodable)


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


_PAGE = msgspec.json.Decoder(_Page)


def _decode_page(call: Call, body: bytes) -> _Page:
    try:
        return _PAGE.decode(body)
    except msgspec.DecodeError as error:  # something on the way answers for the kube-apiserver
        raise ApiUnavailable(f"{call}: the answer is no list: {error}") from error


def _perhaps_done(error: Exception) -> bool:
    """Whether what was asked for may have happened all the same: there was no answer, or the server failed at it."""
    return not isinstance(error, ApiError) or error.status >= 500


def _is_transient(error: ApiError | ApiUnavailable) -> bool:
    """Whether another try may help."""
    if isinstance(error, ResourceVersionTooLarge):
        return False
    return isinstance(error, ApiUnavailable) or error.status == 429 or error.status >= 500
