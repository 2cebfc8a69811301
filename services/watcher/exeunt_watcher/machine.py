"""One watcher, as a machine: what it sees and hears in, what to publish and to read out. Pure.

Nothing is published of a namespace before every kind in it has been listed once and every signal heard, because a list
that has not come yet looks like "gone"; and nothing of a run that was listed before it is known what the stream
remembers of it: that its topology was established, which a list does not show once it is gone, and the shutdown timeout
of a canceled run, which was fixed at the cancel (contract §4.1). From then on each change is projected and what begins
to hold is published; and what holds of unfinished stops is offered again at a sweep, unless it is known that the stream
has it, and whenever it may have lost it, which refuses what it has (`offers`). So a lost event, a lost stream or a lost
process costs time, never a stop.

Only that a run has ended, or is deleted, is published whatever else it waits for: NATS may be away for minutes, and the
next that is seen of the run may be another attempt, or another run of its name.

StepRuns that are left of a run that is not known as unfinished are looked after as well: where Exeunt turns out to have
ended the run, that is published, too (`strays`, ADR 15). When the cluster is found to be as it was before, because etcd
was restored from a backup, the watcher starts over, as a new process would.

Lists come page by page, and other watches go on meanwhile: what a page takes away from a run waits for the last one.
What time alone changes is looked at when it is due (`agenda`).
"""

from collections.abc import Callable, Container, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from msgspec.structs import replace

from exeunt.events.event_types import EventType
from exeunt.kube.changes import Change, Changed, Missing, Page, Removed
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS, Resource
from exeunt.run.bobrapet import UNFINISHED, is_terminal
from exeunt.run.models import Story, StoryRun
from exeunt.run.snapshot import Snapshot
from exeunt_watcher.agenda import Agenda
from exeunt_watcher.commands import (
    AllSignalsHeard,
    AlreadyStored,
    Answer,
    Command,
    Covered,
    GetRun,
    GetStream,
    Input,
    MessageAt,
    MessageRead,
    Publish,
    Recalled,
    Refused,
    Restored,
    RunRead,
    RunUndecodable,
    Seen,
    SignalHeard,
    Stored,
    StreamRead,
    Tick,
)
from exeunt_watcher.event_types import event_types_between, holds, leaves_step_runs, standing
from exeunt_watcher.known import Key, Left
from exeunt_watcher.lateness import Lateness, Pending
from exeunt_watcher.offers import AT_ONCE, Offers
from exeunt_watcher.projection import Projection
from exeunt_watcher.recalls import Recalls
from exeunt_watcher.signals_heard import SignalsHeard
from exeunt_watcher.strays import Strays

RESOURCES: Final[tuple[Resource[Any], ...]] = (STORIES, TRANSPORT_BINDINGS, STEP_RUNS, STORY_RUNS)
"""What is watched, in every namespace."""


def selector(resource: Resource[Any]) -> str | None:
    """The field selector of a list: what has finished is not read. Watches have none (ADR 14)."""
    return UNFINISHED if resource in (STEP_RUNS, STORY_RUNS) else None


