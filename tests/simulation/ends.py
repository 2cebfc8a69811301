"""The ends of canceled runs that a watcher was shown: each of them it has to publish."""

from exeunt.events.event_types import EventType
from exeunt.events.subjects import event_subject
from exeunt.kube.changes import Changed, Page
from exeunt.kube.resources import STORY_RUNS
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation, attempt_of, cancel_observed_at_of, token_of
from exeunt.run.models import StoryRun
from exeunt_watcher.commands import Input, Restored, RunRead, Seen
from exeunt_watcher.known import Key
from simulation.people import STORIES


class Ends:
    """Of one process, from its start on. `subjects`: on which they have to be in the stream."""

    def __init__(self) -> None:
        self.subjects: set[str] = set()
        self._unfinished: dict[Key, str] = {}  # uid

    def hear(self, heard: Input) -> None:
        """Take in what the watcher is told, before it is."""
        match heard:
            case Seen(resource, _, Page(items)) if resource == STORY_RUNS:
                self._unfinished |= {run.metadata.key: run.metadata.uid for run in items}
            case Seen(resource, _, Changed(run)) if resource == STORY_RUNS:
                self._show(run)
            case RunRead(_, StoryRun() as run):
                self._show(run)
            case Restored():
                self._unfinished.clear()
            case _:
                pass

    def _show(self, run: StoryRun) -> None:
        meta, phase = run.metadata, run.status.phase if run.status else None
        if not bobrapet.is_terminal(phase):
            self._unfinished[meta.key] = meta.uid
        elif self._unfinished.pop(meta.key, None) == meta.uid and run.spec.cancel_requested:
            token = token_of(cancel_observed_at_of(meta.annotations), attempt_of(meta.annotations))
            if STORIES[run.spec.story_ref.name][0] == "realtime":
                self.subjects.add(event_subject(Cancellation(*meta.key, meta.uid, token), EventType.RUN_TERMINAL))
