"""Lists and watches, as `exeunt.kube.list_watch` follows them: each at its own pace, broken and listed anew, and so
behind the others and blind to what came and went in between (ADR 22).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from core.objects import NAMESPACE
from exeunt.kube.changes import Change, Changed, Missing, Page, Removed
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS, Resource
from exeunt.run import bobrapet
from exeunt.run.models import KubeObject, StepRun, StoryRun
from exeunt_watcher.commands import GetRun, Input, Restored, RunRead, Seen
from simulation.apiserver import BINDING, STEP_RUN, STORY, STORY_RUN, ApiServer
from simulation.apiserver import Change as Written
from simulation.faults import Fault
from simulation.processes import Process

RESOURCES: Final[dict[str, Resource[Any]]] = {
    STORY: STORIES,
    BINDING: TRANSPORT_BINDINGS,
    STEP_RUN: STEP_RUNS,
    STORY_RUN: STORY_RUNS,
}
_SELDOM: Final = 0.3
"""How many of the events break a watch while watches break."""
_PAGED: Final = 0.5
"""How many of the lists, and of what is left of one, come page by page."""
_LONGEST_DELAY: Final = 10.0


class Watches:
    """All that a watcher sees of the cluster; `hear` is told."""

    def __init__(self, api: ApiServer, process: Process, hear: Callable[[Input], None]) -> None:
        self._api = api
        self._process = process
        self._hear = hear
        self._watches: dict[str, Watch] = {}
        self._begin()

    def _begin(self) -> None:
        self._watches = {
            kind: Watch(self._api, self._process, kind, partial(self._seen, resource), self._restored)
            for kind, resource in RESOURCES.items()
        }

    def _seen(self, resource: Resource[Any], change: Change[Any]) -> None:
        self._hear(Seen(resource, None, change))

    def _restored(self) -> None:
        self.end()
        self._hear(Restored())
        self._begin()

    def wake(self, change: Written) -> None:
        """There is something new."""
        self._watches[change.kind].wake()

    def story_version(self, name: str) -> str | None:
        """At which the Story was shown last; None for one that is not there."""
        return self._watches[STORY].version_of((NAMESPACE, name))

    def break_off(self) -> None:
        for watch in self._watches.values():
            watch.break_off()

    def end(self) -> None:
        for watch in self._watches.values():
            watch.ended = True

    def get_run(self, asked: GetRun) -> None:
        """Read a run, until it is answered."""
        _, name = asked.key
        self._api.ask(
            self._process, lambda: self._api.run(name), partial(self._got, asked), lambda _: Fault.UNAVAILABLE
        )

    def _got(self, asked: GetRun, run: StoryRun | Fault | None) -> None:
        if isinstance(run, Fault):
            self._process.later(self._api.clock.little(0.2, 2), partial(self.get_run, asked))
        else:
            self._hear(RunRead(asked, run))


class Watch:
    """`hand` takes one change after another; `rewound` is told when history went back."""

    def __init__(
        self,
        api: ApiServer,
        process: Process,
        kind: str,
        hand: Callable[[Change[Any]], None],
        rewound: Callable[[], None],
    ) -> None:
        self._api = api
        self._process = process
        self._kind = kind
        self._hand = hand
        self._rewound = rewound
        self._known: dict[tuple[str, str], tuple[str, int]] = {}
        self._latest = 0
        self._position: int | None = None  # in the changes of its kind; None while it has to list
        self._failures = 0
        self._lag = api.clock.little(0.001, 0.3)
        self._listing: object | None = None  # the list that is on its way
        self._busy = False
        self.ended = False
        process.later(api.clock.little(0.001, 0.1), self._list)

    def _list(self) -> None:
        if self.ended:
            return
        api, process = self._api, self._process
        troubles = api.troubles
        if troubles.strikes(process.name, Fault.NO_API, Fault.UNAVAILABLE, Fault.FORBIDDEN, Fault.EXPIRED):
            self._failures += 1
            self._retry()
            return
        slow = troubles.strikes(process.name, Fault.SLOW_LIST)
        self._listing = listing = object()
        api.clock.after(
            api.clock.little(0.001, 0.05), partial(self._serve_list, listing, api.clock.little(1, 10) if slow else 0.01)
        )

    def _serve_list(self, listing: object, delay: float) -> None:
        api = self._api
        items = [item for item in api.objects[self._kind].values() if not _is_finished(item)]
        position = len(api.changes[self._kind])
        self._process.later(delay, partial(self._listed, listing, items, api.version, position))

    def _listed(self, listing: object, items: list[KubeObject], version: int, position: int) -> None:
        if self.ended or self._listing is not listing:
            return
        listed = {item.metadata.key: (item.metadata.uid, int(item.metadata.resource_version)) for item in items}
        older = version < self._latest
        for key, (uid, known) in self._known.items():
            now = listed.get(key, ("", 0))
            older |= now[0] == uid and now[1] < known
        if older:
            self._api.clock.happened["history went back"] += 1
            self._rewound()
            return
        self._api.clock.happened["a kind was listed anew" if self._known else "a kind was listed"] += 1
        self._latest = version
        self._hand_over(listing, items, 0, position)

    def _hand_over(self, listing: object, items: list[KubeObject], begun: int, position: int) -> None:
        """A page, or all that is left. A list may break off behind each page, and other watches go on meanwhile."""
        if self.ended or self._listing is not listing:
            return
        chance = self._api.clock.chance
        end = chance.randint(begun, len(items)) if chance.random() < _PAGED else len(items)
        news, missing = [], []
        for item in items[begun:end]:
            key, now = item.metadata.key, (item.metadata.uid, int(item.metadata.resource_version))
            known = self._known.get(key)
            if known != now:
                news.append(item)
            if known is not None and known[0] != now[0]:
                missing.append(Missing(key, known[0]))
            self._known[key] = now
        if end < len(items):
            self._api.clock.happened["a page was listed"] += 1
            self._hand(Page(news, tuple(missing), complete=False))
            if chance.random() < _SELDOM:
                self.break_off()
            else:
                self._process.later(
                    self._api.clock.little(0.001, 2), partial(self._hand_over, listing, items, end, position)
                )
            return
        there = {item.metadata.key for item in items}
        gone = [key for key in self._known if key not in there]
        missing += [Missing(key, self._known.pop(key)[0]) for key in gone]
        self._failures, self._position, self._listing = 0, position, None
        self._hand(Page(news, tuple(missing)))
        self.wake()

    def wake(self) -> None:
        """There is something new."""
        if self._position is None or self._busy or self.ended:
            return
        self._busy = True
        slow = self._api.troubles.strikes(self._process.name, Fault.SLOW_WATCH)
        self._process.later(self._api.clock.little(1, 6) if slow else self._lag, self._read)

    def _read(self) -> None:
        self._busy = False
        if self._position is None or self.ended:
            return
        api = self._api
        if (
            api.troubles.strikes(self._process.name, Fault.NO_API, Fault.WATCH_BROKEN, Fault.EXPIRED)
            and api.clock.chance.random() < _SELDOM
        ):
            self.break_off()
            return
        changes = api.changes[self._kind]
        if self._position >= len(changes):
            return
        change = changes[self._position]
        self._position += 1
        self._latest = change.version
        key = change.object.metadata.key
        if change.gone:
            self._known.pop(key, None)
            self._hand(Removed(change.object))
        else:
            self._known[key] = change.object.metadata.uid, change.version
            self._hand(Changed(change.object))
        self.wake()

    def version_of(self, key: tuple[str, str]) -> str | None:
        known = self._known.get(key)
        return str(known[1]) if known else None

    def break_off(self) -> None:
        """The watch, or the list that is on its way, ends before its time: what follows is a list."""
        if self._position is not None or self._listing is not None:
            self._position = self._listing = None
            self._retry()

    def _retry(self) -> None:
        longest = min(_LONGEST_DELAY, 0.25 * 2**self._failures)
        self._process.later(self._api.clock.little(longest / 2, longest), self._list)


def _is_finished(item: KubeObject) -> bool:
    return isinstance(item, StoryRun | StepRun) and item.status is not None and bobrapet.is_terminal(item.status.phase)
