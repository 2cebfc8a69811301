"""A run as the cluster has it now, projected as the watcher would project it.

Read with the rights of whoever asks (KUBECONFIG).
"""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from exeunt.kube.client import KubeClient
from exeunt.kube.errors import NotFound
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS
from exeunt.settings import Settings
from exeunt.snapshot import Snapshot, Topology, story_key
from exeunt_watcher.projection import Projection

_REQUEST_TIMEOUT: Final = 5.0
_RETRY_BUDGET: Final = 5.0


async def look(namespace: str, name: str, remembered: Topology, settings: Settings) -> Snapshot | None:
    """The run of that name, or None. `remembered` is what its history knows of its topology.

    Raises ConfigurationError, ApiUnavailable, ApiError.
    """
    kube = await KubeClient.connect(request_timeout=_REQUEST_TIMEOUT, retry_budget=_RETRY_BUDGET)
    try:
        return await _look(kube, namespace, name, remembered, settings)
    finally:
        await kube.close()


async def _look(
    kube: KubeClient, namespace: str, name: str, remembered: Topology, settings: Settings
) -> Snapshot | None:
    known = Projection(
        default_timeout=settings.shutdown_timeout,
        fence_wait=settings.fence_wait,
        heartbeats_stale_after=settings.heartbeat_stale_after or None,
    )
    try:
        run = await kube.get(STORY_RUNS, namespace, name)
    except NotFound:
        return None
    known.story_run(run)
    known.remember(run.metadata.uid, remembered)
    with suppress(NotFound):
        known.story(await kube.get(STORIES, *story_key(run)))
    selector = f"spec.storyRunRef.name={name}"
    for step_run in (await kube.list(STEP_RUNS, namespace, field_selector=selector)).items:
        known.step_run(step_run)
    for binding in (await kube.list(TRANSPORT_BINDINGS, namespace, field_selector=selector)).items:
        known.binding(binding)
    return known.peek(run.metadata.key, datetime.now(UTC))
