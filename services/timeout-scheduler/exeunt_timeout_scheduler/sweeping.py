"""What a sweep looks at, as a machine: what was listed in, which runs to look after out. Pure.

Where several namespaces are watched, one that may not be listed, or that fails while another is listed, does not keep
the sweep from the others; the next one asks it again.
"""

from msgspec import Struct

from exeunt.run.models import StoryRun


class Listed(Struct, frozen=True):
    """Unfinished runs of a namespace: a page of its list, which has as many as it takes."""

    runs: tuple[StoryRun, ...]


class NotListed(Struct, frozen=True):
    """They could not be listed; `away`: for want of an answer."""

    why: str
    away: bool


class List(Struct, frozen=True):
    """List the unfinished runs of the namespace, None for all of them: Listed for each page, or NotListed, also
    half-way. `patiently`: try again.
    """

    namespace: str | None
    patiently: bool


class LookAfter(Struct, frozen=True):
    """Look after the run (`machine`)."""

    run: StoryRun


class GiveUp(Struct, frozen=True):
    """The kube-apiserver is away: each run would wait for the same."""

    why: str


class Sweeping:
    """One sweep. Each List is answered, in any order."""

    def __init__(self, namespaces: tuple[str, ...]) -> None:
        self._namespaces = namespaces
        self._listed = False

    def begin(self) -> tuple[List, ...]:
        patiently = len(self._namespaces) <= 1
        return tuple(List(namespace, patiently) for namespace in self._namespaces or (None,))

    def receive(self, heard: Listed | NotListed) -> tuple[LookAfter | GiveUp, ...]:
        match heard:
            case Listed(runs):
                self._listed = True
                return tuple(LookAfter(run) for run in runs if run.spec.cancel_requested)
            case NotListed(why, away):
                return (GiveUp(why),) if away and not self._listed else ()
