"""What the stream remembers of runs that are new to this process: asked, and not answered yet. Pure.

That a topology was established a list does not show once it is gone, and the shutdown timeout of a canceled run was
fixed at the cancel (contract §4.1).
"""

from collections.abc import Container, Iterable, Iterator
from datetime import datetime

from exeunt.events.event_types import EventType
from exeunt.run.cancellations import Cancellation, attempt_of
from exeunt_watcher.commands import Recall, Recalled
from exeunt_watcher.known import Key
from exeunt_watcher.projection import SEEN, Projection


class Recalls:
    """Of the runs that `projection` knows, which is told what comes back."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._waiting: dict[Key, tuple[str, set[EventType]]] = {}  # uid, and what is still to be answered

    def __contains__(self, key: Key) -> bool:
        """Whether the run waits for an answer."""
        return key in self._waiting

    def any_in(self, namespaces: Container[str | None]) -> bool:
        """Whether runs in these namespaces wait. Health asks from outside of the machine's turn."""
        return any(None in namespaces or namespace in namespaces for namespace, _ in list(self._waiting))

    def ask(self, runs: Iterable[Key], now: datetime) -> Iterator[Recall]:
        """What is to be known of these, which are new; they wait from now on."""
        for key in runs:
            if self._is_on(key):
                continue
            seen = self._projection.peek(key, now)
            if seen is None or not (seen.realtime or seen.story.resource_version is None):
                continue
            asked = set()
            if seen.topology.established:
                self._projection.remember(seen.run.attempt_key, SEEN)
            else:
                asked.add(EventType.TOPOLOGY_ESTABLISHED)
            if seen.run.cancel_requested:
                asked.add(EventType.CANCEL_REQUESTED)
            if asked:
                self._waiting[key] = seen.run.uid, asked
                yield from (Recall(event_type, seen) for event_type in sorted(asked))

    def _is_on(self, key: Key) -> bool:
        """Whether the run is not canceled and streams, so that there is nothing to be recalled: most are."""
        run = self._projection.run(key)
        if run is None or run.spec.cancel_requested or not self._projection.streams(key):
            return False
        meta = run.metadata
        self._projection.remember(Cancellation(*meta.key, meta.uid, attempt_of(meta.annotations)), SEEN)
        return True

    def answered(self, answer: Recalled) -> Key | None:
        """The run, if it waits for no other answer.

        One that could not be had at first may come late, with the topology that was; the run has been told with another
        timeout by then, which stays. So does that its Story is not there: whether it was opted out then nobody knows.
        """
        asked, stored = answer.asked.event_type, answer.snapshot
        run = answer.asked.snapshot.run
        uid, waiting = self._waiting.get(key := (run.namespace, run.name), ("", set()))
        if uid == run.uid and asked in waiting:
            waiting.discard(asked)
            if stored is not None and asked is EventType.CANCEL_REQUESTED:
                self._projection.fix(stored)
        elif stored is None or not self._was_told_with_its_story(key, run.uid):
            return None
        if stored is not None and asked is EventType.CANCEL_REQUESTED:
            self._projection.remember(stored.run.attempt_key, stored.topology)
        elif stored is not None:
            self._projection.remember(run.attempt_key, SEEN)
        if waiting:
            return None
        self._waiting.pop(key, None)
        return key

    def _was_told_with_its_story(self, key: Key, uid: str) -> bool:
        last = self._projection.snapshot(key)
        return last is not None and last.run.uid == uid and last.story.resource_version is not None

    def forget(self, key: Key) -> None:
        """There is no such run any more, or it need not wait."""
        self._waiting.pop(key, None)
