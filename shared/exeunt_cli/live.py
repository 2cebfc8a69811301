"""Runs as the cluster has them now, seen by the watcher's machine.

Read with the rights of whoever asks (KUBECONFIG, or --kubeconfig and --context).
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from exeunt.bus.connection import Bus
from exeunt.bus.recall import recalled
from exeunt.events.event_types import cancellation_of
from exeunt.kube.changes import Page
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import NotFound, Undecodable
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS, Resource
from exeunt.run.models import Story, StoryRun
from exeunt.run.snapshot import Snapshot, story_key
from exeunt.settings import PREFIX, Settings, read_settings
from exeunt_cli.options import Cluster
from exeunt_cli.output import print_note
from exeunt_cli.source import signals_about
from exeunt_watcher.commands import AllSignalsHeard, Recall, Recalled, Seen, SignalHeard
from exeunt_watcher.machine import selector
from exeunt_watcher.watcher import watching

Listed = dict[Resource[Any], list[Any]]
"""Objects by their kind."""

_REQUEST_TIMEOUT: Final = 5.0
_RETRY_BUDGET: Final = 5.0


def services_settings() -> Settings:
    """The services' settings, where they are set here too; what they do not know is not ours to judge."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.__struct_fields__}
    return read_settings({name: value for name, value in os.environ.items() if name in known})


async def _connected(settings: Settings, cluster: Cluster) -> KubeClient:
    return await KubeClient.connect(
        kubeconfig=cluster.kubeconfig,
        context=cluster.context,
        strict=settings.tls_strict,
        request_timeout=_REQUEST_TIMEOUT,
        retry_budget=_RETRY_BUDGET,
    )


async def look(namespace: str, name: str, bus: Bus, settings: Settings, cluster: Cluster) -> Snapshot | None:
    """The run of that name, or None.

    Raises ConfigurationError, ApiUnavailable, ApiError, BusError.
    """
    kube = await _connected(settings, cluster)
    try:
        try:
            run = await kube.get(STORY_RUNS, namespace, name)
        except NotFound:
            return None
        seen: Listed = {STORY_RUNS: [run], STORIES: await _stories(kube, [run])}
        naming = f"spec.storyRunRef.name={name}"
        seen[STEP_RUNS] = (await kube.list(STEP_RUNS, namespace, field_selector=naming)).items
        seen[TRANSPORT_BINDINGS] = (await kube.list(TRANSPORT_BINDINGS, namespace, field_selector=naming)).items
    finally:
        await kube.close()
    (found,) = await watched(seen, bus, settings)
    return found


async def list_canceled(namespaces: tuple[str, ...], settings: Settings, cluster: Cluster) -> Listed:
    """All unfinished canceled runs, of all namespaces when none is named, with what belongs to them: for `watched`.

    Raises ConfigurationError, ApiUnavailable, ApiError.
    """
    kube = await _connected(settings, cluster)
    seen: Listed = {STORY_RUNS: [], STEP_RUNS: [], TRANSPORT_BINDINGS: []}
    try:
        for namespace in namespaces or (None,):
            for resource, items in seen.items():
                listing = await kube.list(resource, namespace, field_selector=selector(resource))
                items.extend(listing.items)
                for error in listing.undecodable:
                    print_note(f"left out: {error}")
        seen[STORY_RUNS] = [run for run in seen[STORY_RUNS] if run.spec.cancel_requested]
        seen[STORIES] = await _stories(kube, seen[STORY_RUNS])
    finally:
        await kube.close()
    return seen


async def _stories(kube: KubeClient, runs: Iterable[StoryRun]) -> list[Story]:
    stories = []
    for key in sorted({story_key(run) for run in runs}):
        with suppress(NotFound):
            try:
                stories.append(await kube.get(STORIES, *key))
            except Undecodable as error:
                print_note(f"left out: {error}")
    return stories


async def watched(listed: Listed, bus: Bus | None, settings: Settings) -> list[Snapshot]:
    """The listed runs as a watcher sees them that starts now, and publishes nothing. Without `bus` nothing is
    remembered of them. Raises BusError.
    """
    runs: list[StoryRun] = listed[STORY_RUNS]
    machine = watching((None,), settings)
    now = datetime.now(UTC)
    for resource, items in listed.items():
        machine.receive(Seen(resource, None, Page(items)), now)
    if bus is not None:
        for run in runs:
            for signal in await signals_about(bus, run):
                machine.receive(SignalHeard(signal), now)
    found = {run.metadata.key: machine.peek(run.metadata.key, now) for run in runs}  # for one that has ended
    for asked in machine.receive(AllSignalsHeard(), now):
        if bus is not None and isinstance(asked, Recall):
            cancellation = cancellation_of(asked.event_type, asked.snapshot.run)
            machine.receive(Recalled(asked, await recalled(bus, cancellation, asked.event_type)), now)
    return [seen for key, ended in found.items() if (seen := machine.peek(key, now) or ended) is not None]
