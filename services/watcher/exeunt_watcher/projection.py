"""The watched objects, joined into one snapshot for each run. Pure: no I/O; objects and the time come in as values.

Indexed as the contract relates them: StepRuns by the name of their run (§3.1: the label is not the name, the ownerRef
may be missing), bindings by the uid of their run (§3.2), runs by their Story (§4.1) and their trigger token. Only live
StepRuns and bindings are kept: finished history costs nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from exeunt.clock import parse_instant
from exeunt.events.signals import Signal
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation, attempt_of
from exeunt.run.models import StepRun, Story, StoryRun, TransportBinding
from exeunt.run.snapshot import Snapshot, StepRunRef, Topology, read_run, read_story, resolve_shutdown, story_key
from exeunt_watcher.signals_heard import SignalsHeard
from exeunt_watcher.topology import LiveBinding, Seen, judge

Key = tuple[str, str]
"""Namespace and name."""

SEEN: Final = Topology(established=True, step_runs_seen=True)
"""What is known of an attempt in which a TransportBinding was seen."""

K = TypeVar("K")


class Left(NamedTuple):
    """A StepRun that names a run, and the uid of the StoryRun that owns it, where one does."""

    step_run: StepRunRef
    owner: str | None


class Projection:
    """All that is known, and the last snapshot of every unfinished run."""

    def __init__(
        self,
        *,
        default_timeout: timedelta,
        fence_wait: timedelta,
        heartbeats_stale_after: timedelta | None,
        signals: SignalsHeard | None = None,
    ) -> None:
        """`signals` were heard by another projection."""
        self._default_timeout = default_timeout
        self._fence_wait = fence_wait
        self._stale_after = heartbeats_stale_after
        self._runs: dict[Key, StoryRun] = {}
        self._stories: dict[Key, Story] = {}
        self._runs_of_story: defaultdict[Key, dict[Key, None]] = defaultdict(dict)  # a set in the order of its making
        self._step_runs: defaultdict[Key, dict[Key, tuple[StepRunRef, str | None]]] = defaultdict(dict)
        self._run_of_step_run: dict[Key, Key] = {}
        self._bindings: defaultdict[str, dict[Key, LiveBinding]] = defaultdict(dict)
        self._run_of_binding: dict[Key, Cancellation] = {}  # its attempt when the binding was first seen
        self._snapshots: dict[Key, Snapshot] = {}
        self._remembered: dict[str, tuple[Cancellation, Topology]] = {}
        self._strangers: set[str] = set()  # remembered at the last sweep, though no such run was known
        self._fixed: dict[str, Snapshot] = {}
        self._runs_of_token: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._signals = signals or SignalsHeard()

    # Each method below takes in one object and answers with the keys of the runs that it may have changed.

    def story_run(self, run: StoryRun) -> list[Key]:
        key = run.metadata.key
        known = self._runs.get(key)
        if known is not None and known.metadata.uid != run.metadata.uid:
            self.run_gone(key)  # deleted and created again, between two lists
        elif known is not None:
            self._unindex(known)
        self._runs[key] = run
        self._runs_of_story[story_key(run)][key] = None
        if token := run.metadata.annotations.get(bobrapet.TRIGGER_TOKEN):
            self._runs_of_token[token][key] = None
        return [key]

    def story(self, story: Story) -> list[Key]:
        self._stories[story.metadata.key] = story
        return list(self._runs_of_story.get(story.metadata.key, ()))

    def story_gone(self, key: Key) -> list[Key]:
        self._stories.pop(key, None)
        return list(self._runs_of_story.get(key, ()))

    def step_run(self, step_run: StepRun) -> list[Key]:
        meta = step_run.metadata
        run = (meta.namespace, step_run.spec.story_run_ref.name)
        phase = step_run.status.phase if step_run.status else None
        if bobrapet.is_terminal(phase) or meta.deletion_timestamp:
            return self.step_run_gone(meta.key)
        before = self.step_run_gone(meta.key)  # an update may have moved it to another run
        owner = next((owner.uid for owner in meta.owner_references if owner.kind == "StoryRun"), None)
        self._step_runs[run][meta.key] = (StepRunRef(meta.name, meta.uid), owner)
        self._run_of_step_run[meta.key] = run
        return [run, *(other for other in before if other != run)]

    def step_run_gone(self, key: Key) -> list[Key]:
        """Finished, being deleted, deleted, or missing from a list of the unfinished: not live in any case."""
        run = self._run_of_step_run.pop(key, None)
        if run is None:
            return []
        self._step_runs[run].pop(key, None)
        if not self._step_runs[run]:
            del self._step_runs[run]
        return [run]

    def binding(self, binding: TransportBinding) -> list[Key]:
        meta, ref = binding.metadata, binding.spec.story_run_ref
        known = self._run_of_binding.get(meta.key)
        before = self.binding_gone(meta.key)  # an update may have moved it to another run
        if meta.deletion_timestamp or ref is None or ref.uid is None or ref.name is None:
            return before  # of no run, so evidence for or against none (contract §3.6)
        run = (ref.namespace or meta.namespace, ref.name)
        owner = next((owner for owner in meta.owner_references if owner.kind == "StepRun"), None)
        ready = next((c for c in (binding.status.conditions if binding.status else ()) if c.type == "Ready"), None)
        self._bindings[ref.uid][meta.key] = LiveBinding(
            step_run=StepRunRef(owner.name, owner.uid) if owner else None,
            heartbeat=ready.last_transition_time if ready else None,
        )
        if known is None or known.uid != ref.uid:
            known = Cancellation(*run, ref.uid, self._life(run, ref.uid))
        self._run_of_binding[meta.key] = known
        return [run, *(other for other in before if other != run)]

    def binding_gone(self, key: Key) -> list[Key]:
        attempt = self._run_of_binding.pop(key, None)
        if attempt is None:
            return []
        run, uid = (attempt.namespace, attempt.name), attempt.uid
        self._bindings[uid].pop(key, None)
        if not self._bindings[uid]:
            del self._bindings[uid]
        self.remember(attempt, SEEN)  # the run may not have been projected while it was there
        return [run]

    def _life(self, run: Key, uid: str) -> str:
        """The run's present attempt, as far as it is known; of one that is not, only its first can be shown for
        sure.
        """
        known = self._runs.get(run)
        return attempt_of(known.metadata.annotations) if known and known.metadata.uid == uid else bobrapet.FIRST_ATTEMPT

    # And these read it.

    def left(self, key: Key, run_uid: str | None) -> tuple[Left, ...]:
        """What would have to go with a run of this name: its live StepRuns, and those that own a live binding of the
        run with that uid, where it is known.
        """
        step_runs = {ref.uid: Left(ref, owner) for ref, owner in self._step_runs.get(key, {}).values()}
        for binding in self._bindings.get(run_uid or "", {}).values():
            if binding.step_run is not None:
                step_runs.setdefault(binding.step_run.uid, Left(binding.step_run, run_uid))
        return tuple(step_runs.values())

    def named(self) -> Iterable[Key]:
        """The runs that live StepRuns name."""
        return self._step_runs.keys()

    def ended(self, run: StoryRun, left: Iterable[Left], now: datetime) -> Snapshot:
        """A run that is known no more, with what is left of it. That Exeunt ended it shows that it streamed."""
        state = read_run(run, first_seen=now, now=now, fence_wait=self._fence_wait)
        story = self._stories.get(story_key(run))
        refs = tuple(ref for ref, owner in left if owner in (None, state.uid))
        return Snapshot(
            run=state,
            story=read_story(run, story),
            shutdown=resolve_shutdown(run, story, self._default_timeout),
            streams=state.ended_by_exeunt,
            step_runs=refs if len(refs) <= _MOST_STEP_RUNS else None,
        )

    def run_gone(self, key: Key) -> Snapshot | None:
        """Forget a run; its last snapshot, if it had one."""
        run = self._runs.pop(key, None)
        if run is not None:
            self._unindex(run)
            self._remembered.pop(run.metadata.uid, None)
            self._fixed.pop(run.metadata.uid, None)
        return self._snapshots.pop(key, None)

    def _unindex(self, run: StoryRun) -> None:
        _discard(self._runs_of_story, story_key(run), run.metadata.key)
        _discard(self._runs_of_token, run.metadata.annotations.get(bobrapet.TRIGGER_TOKEN, ""), run.metadata.key)

    def remember(self, attempt: Cancellation, topology: Topology) -> None:
        """What was seen in that attempt of a run; it counts for no other one."""
        known, before = self._remembered.get(attempt.uid, (attempt, Topology()))
        self._remembered[attempt.uid] = attempt, topology.with_memory(before) if known == attempt else topology

    def fix(self, published: Snapshot) -> None:
        """Give a canceled run the shutdown timeout that it had when its cancel was published, and, if it is missing by
        now, the Story.
        """
        self._fixed[published.run.uid] = published

    def signal(self, signal: Signal) -> list[Key]:
        """Somebody published something about the topology of one run, or of those that were started for a trigger
        token.
        """
        if not self._signals.take(signal):
            return []
        return [signal.run] if signal.run else list(self._runs_of_token.get(signal.trigger_token or "", ()))

    def forget(self, now: datetime) -> None:
        """Drop the signals that are too old to count, and what is remembered of runs that have not shown since then."""
        self._signals.forget(now)
        strangers = {
            uid for uid, (attempt, _) in self._remembered.items() if self.uid((attempt.namespace, attempt.name)) != uid
        }
        for uid in self._strangers & strangers:
            del self._remembered[uid]
        self._strangers = strangers - self._strangers

    def peek(self, key: Key, now: datetime) -> Snapshot | None:
        """The run's snapshot as of now, without taking it for published; None when no such run is known."""
        run = self._runs.get(key)
        return None if run is None else self._snapshot(run, self._snapshots.get(key), now)

    def project(self, key: Key, now: datetime) -> tuple[Snapshot | None, Snapshot] | None:
        """The run's previous snapshot and its new one, which becomes the previous; None when no such run is known.

        A run that has become terminal is forgotten with its last snapshot.
        """
        run = self._runs.get(key)
        if run is None:
            return None
        previous = self._snapshots.get(key)
        current = self._snapshot(run, previous, now)
        if current.run.terminal:
            self.run_gone(key)
        else:
            self._snapshots[key] = current
            if not current.run.redriving:
                self._remembered.pop(current.run.uid, None)
            self._fixed.pop(current.run.uid, None)
        return previous, current

    def _snapshot(self, run: StoryRun, previous: Snapshot | None, now: datetime) -> Snapshot:
        story = self._stories.get(story_key(run))
        state = read_run(run, first_seen=_first_seen(previous, run, now), now=now, fence_wait=self._fence_wait)
        before = previous.topology if previous is not None and previous.run.attempt == state.attempt else Topology()
        attempt, remembered = self._remembered.get(state.uid, (None, Topology()))
        if attempt == state.attempt_key and not state.redriving:  # between two attempts it counts for none
            before = before.with_memory(remembered)
        bindings = self._bindings.get(state.uid, {}).values()
        step_runs = self._live_step_runs(run)
        # Captured at the cancel: what an edit of the Story would change must not move a deadline (contract §4.1), and a
        # Story that is deleted takes neither its opt-out nor its pattern along.
        captured = previous if previous is not None and previous.run.cancel_requested else self._fixed.get(state.uid)
        known_story, shutdown = read_story(run, story), resolve_shutdown(run, story, self._default_timeout)
        if captured is not None and story is None and captured.run.attempt == state.attempt:
            known_story = captured.story
        if captured is not None and captured.run.cancellation == state.cancellation:
            there_was_one = captured.story.resource_version is not None
            shutdown = captured.shutdown if there_was_one or story is None else shutdown
        return Snapshot(
            run=state,
            story=known_story,
            shutdown=shutdown,
            topology=judge(
                Seen(
                    run=state,
                    before=before,
                    bindings=bindings,
                    live_step_runs=len(step_runs),
                    now=now,
                    heartbeats_stale_after=self._stale_after,
                    signal=self._signals.evidence(state),
                )
            ),
            streams=bool(bindings) or before.established or (previous is not None and previous.streams),
            step_runs=_to_delete(step_runs, bindings),
        )

    def _live_step_runs(self, run: StoryRun) -> list[StepRunRef]:
        """Those that refer to the run by name and are not owned by another uid (contract §3.1)."""
        known = self._step_runs.get(run.metadata.key, {})
        return [ref for ref, owner in known.values() if owner in (None, run.metadata.uid)]

    def canceled(self) -> list[Key]:
        """Unfinished runs whose cancel was asked for."""
        return [key for key, snapshot in self._snapshots.items() if snapshot.run.cancel_requested]

    def snapshot(self, key: Key) -> Snapshot | None:
        return self._snapshots.get(key)

    def uid(self, key: Key) -> str | None:
        """Of the run that has this name, as far as it is known."""
        run = self._runs.get(key)
        return None if run is None else run.metadata.uid

    def namespaces(self, key: Key) -> tuple[str, ...]:
        """Where all that a run's snapshot is made of lives: its own namespace, and that of its Story."""
        run = self._runs.get(key)
        return (key[0],) if run is None else (key[0], story_key(run)[0])

    def known_runs(self) -> Iterable[Key]:
        return self._runs.keys()