class Watching:
    """Watches one cluster, or some of its namespaces; `namespaces` is (None,) for all of them."""

    def __init__(
        self,
        namespaces: Iterable[str | None],
        *,
        default_timeout: timedelta,
        fence_wait: timedelta,
        heartbeats_stale_after: timedelta | None,
        sweep_interval: timedelta,
        second_look: timedelta,
    ) -> None:
        self.signals_heard = False
        self._namespaces = tuple(namespaces)
        self._sweep_interval = sweep_interval
        self._second_look = second_look
        self._swept_at: datetime | None = None
        self._new_projection = partial(
            Projection,
            default_timeout=default_timeout,
            fence_wait=fence_wait,
            heartbeats_stale_after=heartbeats_stale_after,
            signals=SignalsHeard(),
        )
        self._start_over()

    def _start_over(self) -> None:
        """Know nothing of the cluster. Signals are not part of it."""
        self._projection = known = self._new_projection()
        self._kinds: dict[Resource[Any], tuple[Callable[[Any], list[Key]], Callable[[Key], list[Key]]]] = {
            STORIES: (known.story, known.story_gone),
            TRANSPORT_BINDINGS: (known.binding, known.binding_gone),
            STEP_RUNS: (known.step_run, known.step_run_gone),
        }
        self._lateness = Lateness()
        self._strays = Strays(self._second_look)
        self._agenda = Agenda()
        self._offers = Offers()
        self._unpublished: dict[Key, None] = {}  # runs whose topology was up when they were listed
        self._looking = False  # how the stream is has been asked, and not been answered yet
        self._held_back = {
            (namespace, kind): dict[Key, Any]()
            for namespace in self._namespaces
            for kind in (STEP_RUNS, TRANSPORT_BINDINGS)
        }
        self._unlisted = {namespace: set(RESOURCES) for namespace in self._namespaces}
        self._uncovered = set(self._namespaces)
        self._recalls = Recalls(known)
        self._reading: dict[Key, str] = {}  # uid of a run that a list left out
        self._over: set[Key] = set()  # runs that had ended before their namespace was spoken for: that is no news

    def receive(self, heard: Input, now: datetime) -> list[Command]:
        """What to do, after what was heard at `now`."""
        return list(self._hear(heard, now))

    def _hear(self, heard: Input, now: datetime) -> Iterator[Command]:
        match heard:
            case Seen(resource, namespace, change):
                if resource == STORY_RUNS:
                    yield from self._see_run(change, now)
                else:
                    yield from self._see(resource, namespace, change, now)
                if isinstance(change, Page) and change.complete:
                    self._unlisted[namespace].discard(resource)
                    yield from self._cover(namespace, now)
            case Restored():
                self._start_over()
            case SignalHeard(signal):
                yield from self._touched(self._projection.signal(signal), now)
            case AllSignalsHeard(stream):
                self.signals_heard = True
                self._offers.look(stream)
                for namespace in self._namespaces:
                    yield from self._cover(namespace, now)
            case Tick():
                yield from self._tick(now)
            case _:
                yield from self._answered(heard, now)

    # What is answered.

    def _answered(self, heard: Answer, now: datetime) -> Iterator[Command]:
        match heard:
            case Recalled():
                yield from self._recalled(heard, now)
            case RunRead(GetRun(key, left=left), run) if left:
                yield from self._look_after(key, left, run, now)
            case RunRead() | RunUndecodable():
                yield from self._have_read(heard, now)
            case Stored() | AlreadyStored():
                yield from self._stored(heard)
            case MessageRead(MessageAt(sequence, asked), stored):
                yield from self._compare(asked, stored, sequence)
            case StreamRead(_, stream):
                self._looking = False
                self._offers.look(stream)
                yield from self._offer()
            case Refused():
                pass

    def _have_read(self, heard: RunRead | RunUndecodable, now: datetime) -> Iterator[Command]:
        """The run that a list left out."""
        key, uid = heard.asked.key, heard.asked.uid
        if uid is None or self._reading.get(key) != uid:
            return  # the watch has shown more of it by now
        del self._reading[key]
        if isinstance(heard, RunUndecodable):
            self._forget(key)  # until the watch shows one that is not
        elif heard.run is None or heard.run.metadata.uid != uid:
            yield from self._deleted(key, uid, now)
        elif _has_ended(heard.run):
            yield from self._take(heard.run, now)
            yield from self._touched([key], now)
        else:
            self._forget(key)  # redriven since then, which the watch is about to show

    def _look_after(self, key: Key, left: Iterable[Left], run: StoryRun | None, now: datetime) -> Iterator[Command]:
        """What was left before the run was read, and is still, belongs to the attempt that was read, or to one before
        it.
        """
        if run is None or self._projection.uid(key) is not None:
            return
        still = self._projection.left(key, run.metadata.uid)
        ended = self._projection.ended(run, [each for each in left if each in still], now)
        if leaves_step_runs(ended) and ended.step_runs != ():
            yield Publish(EventType.STEP_RUNS_LEFT, ended)

    def _stored(self, heard: Stored | AlreadyStored) -> Iterator[Command]:
        """What is stored in the place of an event need not say all that it would have said."""
        asked, run = heard.asked, heard.asked.snapshot.run
        if asked.sweep == self._offers.sweep:
            self._offers.stored((run.namespace, run.name), asked.event_type, heard.sequence)
        if asked.event_type is EventType.CANCEL_REQUESTED:
            may_say_less = asked.snapshot.topology.gone is not None
        else:
            may_say_less = asked.event_type is EventType.STEP_RUNS_LEFT and asked.after == 0
        if isinstance(heard, AlreadyStored) and may_say_less:
            yield MessageAt(heard.sequence, asked)

    def _compare(self, asked: Publish, stored: Snapshot | None, sequence: int) -> Iterator[Command]:
        """With what is stored in its place, at that sequence."""
        if asked.event_type is EventType.STEP_RUNS_LEFT:
            if not _names_all(stored, asked.snapshot):
                yield replace(asked, after=sequence)
        elif stored is None or stored.topology.gone is None:  # whoever was first did not know that
            yield Publish(EventType.TOPOLOGY_TERMINATED, asked.snapshot)

    # What is seen.

    def _see(
        self, resource: Resource[Any], namespace: str | None, change: Change[Any], now: datetime
    ) -> Iterator[Command]:
        """What belongs to runs has changed."""
        take, drop = self._kinds[resource]
        match change:
            case Page(items, missing, complete):
                held_back = self._held_back.get((namespace, resource), {})
                if not complete:
                    items = self._hold_back(items, held_back)
                touched = [drop(gone.key) for gone in missing]  # first, since a name may be in use again
                touched += [take(item) for item in items]
                if complete:
                    touched += [take(item) for item in held_back.values()]
                    held_back.clear()
                yield from self._touched(dict.fromkeys(chain.from_iterable(touched)), now)
            case Changed(item):
                yield from self._touched(take(item), now)
            case Removed(item):
                yield from self._touched(drop(item.metadata.key), now)
            case Missing(key):
                yield from self._touched(drop(key), now)

    def _hold_back(self, items: Iterable[Any], held_back: dict[Key, Any]) -> list[Any]:
        """Those of a page that take nothing away. The others wait for the rest of the list: what has come in the place
        of a binding that is gone, say, may be there, and a run without either is one that there never was.
        """
        taken = []
        for item in items:
            held_back.pop(item.metadata.key, None)
            if not isinstance(item, Story) and self._projection.takes_away(item):
                held_back[item.metadata.key] = item
            else:
                taken.append(item)
        return taken

    def _see_run(self, change: Change[StoryRun], now: datetime) -> Iterator[Command]:
        match change:
            case Page(items, missing):
                listed = {run.metadata.key: run.metadata.uid for run in items}
                for gone in missing:  # finished, which the list leaves out, or deleted
                    if gone.key not in listed and self._projection.uid(gone.key) == gone.uid:
                        self._reading[gone.key] = gone.uid
                        yield GetRun(gone.key, gone.uid)
                fresh = [key for key, uid in listed.items() if self._projection.uid(key) != uid]
                for run in items:
                    yield from self._take(run, now)
                yield from self._recalls.ask((key for key in fresh if self._covers(key[0])), now)
                yield from self._touched(listed, now)
            case Changed(run):
                yield from self._take(run, now)
                yield from self._touched([run.metadata.key], now)
            case Removed(run):
                yield from self._deleted(run.metadata.key, run.metadata.uid, now)
            case Missing(key, uid):
                yield from self._deleted(key, uid, now)

    def _take(self, run: StoryRun, now: datetime) -> Iterator[Command]:
        key = run.metadata.key
        self._reading.pop(key, None)
        known = self._projection.uid(key)
        if known not in (None, run.metadata.uid):
            yield from self._deleted(key, known, now)
        if not _has_ended(run):
            self._over.discard(key)
        elif self._projection.uid(key) is None and not self._covers(key[0]):
            self._over.add(key)
        self._projection.story_run(run)
        if known == run.metadata.uid:
            yield from self._end_of_waiting(key, now)

    def _end_of_waiting(self, key: Key, now: datetime) -> Iterator[Command]:
        """The run need not be projected yet: it waits for what the stream remembers, which takes as long as NATS is
        away, or its namespace is not spoken for. If it has ended, that is published at once, since the next that is
        seen of it may be another attempt. What only the stream knows to be realtime waits for it all the same.
        """
        covered = self._covers(*self._projection.namespaces(key))
        if (covered and key not in self._recalls) or key in self._over:
            return
        ended = self._projection.peek(key, now)
        if ended is not None and holds(EventType.RUN_TERMINAL, ended):
            yield Publish(EventType.RUN_TERMINAL, ended)
            self._recalls.forget(key)
            if not covered:
                self._forget(key)

    def _deleted(self, key: Key, uid: str, now: datetime) -> Iterator[Command]:
        if self._projection.uid(key) not in (None, uid):
            return  # the news of an older run of this name
        waiting = None if key in self._over else self._projection.peek(key, now)
        last = self._forget(key) or waiting
        if last is not None and last.realtime:
            yield Publish(EventType.RUN_TERMINAL if last.run.terminal else EventType.RUN_DELETED, last)

    def _forget(self, key: Key) -> Snapshot | None:
        """Know the run no more; its last snapshot, if it had one."""
        self._reading.pop(key, None)
        self._over.discard(key)
        self._recalls.forget(key)
        self._lateness.forget(key)
        self._offers.forget(key)
        self._unpublished.pop(key, None)
        self._agenda.set(key, None)
        return self._projection.run_gone(key)

    # Whether what is known is all there is: every kind is listed, and what the stream remembers is recalled.

    def _covers(self, *namespaces: str) -> bool:
        """Whether what is known of all of these is all there is; of one that is not watched nothing ever will be."""
        return self._uncovered.isdisjoint((None, *namespaces))

    def _cover(self, namespace: str | None, now: datetime) -> Iterator[Command]:
        """Speak for the namespace, once there is nothing that it lacks."""
        if namespace not in self._uncovered or self._unlisted[namespace] or not self.signals_heard:
            return
        self._uncovered.discard(namespace)
        known = self._projection
        runs = [key for key in known.known_runs() if namespace in (None, key[0])]
        yield Covered(namespace, len(runs))
        yield from self._recalls.ask((key for key in runs if key not in self._over), now)
        # Runs elsewhere may have waited for Stories that are here.
        touched = [key for key in known.known_runs() if namespace in (None, *known.namespaces(key))]
        touched += [key for key in known.named() if namespace in (None, key[0]) and known.uid(key) is None]
        yield from self._touched(touched, now, listed=True)
        yield from self._publish_some()

    def _recalled(self, answer: Recalled, now: datetime) -> Iterator[Command]:
        key = self._recalls.answered(answer)
        if key is None:
            return
        ended = self._projection.peek(key, now)
        if ended is not None and holds(EventType.RUN_TERMINAL, ended):  # it was unfinished when it was listed
            yield Publish(EventType.RUN_TERMINAL, ended)
        yield from self._touched([key], now)

    # What is published.

    def _touched(self, runs: Iterable[Key], now: datetime, *, listed: bool = False) -> Iterator[Command]:
        """Project these runs, and publish what begins to hold; of those that are not there see what is left. What is
        `listed` at a start need not all be published at once.
        """
        for key in runs:
            if key in self._recalls or not self._covers(*self._projection.namespaces(key)):
                continue
            projected = self._projection.project(key, now)
            if projected is None or projected[1].run.terminal:
                ended = projected[1].run.uid if projected else None
                left = self._projection.left(key, ended or self._strays.run_uid(key))
                self._strays.see(key, left, now, ended=ended)
            else:
                self._strays.forget(key)
            if projected is not None:
                previous, current = projected
                late = self._lateness.see(previous, current, now)
                self._agenda.set(key, self._projection.changes_at(current, now))
                begun = event_types_between(previous, current)
                if listed and begun == [EventType.TOPOLOGY_ESTABLISHED] and not current.run.cancel_requested:
                    self._unpublished[key] = None
                    continue
                if previous is not None and key in self._unpublished:
                    del self._unpublished[key]
                    yield Publish(EventType.TOPOLOGY_ESTABLISHED, previous)
                if current.run.terminal:
                    self._over.discard(key)
                    self._offers.forget(key)
                elif begun and current.run.cancel_requested:
                    self._offers.begun(key, begun, standing(current))
                sweep = self._offers.sweep
                for event_type in begun:
                    yield Publish(event_type, current, late if event_type is EventType.RUN_TERMINAL else None, 0, sweep)

    def _tick(self, now: datetime) -> Iterator[Command]:
        """Look again at what time alone changes, and at every sweep see whether the stream has what holds."""
        yield from self._touched(self._agenda.due(now), now)
        for key in self._strays.due(now):
            yield GetRun(key, None, self._projection.left(key, self._strays.run_uid(key)))
        yield from self._offer()
        yield from self._publish_some()
        if self._swept_at is not None and timedelta(0) <= now - self._swept_at < self._sweep_interval:
            return
        if self._swept_at is not None:
            yield from self._touched(self._projection.forget(now), now)
            if self._offers and not self._looking:
                self._looking = True
                self._offers.ask()
                yield GetStream()
        self._swept_at = now

    def _publish_some(self) -> Iterator[Command]:
        """That topologies are up, a share at a time: of most of them the stream knows, and a stop that comes at the
        start of a watcher with ten thousand calls shall not wait for all of them.
        """
        for key in list(islice(self._unpublished, AT_ONCE)):
            del self._unpublished[key]
            snapshot = self._projection.snapshot(key)
            if snapshot is not None:
                yield Publish(EventType.TOPOLOGY_ESTABLISHED, snapshot)

    def _offer(self) -> Iterator[Command]:
        """Offer all that holds of stops of which the stream may lack something."""
        for key in self._offers.some():
            snapshot = self._projection.snapshot(key)
            events = [] if snapshot is None else standing(snapshot)
            self._offers.offered(key, events)
            if snapshot is not None:
                yield from (Publish(event_type, snapshot, sweep=self._offers.sweep) for event_type in events)

    # What can be asked, for health and metrics.

    @property
    def live(self) -> bool:
        """Whether some namespace is covered, so that events are published."""
        return len(self._uncovered) < len(self._namespaces)

    def recalls(self, namespaces: Container[str | None]) -> bool:
        """Whether runs in these namespaces wait for what the stream remembers of them."""
        return self._recalls.any_in(namespaces)

    def pending(self) -> Pending:
        """The stops that are under way."""
        return self._lateness.pending()

    def peek(self, key: Key, now: datetime) -> Snapshot | None:
        """The run as of now; None when no such run is known, or it has ended."""
        return self._projection.peek(key, now)


def _has_ended(run: StoryRun) -> bool:
    return run.status is not None and is_terminal(run.status.phase)


def _names_all(stored: Snapshot | None, wanted: Snapshot) -> bool:
    """Whether the event that is stored names all the StepRuns that another one would name."""
    if stored is None:
        return False
    return stored.step_runs is None or set(wanted.step_runs or ()) <= set(stored.step_runs)
