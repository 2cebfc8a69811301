"""Runs as the cluster has them now, projected as the watcher would project them.

Read with the rights of whoever asks (KUBECONFIG, or --kubeconfig and --context).
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from exeunt.bobrapet import UNFINISHED
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import NotFound, Undecodable
from exeunt.kube.models import StoryRun
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS
from exeunt.settings import PREFIX, Settings, read_settings
from exeunt.signals import Signal
from exeunt.snapshot import Snapshot, Topology, story_key
from exeunt_cli.options import Cluster
from exeunt_cli.output import say
from exeunt_watcher.projection import Projection

_REQUEST_TIMEOUT: Final = 5.0
_RETRY_BUDGET: Final = 5.0


def services_settings() -> Settings:
    """The services' settings, where they are set here too; what they do not know is not ours to judge."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.__struct_fields__}
    return read_settings({name: value for name, value in os.environ.items() if name in known})


class Remembered(NamedTuple):
    """What NATS knows of runs: their topologies, by uid, from their histories; and the last signals about them."""

    topologies: Mapping[str, Topology] = {}
    signals: Sequence[Signal] = ()


Recall = Callable[[Sequence[StoryRun]], Awaitable[Remembered]]


async def _connected(settings: Settings, cluster: Cluster) -> KubeClient:
    return await KubeClient.connect(
        kubeconfig=cluster.kubeconfig,
        context=cluster.context,
        strict=settings.tls_strict,
        request_timeout=_REQUEST_TIMEOUT,
        retry_budget=_RETRY_BUDGET,
    )


async def look(namespace: str, name: str, recall: Recall, settings: Settings, cluster: Cluster) -> Snapshot | None:
    """The run of that name, or None.

    Raises ConfigurationError, ApiUnavailable, ApiError.
    """
    kube = await _connected(settings, cluster)
    try:
        return await _look(kube, namespace, name, recall, settings)
    finally:
        await kube.close()


async def _look(kube: KubeClient, namespace: str, name: str, recall: Recall, settings: Settings) -> Snapshot | None:
    known = _projection(settings)
    try:
        run = await kube.get(STORY_RUNS, namespace, name)
    except NotFound:
        return None
    known.story_run(run)
    _remember(known, await recall([run]))
    with suppress(NotFound):
        known.story(await kube.get(STORIES, *story_key(run)))
    selector = f"spec.storyRunRef.name={name}"
    for step_run in (await kube.list(STEP_RUNS, namespace, field_selector=selector)).items:
        known.step_run(step_run)
    for binding in (await kube.list(TRANSPORT_BINDINGS, namespace, field_selector=selector)).items:
        known.binding(binding)
    return known.peek(run.metadata.key, datetime.now(UTC))


async def look_at_canceled(
    namespaces: tuple[str, ...], settings: Settings, recall: Recall, cluster: Cluster
) -> list[Snapshot]:
    """All unfinished canceled runs, of all namespaces when none is named.

    Raises ConfigurationError, ApiUnavailable, ApiError.
    """
    kube = await _connected(settings, cluster)
    known, canceled = _projection(settings), list[StoryRun]()
    try:
        for namespace in namespaces or (None,):
            runs = await kube.list(STORY_RUNS, namespace, field_selector=UNFINISHED)
            step_runs = await kube.list(STEP_RUNS, namespace, field_selector=UNFINISHED)
            bindings = await kube.list(TRANSPORT_BINDINGS, namespace)
            canceled += [run for run in runs.items if run.spec.cancel_requested]
            for step_run in step_runs.items:
                known.step_run(step_run)
            for binding in bindings.items:
                known.binding(binding)
            for error in (*runs.undecodable, *step_runs.undecodable, *bindings.undecodable):
                say(f"left out: {error}")
        for key in sorted({story_key(run) for run in canceled}):
            with suppress(NotFound):
                try:
                    known.story(await kube.get(STORIES, *key))
                except Undecodable as error:
                    say(f"left out: {error}")
    finally:
        await kube.close()
    for run in canceled:
        known.story_run(run)
    _remember(known, await recall(canceled))
    now = datetime.now(UTC)
    return [found for run in canceled if (found := known.peek(run.metadata.key, now)) is not None]


def _remember(known: Projection, remembered: Remembered) -> None:
    for uid, topology in remembered.topologies.items():
        known.remember(uid, topology)
    for signal in remembered.signals:
        known.signal(signal)


def _projection(settings: Settings) -> Projection:
    return Projection(
        default_timeout=settings.shutdown_timeout,
        fence_wait=settings.fence_wait,
        heartbeats_stale_after=settings.heartbeat_stale_after or None,
    )
