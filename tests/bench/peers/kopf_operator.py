"""A peer: an operator on kopf that does the same job without NATS. `python -m bench.peers.kopf_operator NAMESPACE`.

As its documentation recommends for what keeps no state in objects: event handlers for three kinds, no finalizers, no
progress in annotations, no events posted. Its writes are bare requests, since kopf's own patches know no conditions.
"""

import asyncio
import json
import logging
import sys
from contextlib import AsyncExitStack
from typing import Any

import kopf

from bench.api import Api
from bench.peers.stops import Object, Stops, finalizing_patch

_GROUP = "/apis/runs.bubustack.io/v1alpha1/namespaces"
_stack = AsyncExitStack()
_stops: list[Stops] = []


@kopf.on.startup()
async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    api = await _stack.enter_async_context(Api.connected())

    async def write(run: Object, step_runs: dict[str, str]) -> None:
        meta, patch = run["metadata"], json.dumps(finalizing_patch(run)).encode()
        path = f"{_GROUP}/{meta['namespace']}"
        status = f"{path}/storyruns/{meta['name']}/status?fieldManager=kopf&fieldValidation=Strict"
        await api.send("PATCH", status, patch, "application/json-patch+json")
        await asyncio.gather(*(delete(f"{path}/stepruns/{name}", uid) for name, uid in step_runs.items()))

    async def delete(path: str, uid: str) -> None:
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await api.send("DELETE", path, json.dumps(options).encode(), "application/json")

    _stops.append(Stops(write))


@kopf.on.cleanup()
async def end(**_: Any) -> None:
    await _stack.aclose()


@kopf.on.event("runs.bubustack.io", "v1alpha1", "storyruns")
async def run(event: kopf.RawEvent, **_: Any) -> None:
    _stops[0].saw_run(dict(event["object"]))


@kopf.on.event("runs.bubustack.io", "v1alpha1", "stepruns")
async def step_run(event: kopf.RawEvent, **_: Any) -> None:
    _stops[0].saw_step_run(dict(event["object"]), deleted=event["type"] == "DELETED")


@kopf.on.event("transport.bubustack.io", "v1alpha1", "transportbindings")
async def binding(event: kopf.RawEvent, **_: Any) -> None:
    _stops[0].saw_binding(dict(event["object"]), deleted=event["type"] == "DELETED")


@kopf.on.event("bubustack.io", "v1alpha1", "stories")
async def story(**_: Any) -> None:
    """The namespace has one from the start: its lists have begun."""
    sys.stdout.write("watching\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    kopf.run(standalone=True, namespaces=[sys.argv[1]])
