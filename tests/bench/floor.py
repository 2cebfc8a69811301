"""The floor: a bare loop, as a process of its own. `python -m bench.floor NAMESPACE` in tests/, with $KUBECONFIG.

Raw watches of one namespace; when a canceled run has lost its last TransportBinding, the terminator's conditional
PATCH and the DELETE of its StepRuns. No NATS, no second process, no retry: it ends on the first fault.
Whatever is built to last costs more than this, and `latency` and `storm` say how much more.

SIGUSR1 makes it hold its writes back, SIGUSR2 lets them go. The `observer` sees with the same `follow`. Real calls end
otherwise, and have a floor of their own (`room_floor`).
"""

import asyncio
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec

from bench.api import Api
from exeunt.kube.resources import STEP_RUNS, STORY_RUNS, TRANSPORT_BINDINGS, Resource, T
from exeunt.run.managed_fields import FIELD_MANAGER
from exeunt.run.snapshot import RunState, read_run
from exeunt.settings import Settings
from exeunt_terminator.finalize import finalizing_patch

JSON_PATCH = "application/json-patch+json"
_UNLIMITED = aiohttp.ClientTimeout(total=None)


async def finalize(api: Api, run: RunState) -> None:
    """The terminator's conditional write; raises as `Api.send`."""
    status = STORY_RUNS.path(run.namespace, run.name, "status")
    query = f"?fieldManager={FIELD_MANAGER}&fieldValidation=Strict"
    await api.send("PATCH", status + query, finalizing_patch(run, datetime.now(UTC)), JSON_PATCH)


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw]


_EVENT = msgspec.json.Decoder(_Event)
_LIST = msgspec.json.Decoder(_List)


async def follow(
    api: Api, resource: Resource[T], namespace: str | None, watching: asyncio.Barrier
) -> AsyncGenerator[tuple[T, bool], None]:
    """What is there and every change from then on, each with whether it is deleted.

    It meets the others at `watching` when what happens from then on will be seen.
    """
    url = f"{api.host}{resource.path(namespace)}"
    async with api.session.get(url, headers=api.headers, raise_for_status=True) as response:
        listing = _LIST.decode(await response.read())
    for listed in listing.items:
        yield resource.decode(listed), False
    await watching.wait()
    version = listing.metadata.resource_version
    while True:  # the server may end a watch, above all when it is busy; the next one goes on where that was
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "3600"}
        async with api.session.get(
            url, params=query, headers=api.headers, timeout=_UNLIMITED, raise_for_status=True
        ) as response:
            async for line in response.content:
                event = _EVENT.decode(line)
                item = resource.decode(event.object)
                version = item.metadata.resource_version
                yield item, event.type == "DELETED"


class Floor:
    """What a loop must know, and the writes of one that knows it."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self._namespace = namespace
        self._runs: dict[str, RunState] = {}
        self._bindings: defaultdict[str, set[str]] = defaultdict(set)
        self._step_runs: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._stopping: set[str] = set()
        self._watching = asyncio.Barrier(4)
        self._slots = asyncio.Semaphore(Settings().max_in_flight)
        self._released = asyncio.Event()
        self._released.set()

    async def run(self) -> None:
        """For ever; says so when it has begun."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._released.clear)
        loop.add_signal_handler(signal.SIGUSR2, self._released.set)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_story_runs(tasks))
            tasks.create_task(self._follow_step_runs())
            tasks.create_task(self._follow_bindings(tasks))
            await self._watching.wait()
            sys.stdout.write("watching\n")
            sys.stdout.flush()

    async def _follow_story_runs(self, tasks: asyncio.TaskGroup) -> None:
        async for run, _ in follow(self.api, STORY_RUNS, self._namespace, self._watching):
            now, name = datetime.now(UTC), run.metadata.name
            self._runs[name] = read_run(run, first_seen=now, now=now, fence_wait=timedelta(0))
            self._consider(name, tasks)

    async def _follow_step_runs(self) -> None:
        async for step_run, deleted in follow(self.api, STEP_RUNS, self._namespace, self._watching):
            known, meta = self._step_runs[step_run.spec.story_run_ref.name], step_run.metadata
            if deleted:
                known.pop(meta.name, None)
            else:
                known[meta.name] = meta.uid

    async def _follow_bindings(self, tasks: asyncio.TaskGroup) -> None:
        async for binding, deleted in follow(self.api, TRANSPORT_BINDINGS, self._namespace, self._watching):
            reference = binding.spec.story_run_ref
            if reference is None or reference.name is None:
                continue
            known = self._bindings[reference.name]
            if deleted:
                known.discard(binding.metadata.name)
                self._consider(reference.name, tasks)
            else:
                known.add(binding.metadata.name)

    def _consider(self, name: str, tasks: asyncio.TaskGroup) -> None:
        run = self._runs.get(name)
        gone = name in self._bindings and not self._bindings[name]
        if run is None or run.cancel_observed_at is None or run.terminal or not gone or name in self._stopping:
            return
        self._stopping.add(name)
        tasks.create_task(self._stop(run))

    async def _stop(self, run: RunState) -> None:
        await self._released.wait()
        async with self._slots:
            await self.look(run)
            await finalize(self.api, run)
            step_runs = list(self._step_runs[run.name].items())
            await asyncio.gather(*(self._delete(run.namespace, name, uid) for name, uid in step_runs))

    async def look(self, run: RunState) -> None:
        """Whether the topology is still gone: the floor takes it for granted (`looking_floor` does not)."""

    async def _delete(self, namespace: str, name: str, uid: str) -> None:
        options: dict[str, Any] = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self.api.send("DELETE", STEP_RUNS.path(namespace, name), msgspec.json.encode(options), "application/json")


async def main(namespace: str) -> None:
    async with Api.connected() as api:
        await Floor(api, namespace).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
