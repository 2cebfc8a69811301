"""The watched objects, joined into one snapshot for each run. Pure: no I/O; objects and the time come in as values.

Joined as the contract relates them: StepRuns by the name of their run (§3.1: the label is not the name, the ownerRef
may be missing), bindings by the uid of their run (§3.2), runs by their Story (§4.1) and their trigger token. Only live
StepRuns and bindings are kept: finished history costs nothing. And of each object only what is looked at again, since a
cluster may have ten thousand calls: `known`.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, TypeVar

from exeunt.clock import parse_instant
from exeunt.events.signals import Signal
from exeunt.rules.step_runs import belongs_to, is_finished, owner_of
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation, attempt_of
from exeunt.run.equal import same
from exeunt.run.models import StepRun, Story, StoryRun, TransportBinding
from exeunt.run.snapshot import (
    RunState,
    Snapshot,
    StepRunRef,
    Topology,
    essence,
    read_run,
    read_story,
    resolve_shutdown,
    story_key,
)
from exeunt_watcher.known import Key, Known, KnownBinding, KnownStepRun, Left, without
from exeunt_watcher.signals_heard import SignalsHeard
from exeunt_watcher.topology import Situation, judge, stale_at

SEEN: Final = Topology(established=True, step_runs_seen=True)
"""What is known of an attempt in which a TransportBinding was seen."""

K = TypeVar("K")


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
        self._known: dict[Key, Known] = {}
        self._stories: dict[Key, Story] = {}
        self._step_runs: dict[Key, KnownStepRun] = {}
        self._bindings: dict[Key, KnownBinding] = {}
        self._runs_of_story: defaultdict[Key, dict[Key, None]] = defaultdict(dict)  # sets in the order of their making
        self._runs_of_token: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._remembered: dict[str, tuple[Cancellation, Topology]] = {}
        self._strangers: set[str] = set()  # remembered at the last sweep, though no such run was known
        self._fixed: dict[str, Snapshot] = {}
        self._signals = signals or SignalsHeard()

    # Each method below takes in one object and answers with the keys of the runs that it may have changed.

    def story_run(self, run: StoryRun) -> list[Key]:
        key = run.metadata.key
        known = self._known.get(key)
        if known is not None and known.run is not None:
            if known.run.metadata.uid == run.metadata.uid:
                self._unindex(key, known.run)
            else:
                self.run_gone(key)  # deleted and created again, between two lists
        known = self._of(key)
        known.run, known.state = essence(run), None
        self._runs_of_story[story_key(run)][known.key] = None
        if token := run.metadata.annotations.get(bobrapet.TRIGGER_TOKEN):
            self._runs_of_token[token][known.key] = None
        return [known.key]

    def story(self, story: Story) -> list[Key]:
        self._stories[story.metadata.key] = story
        return list(self._runs_of_story.get(story.metadata.key, ()))

    def story_gone(self, key: Key) -> list[Key]:
        self._stories.pop(key, None)
        return list(self._runs_of_story.get(key, ()))

    def step_run(self, step_run: StepRun) -> list[Key]:
        meta = step_run.metadata
        before = self.step_run_gone(meta.key)  # an update may have moved it to another run
        if not _is_live(step_run):
            return before
        known = self._of((meta.namespace, step_run.spec.story_run_ref.name))
        ref = StepRunRef(meta.name, meta.uid)
        self._step_runs[same(meta.namespace), meta.name] = known.add_step_run(ref, owner_of(step_run))
        return [known.key, *(other for other in before if other != known.key)]

    def step_run_gone(self, key: Key) -> list[Key]:
        """Finished, being deleted, deleted, or missing from a list of the unfinished: not live in any case."""
        step_run = self._step_runs.pop(key, None)
        if step_run is None:
            return []
        known = self._known[step_run.run]
        known.step_runs = without(known.step_runs, step_run)
        self._tidy(known)
        return [known.key]

    def binding(self, binding: TransportBinding) -> list[Key]:
        meta, ref = binding.metadata, binding.spec.story_run_ref
        earlier = self._bindings.get(meta.key)
        before = self.binding_gone(meta.key)  # an update may have moved it to another run
        if ref is None or ref.uid is None or ref.name is None or meta.deletion_timestamp:
            return before  # of no run, so evidence for or against none (contract §3.6)
        known = self._of((ref.namespace or meta.namespace, ref.name))
        owner = next((owner for owner in meta.owner_references if owner.kind == "StepRun"), None)
        ready = next((c for c in (binding.status.conditions if binding.status else ()) if c.type == "Ready"), None)
        self._bindings[same(meta.namespace), meta.name] = known.add_binding(
            uid=ref.uid,
            attempt=earlier.attempt if earlier is not None and earlier.uid == ref.uid else known.attempt_of(ref.uid),
            step_run=StepRunRef(owner.name, owner.uid) if owner else None,
            heartbeat=ready.last_transition_time if ready and self._stale_after is not None else None,
        )
        return [known.key, *(other for other in before if other != known.key)]

    def binding_gone(self, key: Key) -> list[Key]:
        binding = self._bindings.pop(key, None)
        if binding is None:
            return []
        known = self._known[binding.run]
        known.bindings = without(known.bindings, binding)
        # The run may not have been projected while it was there.
        self.remember(Cancellation(*binding.run, binding.uid, binding.attempt), SEEN)
        self._tidy(known)
        return [known.key]

    def takes_away(self, item: StepRun | TransportBinding) -> bool:
        """Whether this object, as it is now, leaves a run with less than what is known."""
        if isinstance(item, StepRun):
            step_run = self._step_runs.get(item.metadata.key)
            run = (item.metadata.namespace, item.spec.story_run_ref.name)
            return step_run is not None and not (_is_live(item) and run == step_run.run)
        binding, ref = self._bindings.get(item.metadata.key), item.spec.story_run_ref
        return binding is not None and (
            ref is None
            or ref.uid != binding.uid
            or ref.name != binding.run[1]
            or bool(item.metadata.deletion_timestamp)
        )

    # And these read it.

    def left(self, key: Key, run_uid: str | None) -> tuple[Left, ...]:
        """What would have to go with a run of this name and that uid, where it is known."""
        known = self._known.get(key)
        return () if known is None else known.left(run_uid)

    def named(self) -> list[Key]:
        """The runs that live StepRuns name."""
        return [key for key, known in self._known.items() if known.step_runs]

    def ended(self, run: StoryRun, left: Iterable[Left], now: datetime) -> Snapshot:
        """A run that is known no more, with what is left of it. That Exeunt ended it shows that it streamed."""
        state = read_run(run, first_seen=now, now=now, fence_wait=self._fence_wait)
        story = self._stories.get(story_key(run))
        refs = tuple(ref for ref, owner in left if belongs_to(owner, state.uid))
        return Snapshot(
            run=state,
            story=read_story(run, story),
            shutdown=resolve_shutdown(run, story, self._default_timeout),
            streams=state.ended_by_exeunt,
            step_runs=refs if len(refs) <= _MOST_STEP_RUNS else None,
        )

    def run_gone(self, key: Key) -> Snapshot | None:
        """Forget a run; its last snapshot, if it had one."""
        known = self._known.get(key)
        if known is None or known.run is None:
            return None
        run, last = known.run, known.snapshot
        self._unindex(key, run)
        self._remembered.pop(run.metadata.uid, None)
        self._fixed.pop(run.metadata.uid, None)
        known.run = known.snapshot = known.state = known.story = None
        self._tidy(known)
        return last

    def _of(self, key: Key) -> Known:
        """What is known under this name, anew where nothing was."""
        known = self._known.get(key)
        if known is None:
            key = (same(key[0]), key[1])
            known = self._known[key] = Known(key)
        return known

    def _tidy(self, known: Known) -> None:
        if known.run is None and not known.step_runs and not known.bindings:
            del self._known[known.key]

    def _unindex(self, key: Key, run: StoryRun) -> None:
        _discard(self._runs_of_story, story_key(run), key)
        _discard(self._runs_of_token, run.metadata.annotations.get(bobrapet.TRIGGER_TOKEN, ""), key)

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
        return self._about(signal) if self._signals.take(signal) else []

    def _about(self, signal: Signal) -> list[Key]:
        return [signal.run] if signal.run else list(self._runs_of_token.get(signal.trigger_token or "", ()))

    def forget(self, now: datetime) -> list[Key]:
        """Drop the signals that are too old to count, and what is remembered of runs that have not shown since then;
        the runs that this may have changed.
        """
        touched = [key for signal in self._signals.forget(now) for key in self._about(signal)]
        strangers = {
            uid for uid, (attempt, _) in self._remembered.items() if self.uid((attempt.namespace, attempt.name)) != uid
        }
        for uid in self._strangers & strangers:
            del self._remembered[uid]
        self._strangers = strangers - self._strangers
        return touched

    def peek(self, key: Key, now: datetime) -> Snapshot | None:
        """The run's snapshot as of now, without taking it for published; None when no such run is known."""
        known = self._known.get(key)
        return None if known is None or known.run is None else self._snapshot(known, known.run, now)

    def project(self, key: Key, now: datetime) -> tuple[Snapshot | None, Snapshot] | None:
        """The run's previous snapshot and its new one, which becomes the previous; None when no such run is known.

        A run that has become terminal is forgotten with its last snapshot.
        """
        known = self._known.get(key)
        if known is None or known.run is None:
            return None
        previous, current = known.snapshot, self._snapshot(known, known.run, now)
        if current.run.terminal:
            self.run_gone(key)
            return previous, current
        known.snapshot, known.story = current, self._stories.get(story_key(known.run))
        if not current.run.redriving:
            self._remembered.pop(current.run.uid, None)
        self._fixed.pop(current.run.uid, None)
        return previous, current

    def changes_at(self, current: Snapshot, now: datetime) -> datetime | None:
        """When time alone will change the snapshot of a canceled run; None: it will not."""
        run = current.run
        if not run.cancel_requested or run.terminal:
            return None
        instants: list[datetime | None] = []
        if run.cancel_observed_at is None and run.canceled_at is not None:
            instants.append(parse_instant(run.canceled_at) + self._fence_wait)
        known = self._known.get((run.namespace, run.name))
        if known is not None and self._stale_after is not None:
            instants.append(stale_at(known.bindings_of(run.uid), self._stale_after))
        return min((at for at in instants if at is not None and at > now), default=None)

    def _snapshot(self, known: Known, run: StoryRun, now: datetime) -> Snapshot:
        previous, story = known.snapshot, self._stories.get(story_key(run))
        state = self._state(known, run, now)
        before = previous.topology if previous is not None and previous.run.attempt == state.attempt else Topology()
        attempt, remembered = self._remembered.get(state.uid, (None, Topology()))
        if (
            attempt is not None and attempt == state.attempt_key and not state.redriving
        ):  # between two it counts for none
            before = before.with_memory(remembered)
        bindings = known.bindings_of(state.uid)
        step_runs = known.step_runs_of(state.uid)
        # Captured at the cancel: what an edit of the Story would change must not move a deadline (contract §4.1), and a
        # Story that is deleted takes neither its opt-out nor its pattern along.
        captured = previous if previous is not None and previous.run.cancel_requested else self._fixed.get(state.uid)
        if (
            previous is not None
            and previous.run is state
            and known.story is story
            and (captured is None or captured is previous)
        ):
            known_story, shutdown = previous.story, previous.shutdown  # of the same objects
        else:
            known_story, shutdown = read_story(run, story), resolve_shutdown(run, story, self._default_timeout)
            if captured is not None and story is None and captured.run.attempt == state.attempt:
                known_story = captured.story
            if captured is not None and captured.run.cancellation == state.cancellation:
                there_was_one = captured.story.resource_version is not None
                shutdown = captured.shutdown if there_was_one or story is None else shutdown
        return Snapshot(
            run=state,
            story=same(known_story),
            shutdown=same(shutdown),
            topology=same(
                judge(
                    Situation(
                        run=state,
                        before=before,
                        bindings=bindings,
                        live_step_runs=len(step_runs),
                        now=now,
                        heartbeats_stale_after=self._stale_after,
                        signal=self._signals.evidence(state),
                    )
                )
            ),
            streams=bool(bindings) or before.established or (previous is not None and previous.streams),
            step_runs=_to_delete(step_runs, bindings),
        )

    def _state(self, known: Known, run: StoryRun, now: datetime) -> RunState:
        """The run as it was read; read again where the time counts: as long as its cancel is not observed."""
        if known.state is not None:
            return known.state
        first_seen = _first_seen(known.snapshot, run, now)
        state = read_run(run, first_seen=first_seen, now=now, fence_wait=self._fence_wait)
        if state.cancel_observed_at is not None or not state.cancel_requested:
            known.state = state
        return state

    def snapshot(self, key: Key) -> Snapshot | None:
        known = self._known.get(key)
        return None if known is None else known.snapshot

    def run(self, key: Key) -> StoryRun | None:
        known = self._known.get(key)
        return None if known is None else known.run

    def uid(self, key: Key) -> str | None:
        """Of the run that has this name, as far as it is known."""
        run = self.run(key)
        return None if run is None else run.metadata.uid

    def streams(self, key: Key) -> bool:
        """Whether the run has a live TransportBinding."""
        known = self._known.get(key)
        return known is not None and known.run is not None and bool(known.bindings_of(known.run.metadata.uid))

    def namespaces(self, key: Key) -> tuple[str, ...]:
        """Where all that a run's snapshot is made of lives: its own namespace, and that of its Story."""
        run = self.run(key)
        return (key[0],) if run is None else (key[0], story_key(run)[0])

    def known_runs(self) -> list[Key]:
        return [key for key, known in self._known.items() if known.run is not None]


def _is_live(step_run: StepRun) -> bool:
    return not is_finished(step_run) and not step_run.metadata.deletion_timestamp


def _discard(index: dict[K, dict[Key, None]], at: K, key: Key) -> None:
    runs = index.get(at, {})
    runs.pop(key, None)
    if not runs:
        index.pop(at, None)


_MOST_STEP_RUNS: Final = 500
"""An event with some thousands would be too large for the stream."""


def _to_delete(live: Iterable[StepRunRef], bindings: Iterable[KnownBinding]) -> tuple[StepRunRef, ...] | None:
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
