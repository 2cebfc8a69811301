"""Passing a cancel on to the StoryRuns that a run has started, when asked to (EXEUNT_PROPAGATE_CANCEL).

bobrapet does not: children of a canceled run keep running after it (contract §5). A child is one by its owner's uid;
the label only finds it. What a canceled child does then is bobrapet's business, and Exeunt's if it is realtime.
"""

import asyncio
from typing import Final

import msgspec

from exeunt.kube.client import KubeClient
from exeunt.kube.errors import Conflict, NotFound, Unprocessable
from exeunt.kube.resources import STORY_RUNS
from exeunt.run import bobrapet
from exeunt.run.managed_fields import FIELD_MANAGER
from exeunt.run.models import StoryRun
from exeunt.run.snapshot import RunState

_PARENT: Final = "bubustack.io/parent-storyrun"
_LONGEST_LABEL: Final = 63


def cancel_patch(child: StoryRun) -> bytes:
    """The JSON Patch that asks for the cancel of this very child, as it was read."""
    return msgspec.json.encode(
        [
            {"op": "test", "path": "/metadata/uid", "value": child.metadata.uid},
            {"op": "test", "path": "/metadata/resourceVersion", "value": child.metadata.resource_version},
            {"op": "add", "path": "/spec/cancelRequested", "value": True},
        ]
    )


def to_cancel(run: RunState, candidates: list[StoryRun]) -> list[StoryRun]:
    """The run's own children that are neither canceled nor finished nor being deleted."""
    return [
        child
        for child in candidates
        if any(owner.uid == run.uid for owner in child.metadata.owner_references)
        and not child.spec.cancel_requested
        and child.metadata.deletion_timestamp is None
        and not bobrapet.is_terminal(child.status.phase if child.status else None)
    ]


async def cancel_children(kube: KubeClient, run: RunState) -> tuple[str, ...]:
    """Ask for the cancel of the run's children; the names of those that were asked now.

    Safe to repeat. Raises ApiError and ApiUnavailable.
    """
    selector = f"{_PARENT}={run.name}" if len(run.name) <= _LONGEST_LABEL else _PARENT
    listing = await kube.list(STORY_RUNS, run.namespace, label_selector=selector)
    children = to_cancel(run, listing.items)
    asked = await asyncio.gather(*(_cancel(kube, child) for child in children), return_exceptions=True)
    for answer in asked:
        if isinstance(answer, BaseException):
            raise answer
    return tuple(child.metadata.name for child, answer in zip(children, asked, strict=True) if answer)


async def _cancel(kube: KubeClient, child: StoryRun) -> bool:
    meta = child.metadata
    try:
        await kube.patch(STORY_RUNS, meta.namespace, meta.name, cancel_patch(child), field_manager=FIELD_MANAGER)
    except NotFound:
        return False
    except (Conflict, Unprocessable) as error:
        if isinstance(error, Unprocessable) and not error.failed_test:
            raise
        return False  # it has changed meanwhile: the second look sees what became of it
    return True
