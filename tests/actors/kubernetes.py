"""The kube-apiserver as the actors see it: raw JSON in and out, with an admin's rights.

Not the client that the services use (`exeunt.kube`): what plays the world must not share its mistakes.
"""

import asyncio
import copy
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple, Self

import aiohttp
import msgspec
from kubernetes_asyncio.client import ApiClient

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""


class Kind(NamedTuple):
    """A namespaced kind."""

    group: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None) -> str:
        collection = f"/apis/{self.group}/v1alpha1"
        if namespace is not None:
            collection += f"/namespaces/{namespace}"
        collection += f"/{self.plural}"
        return collection if name is None else f"{collection}/{name}"


STORY = Kind("bubustack.io", "Story", "stories")
STORY_RUN = Kind("runs.bubustack.io", "StoryRun", "storyruns")
STEP_RUN = Kind("runs.bubustack.io", "StepRun", "stepruns")
BINDING = Kind("transport.bubustack.io", "TransportBinding", "transportbindings")


class Refused(Exception):
    """The kube-apiserver answered 4xx, which is in `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """No answer, or a 5xx or 429: the same request may work later."""


class Event(msgspec.Struct, frozen=True):
    """ADDED, MODIFIED or DELETED with its object; SYNCED, without one, when the state at the start is reported."""

    type: str
    object: Object


_EVENT = msgspec.json.Decoder(Event)
_LIMITS = aiohttp.ClientTimeout(total=10)


class Kubernetes:
    """Requests in the name of `manager`, which the kube-apiserver records in managedFields.

    Every method raises Refused and Unreachable after a single attempt.
    """

    def __init__(self, client: ApiClient, manager: str = "user") -> None:
        self._client = client
        self._manager = manager

    def acting_as(self, manager: str) -> Self:
        """The same connection for somebody else."""
        other = copy.copy(self)
        other._manager = manager
        return other

    async def create(
        self, kind: Kind, namespace: str, name: str, spec: Mapping[str, Any], **metadata: object
    ) -> Object:
        body = {
            "apiVersion": f"{kind.group}/v1alpha1",
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": namespace, **metadata},
            "spec": spec,
        }
        return await self._send("POST", kind.path(namespace), body)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self._send("GET", kind.path(namespace, name))

    async def list(self, kind: Kind, namespace: str | None = None, *, field_selector: str = "") -> list[Object]:
        answer = await self._send("GET", kind.path(namespace), fieldSelector=field_selector)
        items: list[Object] = answer["items"]
        return items

    async def patch(self, kind: Kind, namespace: str, name: str, change: Mapping[str, Any]) -> Object:
        """A JSON merge patch of spec and metadata."""
        return await self._send("PATCH", kind.path(namespace, name), change)

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Mapping[str, Any] | None) -> Object:
        """A JSON merge patch of the status; None removes a field, or all of it."""
        return await self._send("PATCH", f"{kind.path(namespace, name)}/status", {"status": status})

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """With background propagation, as bobrapet does it."""
        await self._send("DELETE", kind.path(namespace, name), {"propagationPolicy": "Background"})

    async def follow(self, kind: Kind, namespace: str | None = None) -> AsyncGenerator[Event, None]:
        """What is there, SYNCED, and then every change, until the caller has had enough.

        While the kube-apiserver is away it waits; what was missed meanwhile is reported as one change per object, and
        SYNCED again.
        """
        known: dict[Key, Object] = {}
        while True:
            try:
                listing = await self._send("GET", kind.path(namespace))
                for event in _differences(known, listing["items"]):
                    yield event
                yield Event("SYNCED", {})
                async with aclosing(self._watch(kind, namespace, listing["metadata"]["resourceVersion"])) as changes:
                    async for event in changes:
                        _remember(known, event)
                        yield event
            except Unreachable:
                await asyncio.sleep(random.uniform(0.05, 0.1))

    async def _watch(self, kind: Kind, namespace: str | None, resource_version: str) -> AsyncGenerator[Event, None]:
        query = {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": "240"}
        limits = aiohttp.ClientTimeout(total=None, connect=10, sock_read=300)
        async with self._answer("GET", kind.path(namespace), query, limits=limits) as response:
            async for line in response.content:
                event = _EVENT.decode(line)
                if event.type == "ERROR":
                    return  # the history is compacted away: list again
                yield event

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str) -> Object:
        if method in ("POST", "PATCH"):
            query["fieldManager"] = self._manager
        async with self._answer(method, path, query, body) as response:
            answer: Object = msgspec.json.decode(await response.read())
        return answer

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        limits: aiohttp.ClientTimeout = _LIMITS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        configuration, session = self._client.configuration, self._client.rest_client.pool_manager
        headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        if token := configuration.api_key.get("BearerToken"):
            headers["Authorization"] = token
        data = None if body is None else msgspec.json.encode(body)
        url = f"{configuration.host}{path}"
        try:
            async with session.request(
                method, url, params=query, data=data, headers=headers, timeout=limits
            ) as response:
                if response.status >= 400:
                    message = f"{method} {path}: {response.status} {await response.text()}"
                    unreachable = response.status == 429 or response.status >= 500
                    raise Unreachable(message) if unreachable else Refused(response.status, message)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{method} {path}: {error!r}") from error


def key_of(item: Object) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _differences(known: dict[Key, Object], items: list[Object]) -> Iterator[Event]:
    """What a new list says that was not known; `known` is brought up to it."""
    listed = {key_of(item): item for item in items}
    for key in known.keys() - listed.keys():
        yield Event("DELETED", known.pop(key))
    for key, item in listed.items():
        before = known.get(key)
        known[key] = item
        if before is None:
            yield Event("ADDED", item)
        elif before["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            yield Event("MODIFIED", item)


def _remember(known: dict[Key, Object], event: Event) -> None:
    if event.type == "DELETED":
        known.pop(key_of(event.object), None)
    else:
        known[key_of(event.object)] = event.object
