"""Who is left to bobrapet, told by the objects themselves: which runs and which Stories are opted out, and since when.

A run's own opt-out is tested in the write that ends it. Its Story's is known by a version of the Story, which may be
behind the truth: it is read again where the run is, and before a deadline is published.
"""

from collections.abc import Mapping
from typing import Final

from exeunt.run import bobrapet
from exeunt.run.models import Story
from simulation.apiserver import STORY, STORY_RUN, ApiServer, Change, Document
from simulation.clockwork import Clockwork

_NEVER: Final = float("inf")


class OptOuts:
    def __init__(self, clock: Clockwork, api: ApiServer) -> None:
        self._clock = clock
        self._api = api
        self._stories: dict[str, float] = {}
        """By name, those that are there and opted out: since when."""
        self._versions: set[str] = set()
        """Those of Stories that said so."""
        self._runs: dict[str, float] = {}
        """By uid: until when a run, or its Story, was opted out."""
        api.on_change.append(self._see)
        api.on_restore.append(lambda _: self._look_at_all())
        self._look_at_all()

    # What is true.

    def is_out(self, document: Document) -> bool:
        """By its own word, or by its Story's."""
        return _is_out(document["metadata"]["annotations"]) or document["spec"]["storyRef"]["name"] in self._stories

    def story_out_since(self, name: str) -> float:
        """Since when the Story has been there and opted out; the end of all time while it is not."""
        return self._stories.get(name, _NEVER)

    def version_is_out(self, version: str | None) -> bool:
        """Whether the Story at this version is opted out."""
        return version in self._versions

    def was_out(self, uid: str, since: float) -> bool:
        """Whether the run, or its Story, has been opted out at some time since then."""
        return self._runs.get(uid, -_NEVER) >= since

    # What tells.

    def _see(self, change: Change) -> None:
        if change.kind == STORY:
            self._look_at_story(change.object.metadata.name)
        if change.kind in (STORY, STORY_RUN):
            self._look_at_runs()

    def _look_at_all(self) -> None:
        for name in {*self._stories, *self._api.objects[STORY]}:
            self._look_at_story(name)
        self._look_at_runs()

    def _look_at_story(self, name: str) -> None:
        found = self._api.objects[STORY].get(name)
        if isinstance(found, Story) and _is_out(found.metadata.annotations):
            self._versions.add(found.metadata.resource_version)
            self._stories.setdefault(name, self._clock.now)
        else:
            self._stories.pop(name, None)

    def _look_at_runs(self) -> None:
        for document in self._api.documents.values():
            uid = document["metadata"]["uid"]
            if self.is_out(document):
                self._runs[uid] = _NEVER
            elif self._runs.get(uid) == _NEVER:
                self._runs[uid] = self._clock.now


def _is_out(annotations: Mapping[str, str]) -> bool:
    return annotations.get(bobrapet.ENABLED) == "false"
