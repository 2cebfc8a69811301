"""A small world in which everything happens to two runs whose names share a label, watched by one watcher that restarts
now and then. `told` checks every event against the world at the moment when it is said; the invariants check that what
is true was said.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.objects import (
    FENCE_WAIT,
    NAMESPACE,
    NOW,
    a_signal,
    binding,
    condition,
    step_run,
    story,
    story_run,
    written,
)
from core.watching import Stream, Watcher
from exeunt.clock import format_instant, format_status_time, parse_instant
from exeunt.events.event_types import EventType
from exeunt.events.signals import Signal
from exeunt.kube.changes import Change, Changed, Removed
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS, Resource
from exeunt.run import bobrapet
from exeunt.run.models import StepRun, StoryRun, TransportBinding
from exeunt.run.snapshot import Snapshot, StepRunRef
from exeunt_watcher.commands import Seen, SignalHeard

SECOND = timedelta(seconds=1)
NAMES = ("a--b", "a-b")
ASKED, OBSERVED = bobrapet.REDRIVE[0]
PICK = st.integers(0, 5)


@dataclass
class Run:
    """A StoryRun as it is, and what has been true of it in its present attempt."""

    name: str
    uid: str
    story: str
    started_at: str | None
    phase: str | None = "Running"
    canceled: bool = False
    cancel_observed_at: str | None = None
    deleting: bool = False
    annotations: dict[str, str] = field(default_factory=dict)
    conditions: list[dict[str, Any]] = field(default_factory=list)
    managed_fields: list[dict[str, Any]] = field(default_factory=list)
    established: bool = False
    step_runs_seen: bool = False
    signaled: bool | None = None
    """What the newest signal of this attempt says: the topology is gone, or it is up."""

    @property
    def live(self) -> bool:
        return not self.deleting and not bobrapet.is_terminal(self.phase)

    @property
    def redriving(self) -> bool:
        return self.annotations.get(ASKED) != self.annotations.get(OBSERVED)

    @property
    def hub_reports_gone(self) -> bool:
        return any(
            c["reason"] == bobrapet.TOPOLOGY_TERMINATED_REASON
            and (self.started_at is None or parse_instant(c["lastTransitionTime"]) >= parse_instant(self.started_at))
            for c in self.conditions
        )

    def object(self) -> StoryRun:
        return story_run(
            self.name,
            uid=self.uid,
            story=self.story,
            canceled=self.canceled,
            cancel_observed_at=self.cancel_observed_at,
            phase=self.phase,
            started_at=self.started_at,
            conditions=self.conditions or None,
            annotations=self.annotations,
            managed_fields=self.managed_fields,
            deleting=self.deleting,
        )


@dataclass
class Step:
    """A StepRun; `owner` is None when the hub made it."""

    name: str
    run: str
    owner: str | None
    phase: str = "Running"
    deleting: bool = False

    @property
    def live(self) -> bool:
        return not self.deleting and not bobrapet.is_terminal(self.phase)

    @property
    def ref(self) -> StepRunRef:
        return StepRunRef(self.name, f"uid-{self.name}")

    def belongs_to(self, run: Run) -> bool:
        return self.run == run.name and self.owner in (None, run.uid)

    def object(self) -> StepRun:
        return step_run(self.name, run=self.run, owner=self.owner, phase=self.phase, deleting=self.deleting)


@dataclass
class Connection:
    """A TransportBinding: one streaming connection."""

    name: str
    run: str
    run_uid: str
    step: StepRunRef
    deleting: bool = False

    def object(self) -> TransportBinding:
        return binding(self.name, run=self.run, run_uid=self.run_uid, owner=self.step, deleting=self.deleting)


KINDS: Final[dict[type, Resource[Any]]] = {Run: STORY_RUNS, Step: STEP_RUNS, Connection: TRANSPORT_BINDINGS}


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.count = 0
        self.stream = Stream()
        self.ever: dict[str, Run] = {}
        self.runs: dict[str, Run] = {}
        self.steps: dict[str, Step] = {}
        self.bindings: dict[str, Connection] = {}
        self.story_exists = True
        self.signals: list[Signal] = []
        self.restart()

    # What is true.

    def bindings_of(self, run: Run) -> list[Connection]:
        return [b for b in self.bindings.values() if b.run_uid == run.uid and not b.deleting]

    def live_steps_of(self, run: Run) -> list[Step]:
        return [s for s in self.steps.values() if s.belongs_to(run) and s.live]

    def is_gone(self, run: Run, kind: str) -> bool:
        return {
            "hub-condition": run.hub_reports_gone,
            "bindings-gone": run.established and not self.bindings_of(run),
            "step-runs-done": run.canceled and run.step_runs_seen and not self.live_steps_of(run),
            "signal": run.signaled is True,
        }[kind]

    def is_realtime(self, run: Run) -> bool:
        return run.story == "talk" and (self.story_exists or run.established)

    def reported(self, event_type: EventType, snapshot: Snapshot) -> None:
        """Nothing is said but what is true."""
        run = self.ever[snapshot.run.uid]
        assert run.story == "talk"
        assert snapshot.step_runs is not None
        assert all(self.steps[ref.name].belongs_to(run) for ref in snapshot.step_runs if ref.name in self.steps)
        if event_type is EventType.RUN_DELETED:
            assert self.runs.get(run.name) is not run
            return
        if snapshot.topology.gone is not None:
            assert self.is_gone(run, snapshot.topology.gone.kind)
        assert event_type is not EventType.TOPOLOGY_TERMINATED or snapshot.topology.gone is not None
        assert event_type is not EventType.TOPOLOGY_ESTABLISHED or run.established
        assert (event_type is EventType.RUN_TERMINAL) == bobrapet.is_terminal(run.phase)
        if event_type is EventType.CANCEL_REQUESTED:
            assert run.canceled
            since = max(w["time"] for w in run.managed_fields if w["time"])
            assert run.cancel_observed_at is not None or self.now >= parse_instant(since) + FENCE_WAIT

    # How it becomes known.

    def note(self) -> None:
        for run in self.runs.values():
            if not bobrapet.is_terminal(run.phase):
                run.established |= bool(self.bindings_of(run))
                run.step_runs_seen |= bool(self.live_steps_of(run))

    def see(self, changed: Run | Step | Connection) -> None:
        self.note()
        self.hear(KINDS[type(changed)], Changed(changed.object()))

    def hear(self, resource: Resource[Any], change: Change[Any]) -> None:
        self.watcher.hear(Seen(resource, None, change), self.now)

    def restart(self) -> None:
        """A new watcher lists everything; only what the stream said is remembered."""
        self.watcher = Watcher(self.stream, self.reported)
        self.watcher.start(
            self.now,
            {
                STORIES: [story("batch", pattern="batch"), *([story()] if self.story_exists else [])],
                STORY_RUNS: [run.object() for run in self.runs.values() if not bobrapet.is_terminal(run.phase)],
                STEP_RUNS: [step.object() for step in self.steps.values() if step.live],
                TRANSPORT_BINDINGS: [one.object() for one in self.bindings.values()],
            },
            map(SignalHeard, self.signals),
        )

    def name(self, of: str) -> str:
        self.count += 1
        return f"{of}-{self.count}"

    def pick(self, number: int) -> Run | None:
        """One of the runs; every rule takes a second."""
        self.now += SECOND
        runs = list(self.runs.values())
        return runs[number % len(runs)] if runs else None

    # What happens.

    @initialize(slot=st.integers(0, 1))
    def begin(self, slot: int) -> None:
        self.create_run(slot, batch=False)

    @rule(slot=st.integers(0, 1), batch=st.booleans())
    def create_run(self, slot: int, *, batch: bool) -> None:
        self.now += SECOND
        if NAMES[slot] in self.runs:
            return
        run = Run(NAMES[slot], self.name("uid"), "batch" if batch else "talk", format_status_time(self.now))
        self.runs[run.name] = self.ever[run.uid] = run
        self.see(run)

    @rule(number=PICK)
    def delete_run(self, number: int) -> None:
        run = self.pick(number)
        if run is None:
            return
        if not run.deleting:
            run.deleting = True
            self.see(run)
        else:
            del self.runs[run.name]
            self.hear(STORY_RUNS, Removed(run.object()))

    @rule(number=PICK, by_hub=st.booleans(), connects=st.booleans())
    def start_step(self, number: int, *, by_hub: bool, connects: bool) -> None:
        run = self.pick(number)
        if run is None:
            return
        step = Step(self.name("step"), run.name, None if by_hub else run.uid)
        self.steps[step.name] = step
        self.see(step)
        if connects:
            self.bindings[step.name] = Connection(step.name, run.name, run.uid, step.ref)
            self.see(self.bindings[step.name])

    @precondition(lambda self: self.bindings)
    @rule(number=PICK)
    def disconnect(self, number: int) -> None:
        self.now += SECOND
        one = list(self.bindings.values())[number % len(self.bindings)]
        if not one.deleting:
            one.deleting = True
            self.see(one)
        else:
            self.remove(one)

    @precondition(lambda self: self.steps)
    @rule(number=PICK, how=st.sampled_from(["Succeeded", "Failed", "deleting", "deleted"]))
    def end_step(self, number: int, how: str) -> None:
        self.now += SECOND
        step = list(self.steps.values())[number % len(self.steps)]
        if how == "deleted":
            self.remove(step)
            return
        step.deleting = step.deleting or how == "deleting"
        step.phase = step.phase if how == "deleting" else how
        self.see(step)

    def remove(self, one: Step | Connection) -> None:
        if isinstance(one, Step):
            del self.steps[one.name]
        else:
            del self.bindings[one.name]
        self.note()
        self.hear(KINDS[type(one)], Removed(one.object()))

    @rule(number=PICK)
    def cancel(self, number: int) -> None:
        run = self.pick(number)
        if run is not None and not run.canceled:
            run.canceled = True
            run.managed_fields.append(written("cancelRequested", format_status_time(self.now)))
            self.see(run)

    @rule(number=PICK)
    def observe_cancel(self, number: int) -> None:
        run = self.pick(number)
        if run is not None and run.canceled and run.cancel_observed_at is None and run.live:
            run.cancel_observed_at = format_instant(self.now)
            self.see(run)

    @rule(number=PICK, reason=st.sampled_from(["TopologyTerminated", "DependencyFailed"]), in_this_start=st.booleans())
    def hub_degrades(self, number: int, reason: str, *, in_this_start: bool) -> None:
        run = self.pick(number)
        if run is not None and run.live:
            at = format_status_time(self.now if in_this_start else NOW - SECOND)
            run.conditions = [condition("Ready", "False", "Running"), condition("Degraded", "True", reason, at)]
            self.see(run)

    @rule(number=PICK)
    def somebody_writes_the_conditions_anew(self, number: int) -> None:
        """The last writer wins (contract §9.2): what the hub said is gone again."""
        run = self.pick(number)
        if run is not None and run.live:
            run.conditions = [condition("Ready", "False", "Running")]
            self.see(run)

    @rule(number=PICK, gone=st.booleans(), late=st.booleans(), with_uid=st.booleans())
    def signal(self, number: int, *, gone: bool, late: bool, with_uid: bool) -> None:
        """Said now, or said before something that is known already and coming late."""
        run = self.pick(number)
        if run is None or not run.live or run.started_at is None:
            return
        newer = max((a_signal.at for a_signal in self.signals if a_signal.run == (NAMESPACE, run.name)), default=None)
        at = newer - SECOND / 4 if late and newer is not None else self.now
        if not late or newer is None:
            run.signaled = gone
        signal = a_signal(gone=gone, at=at, run=run.name, uid=run.uid if with_uid else None)
        self.signals.append(signal)
        self.watcher.hear(SignalHeard(signal), self.now)

    @rule(number=PICK, phase=st.sampled_from(["Finished", "Failed"]))
    def finish(self, number: int, phase: str) -> None:
        run = self.pick(number)
        if run is not None and not bobrapet.is_terminal(run.phase):
            run.phase = phase
            self.see(run)

    @rule(number=PICK, restart_after=st.integers(0, 3))
    def redrive(self, number: int, restart_after: int) -> None:
        """Asked for; then children gone, status cleared, annotations last (contract §4.5)."""
        run = self.pick(number)
        if run is None or run.deleting:
            return
        run.annotations = run.annotations | {ASKED: self.name("token")}
        self.see(run)
        for one in [b for b in self.bindings.values() if b.run_uid == run.uid]:
            self.remove(one)
        for step in [s for s in self.steps.values() if s.belongs_to(run)]:
            self.remove(step)
        if restart_after == 1:
            self.restart()
        run.phase, run.started_at, run.conditions = None, None, []
        self.see(run)
        if restart_after == 2:
            self.restart()
        self.now += SECOND
        run.annotations = run.annotations | {OBSERVED: run.annotations[ASKED]}
        run.managed_fields = [w for w in run.managed_fields if OBSERVED not in str(w)]
        run.managed_fields.append(written(OBSERVED, format_status_time(self.now)))
        run.cancel_observed_at = None
        run.established = run.step_runs_seen = False
        run.signaled = None
        self.see(run)

    @rule()
    def lose_or_restore_the_story(self) -> None:
        self.now += SECOND
        self.story_exists = not self.story_exists
        self.hear(STORIES, Changed(story()) if self.story_exists else Removed(story()))

    @rule()
    def restart_the_watcher(self) -> None:
        self.now += SECOND
        self.restart()

    @rule(seconds=st.sampled_from([1, 16, 60]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.watcher.sweep(self.now)
        for run, snapshot in self.business():
            since = parse_instant(max((w["time"] for w in run.managed_fields), default=format_status_time(self.now)))
            if run.canceled and run.cancel_observed_at is None and self.now >= since + SECOND + FENCE_WAIT:
                assert self.stream.published(snapshot.run.cancellation, EventType.CANCEL_REQUESTED)

    # What must have been said.

    def business(self) -> list[tuple[Run, Snapshot]]:
        """The live realtime runs, and what is known of them."""
        found = [(run, self.watcher.projection.snapshot((NAMESPACE, run.name))) for run in self.runs.values()]
        return [(run, s) for run, s in found if run.live and self.is_realtime(run) and s is not None]

    @invariant()
    def every_unfinished_run_is_known_and_no_other(self) -> None:
        unfinished = {(NAMESPACE, run.name) for run in self.runs.values() if not bobrapet.is_terminal(run.phase)}
        assert set(self.watcher.projection.known_runs()) == unfinished
        assert all(self.watcher.projection.snapshot(key) for key in unfinished)

    @invariant()
    def what_is_gone_is_known_to_be_gone(self) -> None:
        for run, snapshot in self.business():
            if not run.redriving and (self.is_gone(run, "bindings-gone") or run.hub_reports_gone):
                assert snapshot.topology.gone is not None
            if snapshot.topology.gone is not None:
                assert self.is_gone(run, snapshot.topology.gone.kind)

    @invariant()
    def what_is_true_was_published(self) -> None:
        for run, snapshot in self.business():
            cancellation = snapshot.run.cancellation
            if run.established:
                assert self.stream.published(snapshot.run.attempt_key, EventType.TOPOLOGY_ESTABLISHED)
            if run.cancel_observed_at is not None:
                cancel = self.stream.published(cancellation, EventType.CANCEL_REQUESTED)
                assert cancel is not None
                if snapshot.topology.gone is not None:
                    terminated = self.stream.published(cancellation, EventType.TOPOLOGY_TERMINATED)
                    assert cancel.topology.gone is not None or terminated is not None

    @invariant()
    def exactly_the_run_s_own_step_runs_are_to_be_deleted(self) -> None:
        for run in self.runs.values():
            snapshot = self.watcher.projection.snapshot((NAMESPACE, run.name))
            if snapshot is not None:
                still_streaming = {b.step.name for b in self.bindings_of(run)}
                live = {step.name for step in self.live_steps_of(run)}
                assert {ref.name for ref in snapshot.step_runs or ()} == live | still_streaming

    def teardown(self) -> None:
        """When all is deleted, nothing is kept."""
        for run in list(self.runs.values()):
            del self.runs[run.name]
            self.hear(STORY_RUNS, Removed(run.object()))
        for step in list(self.steps.values()):
            self.remove(step)
        for one in list(self.bindings.values()):
            self.remove(one)
        for name in ("talk", "batch"):
            self.hear(STORIES, Removed(story(name)))
        for _ in range(2):  # of a run that does not show until the second sweep nothing is remembered
            self.watcher.sweep(self.now)
        kept = {name: value for name, value in vars(self.watcher.projection).items() if isinstance(value, dict)}
        assert not any(kept.values())


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=300, stateful_step_count=50)
