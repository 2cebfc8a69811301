"""A peer: a loop on kubernetes_asyncio's Watch, without NATS. `python -m bench.peers.watch_loop NAMESPACE`.

Three watches of that client, and its own requests for the writes; as its examples have it, and no more.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any, Final

from kubernetes_asyncio import client, config, watch

from bench.peers.stops import Object, Stops, finalizing_patch

_RUNS: Final = ("runs.bubustack.io", "v1alpha1")
_TRANSPORT: Final = ("transport.bubustack.io", "v1alpha1")


async def main(namespace: str) -> None:
    await config.load_kube_config()
    async with client.ApiClient() as api_client:
        api = client.CustomObjectsApi(api_client)

        as_json_patch: dict[str, Any] = {"_content_type": "application/json-patch+json"}  # which its types do not know

        async def write(run: Object, step_runs: dict[str, str]) -> None:
            name, patch = run["metadata"]["name"], finalizing_patch(run)
            await api.patch_namespaced_custom_object_status(
                *_RUNS, namespace, "storyruns", name, patch, field_validation="Strict", **as_json_patch
            )
            await asyncio.gather(*(delete(step_run, uid) for step_run, uid in step_runs.items()))

        async def delete(step_run: str, uid: str) -> None:
            precondition = client.V1Preconditions(uid=uid)
            options = client.V1DeleteOptions(propagation_policy="Background", preconditions=precondition)
            await api.delete_namespaced_custom_object(*_RUNS, namespace, "stepruns", step_run, body=options)

        stops = Stops(write)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_follow_runs(api, namespace, stops))
            tasks.create_task(_follow_step_runs(api, namespace, stops))
            tasks.create_task(_follow_bindings(api, namespace, stops))
            sys.stdout.write("watching\n")
            sys.stdout.flush()


async def _follow_runs(api: client.CustomObjectsApi, namespace: str, stops: Stops) -> None:
    async for run, _ in _follow(api, *_RUNS, namespace, "storyruns"):
        stops.saw_run(run)


async def _follow_step_runs(api: client.CustomObjectsApi, namespace: str, stops: Stops) -> None:
    async for step_run, deleted in _follow(api, *_RUNS, namespace, "stepruns"):
        stops.saw_step_run(step_run, deleted=deleted)


async def _follow_bindings(api: client.CustomObjectsApi, namespace: str, stops: Stops) -> None:
    async for binding, deleted in _follow(api, *_TRANSPORT, namespace, "transportbindings"):
        stops.saw_binding(binding, deleted=deleted)


async def _follow(api: client.CustomObjectsApi, *kind: str) -> AsyncGenerator[tuple[Any, bool], None]:
    """Changes, each with whether the object is deleted. Watch goes on by itself when the server ends one."""
    async with watch.Watch() as watching:
        async for event in watching.stream(api.list_namespaced_custom_object, *kind):
            yield event["object"], event["type"] == "DELETED"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