def _discard(index: dict[K, dict[Key, None]], at: K, key: Key) -> None:
    runs = index.get(at, {})
    runs.pop(key, None)
    if not runs:
        index.pop(at, None)


_MOST_STEP_RUNS: Final = 500
"""An event with some thousands would be too large for the stream."""


def _to_delete(live: Iterable[StepRunRef], bindings: Iterable[LiveBinding]) -> tuple[StepRunRef, ...] | None:
    """Live StepRuns, and terminal ones that still own a live binding: their runtime would leak (contract §2.6).

    None where they are too many to be reported: the terminator then lists them itself.
    """
    refs = {ref.name: ref for ref in live}
    for binding in bindings:
        if binding.step_run is not None:
            refs.setdefault(binding.step_run.name, binding.step_run)
    return tuple(refs.values()) if len(refs) <= _MOST_STEP_RUNS else None


def _first_seen(previous: Snapshot | None, run: StoryRun, now: datetime) -> datetime:
    """When the run was first seen canceled in this attempt, as long as there is no cancel_observed_at."""
    if (
        previous is None
        or previous.run.cancel_observed_at is not None
        or previous.run.attempt != attempt_of(run.metadata.annotations)
    ):
        return now
    return parse_instant(previous.run.canceled_at) if previous.run.canceled_at else now
