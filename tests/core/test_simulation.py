"""One stop from end to end without I/O: the real deciding modules, with everything around them in an order that
hypothesis chooses. Two watchers see each kind of object at their own pace and restart; facts are delivered in any order
and again; terminators crash between any two effects; other writers change the run meanwhile.

Whatever the order: the run is finished exactly once, never before its cancel and its fence, never while its topology is
up and its deadline has not come, and in the end none of its StepRuns is left.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from core.json_patch import TestFailed, patched
from core.objects import (
    FENCE_WAIT,
    NAMESPACE,
    NOW,
    STARTED,
    binding,
    condition,
    step_run,
    story,
    topology_terminated,
)
from core.watching import Stream, Watcher
from exeunt import bobrapet
from exeunt.bus.messages import Message
from exeunt.clock import format_instant
from exeunt.codec import FactEvent, fact_message, read_fact
from exeunt.events import STOPPING_FACTS, Fact, Verdict
from exeunt.kube.models import StepRun, StoryRun, TransportBinding
from exeunt.kube.resources import STORY_RUNS
from exeunt.snapshot import FIELD_MANAGER, EvidenceKind, RunState, Snapshot, StepRunRef, read_run
from exeunt.step_runs import step_runs_to_delete
from exeunt.subjects import fact_subject
from exeunt_terminator.decision import decide, leaves_leftovers
from exeunt_terminator.evidence import (
    possible_evidence,
    still_no_bindings,
    still_no_step_runs,
    still_said_by_the_hub,
)
from exeunt_terminator.finalize import finalizing_patch
from exeunt_terminator.stop import TRANSITIONS, Result, State
from exeunt_timeout_scheduler.deadlines import closed
from exeunt_watcher.projection import Key, Projection

CALL: Final = (NAMESPACE, "call")
KINDS: Final = ("StoryRun", "StepRun", "TransportBinding", "Story")
Sight = Callable[[Projection], list[Key]]
"""One watch event, as what it tells to a projection."""


class Cluster:
    """The objects, the history of each kind, and what must never happen to the run."""

    def __init__(self) -> None:
        self.now = NOW
        self.history: dict[str, list[Sight]] = {kind: [] for kind in KINDS}
        self.steps: dict[str, StepRun] = {}
        self.bindings: dict[str, TransportBinding] = {}
        self.established = False
        self.deadline_came = False
        self.finishes = 0
        self.document: dict[str, Any] = {
            "metadata": {
                "name": "call",
                "namespace": NAMESPACE,
                "uid": "uid-call",
                "resourceVersion": "1",
                "generation": 1,
            }
            | {"annotations": {"kept": "yes"}},
            "spec": {"storyRef": {"name": "talk"}},
            "status": {
                "phase": "Running",
                "startedAt": STARTED,
                "conditions": [condition("Ready", "False", "Running")],
            },
        }
        self.history["Story"].append(lambda known: known.story(story()))
        self.write(self.document)
        for name in ("listen", "speak"):
            self.create_step(name)

    @property
    def run(self) -> StoryRun:
        return STORY_RUNS.decode(msgspec.json.encode(self.document))

    @property
    def finished(self) -> bool:
        return bobrapet.is_terminal(self.document["status"]["phase"])

    @property
    def canceled(self) -> bool:
        return "cancelRequested" in self.document["spec"]

    @property
    def fenced(self) -> bool:
        return bobrapet.FENCE in self.document["metadata"]["annotations"]

    @property
    def topology_gone(self) -> bool:
        hub = any(c["reason"] == bobrapet.TOPOLOGY_TERMINATED_REASON for c in self.document["status"]["conditions"])
        return hub or (self.established and not self.bindings)

    def write(self, document: dict[str, Any]) -> None:
        """Store the run; every change is checked here."""
        version = str(int(self.document["metadata"]["resourceVersion"]) + 1)
        was_finished, self.document = self.finished, document
        self.document["metadata"] = self.document["metadata"] | {"resourceVersion": version}
        if self.finished and not was_finished:
            self.finishes += 1
        run = self.run
        self.history["StoryRun"].append(lambda known: known.story_run(run))

    def change(self, part: str, **fields: Any) -> None:
        self.write(self.document | {part: self.document[part] | fields})

    def patch_status(self, patch: bytes) -> None:
        """The finalizing write: TestFailed when one of its conditions is lost."""
        document = patched(self.document, patch)
        assert self.canceled
        assert self.fenced
        assert self.topology_gone or self.deadline_came
        assert not self.finished
        document["metadata"] = document["metadata"] | {"managedFields": [{"manager": FIELD_MANAGER}]}
        self.write(document)

    def create_step(self, name: str) -> None:
        step = step_run(name)
        self.steps[name] = step
        self.history["StepRun"].append(lambda known: known.step_run(step))

    def delete_step(self, ref: StepRunRef) -> None:
        assert self.finished, "StepRuns go after the status was written"
        if ref.name in self.steps:
            assert self.steps.pop(ref.name).metadata.uid == ref.uid
            self.history["StepRun"].append(lambda known: known.step_run_gone((NAMESPACE, ref.name)))
        if ref.name in self.bindings:
            self.disconnect(ref.name)

    def connect(self, name: str) -> None:
        one = binding(name, owner=StepRunRef(name, self.steps[name].metadata.uid))
        self.established = True
        self.bindings[name] = one
        self.history["TransportBinding"].append(lambda known: known.binding(one))

    def disconnect(self, name: str) -> None:
        del self.bindings[name]
        self.history["TransportBinding"].append(lambda known: known.binding_gone((NAMESPACE, name)))


class LaggingWatcher:
    """A watcher whose watches arrive one by one, each kind at its own pace."""

    def __init__(self, cluster: Cluster, stream: Stream) -> None:
        self._cluster = cluster
        self._watcher = Watcher(stream)
        self._read = {kind: len(events) for kind, events in cluster.history.items()}
        known = self._watcher.projection
        known.story(story())
        if not cluster.finished:
            known.story_run(cluster.run)
        for step in cluster.steps.values():
            known.step_run(step)
        for one in cluster.bindings.values():
            known.binding(one)
        self._watcher.recall(cluster.now)

    def see(self, kind: str) -> bool:
        """Take in the next event of a kind; whether there was one."""
        events = self._cluster.history[kind]
        if self._read[kind] == len(events):
            return False
        event = events[self._read[kind]]
        self._read[kind] += 1
        self._watcher.touched(event(self._watcher.projection), self._cluster.now)
        return True

    def sweep(self) -> None:
        self._watcher.sweep(self._cluster.now)


class Mesh:
    """All services, one effect at a time. `pending`: messages of RUNS that no terminator has acknowledged yet."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.stream = Stream()
        self.watchers = [LaggingWatcher(self.cluster, self.stream) for _ in range(2)]
        self.walks: list[Iterator[None]] = []
        self.delivered: set[str] = set()
        self.acknowledged: set[str] = set()

    @property
    def pending(self) -> list[str]:
        facts = [subject for subject in self.stream.messages if subject.endswith(STOPPING_FACTS)]
        return [subject for subject in facts if subject not in self.acknowledged]

    # The terminator, as `exeunt_terminator.walk` walks its table; each `yield` is a moment for something else.

    def walk(self, subject: str) -> Iterator[None]:
        message = self.stream.messages[subject]
        event = read_fact(message.headers, message.payload)
        snapshot = event.snapshot
        to_delete = snapshot.step_runs or ()
        state = State.READING if subject in self.delivered else State.DECIDING
        self.delivered.add(subject)
        wrote = False
        while state is not State.DONE:
            if state is not State.PATCHING:  # what comes between the look and the write is a request's time late
                yield
            result = Result.READ
            match state:
                case State.DECIDING:
                    result = self.decided(event, snapshot)
                case State.CHECKING:
                    if not any(self.still_holds(kind, snapshot.run) for kind in possible_evidence(snapshot.topology)):
                        return  # given back to the stream, to be looked at again
                    result = Result.STILL_GONE
                case State.PATCHING:
                    result = self.written(snapshot)
                    wrote = result is Result.WRITTEN
                case State.READING:
                    snapshot = replace(snapshot, run=self.read())
                case State.LISTING:
                    listed = self.cluster.steps.values(), self.cluster.bindings.values()
                    to_delete = step_runs_to_delete("uid-call", *listed)
                    result = Result.LISTED if to_delete else Result.NOTHING_LEFT
                case State.CONFIRMING:
                    ended = leaves_leftovers(event.snapshot.run.episode, replace(snapshot, run=self.read()))
                    result = Result.STILL_ENDED if ended else Result.ENDED_NO_MORE
                case State.DELETING:
                    for ref in to_delete:
                        self.cluster.delete_step(ref)
                        yield
                    result = Result.DELETED
            state = TRANSITIONS[state][result]
        if not wrote:  # what wrote is delivered once more: the second look
            self.acknowledged.add(subject)

    def decided(self, event: FactEvent, snapshot: Snapshot) -> Result:
        episode = event.snapshot.run.episode
        verdict = decide(event.fact, episode, snapshot).verdict
        if verdict is Verdict.ALREADY_TERMINAL and leaves_leftovers(episode, snapshot):
            return Result.CLEAN_UP
        if verdict is not Verdict.FINALIZE:
            return Result.LEAVE
        return Result.FINALIZE_AT_DEADLINE if event.fact is Fact.DEADLINE_REACHED else Result.FINALIZE

    def written(self, snapshot: Snapshot) -> Result:
        try:
            self.cluster.patch_status(finalizing_patch(snapshot.run, self.cluster.now))
        except TestFailed:
            return Result.CONDITION_LOST
        return Result.WRITTEN

    def still_holds(self, kind: EvidenceKind, run: RunState) -> bool:
        match kind:
            case "hub-condition":
                return still_said_by_the_hub(run)
            case "bindings-gone":
                return still_no_bindings(run, self.cluster.bindings.values())
            case "step-runs-done":
                return still_no_step_runs(run, self.cluster.steps.values())
        raise AssertionError(kind)

    def read(self) -> RunState:
        now = self.cluster.now
        return read_run(self.cluster.run, first_seen=now, now=now, fence_wait=FENCE_WAIT)

    # The timeout-scheduler: arms what it hears of, fires when the deadline comes, checks, says.

    def fire(self) -> Iterator[None]:
        for subject in list(self.stream.messages):
            if subject.endswith(Fact.CANCEL_REQUESTED):
                message = self.stream.messages[subject]
                armed = read_fact(message.headers, message.payload).snapshot
                if armed.deadline is None or closed(armed) is not None:
                    continue
                self.cluster.now = max(self.cluster.now, armed.deadline)
                self.cluster.deadline_came = True
                reread = replace(armed, run=self.read())
                if closed(reread, armed) is None:
                    yield
                    self.stream.publish(self.reached(reread))

    def reached(self, snapshot: Snapshot) -> Message:
        return fact_message(Fact.DEADLINE_REACHED, snapshot, source="/s", now=self.cluster.now, context={})

    # What may happen next; what is not possible now does nothing.

    def cancel(self, _: int) -> None:
        if not self.cluster.canceled:
            self.cluster.change("spec", cancelRequested=True)

    def stamp_fence(self, _: int) -> None:
        if self.cluster.canceled and not self.cluster.fenced:
            annotations = self.cluster.document["metadata"]["annotations"]
            self.cluster.change(
                "metadata", annotations=annotations | {bobrapet.FENCE: format_instant(self.cluster.now)}
            )

    def churn(self, number: int) -> None:
        """Somebody else writes the conditions, as bobrapet and the hub do all the time."""
        if not self.cluster.finished:
            ready, *others = self.cluster.document["status"]["conditions"]
            self.cluster.change("status", conditions=[ready | {"message": f"{number} {len(self.walks)}"}, *others])

    def hub_says_gone(self, number: int) -> None:
        if number == 0 and not self.cluster.finished and not self.cluster.topology_gone:
            conditions = self.cluster.document["status"]["conditions"]
            self.cluster.change("status", conditions=[*conditions, topology_terminated()])

    def connect(self, _: int) -> None:
        """Everybody connects, or whoever has left is back."""
        if not self.cluster.finished:
            for name in {"listen", "speak"} & set(self.cluster.steps) - set(self.cluster.bindings):
                self.cluster.connect(name)

    def hub_takes_it_back(self, number: int) -> None:
        """Somebody writes the conditions from a copy without the hub's word."""
        if number == 0 and not self.cluster.finished:
            self.cluster.change("status", conditions=self.cluster.document["status"]["conditions"][:1])

    def disconnect(self, number: int) -> None:
        if self.cluster.bindings:
            self.cluster.disconnect(list(self.cluster.bindings)[number % len(self.cluster.bindings)])

    def hub_starts_late(self, number: int) -> None:
        """A StepRun that no fact knows; after the end it may come until the second look."""
        awaited = not self.cluster.finished or (self.pending and not self.walks)
        if awaited and f"late-{number}" not in self.cluster.steps and not self.looked_twice:
            self.cluster.create_step(f"late-{number}")

    @property
    def looked_twice(self) -> bool:
        return self.cluster.finished and not any(subject in self.delivered for subject in self.pending)

    def bobrapet_finishes(self, number: int) -> None:
        """Its own drain window is over: StepRuns gone, status written."""
        if number == 0 and self.cluster.fenced and not self.cluster.finished:
            status = {"phase": bobrapet.FINISHED, "message": bobrapet.CANCELED_MESSAGE}
            self.cluster.change("status", **status)
            for step in list(self.cluster.steps.values()):
                self.cluster.delete_step(StepRunRef(step.metadata.name, step.metadata.uid))

    def watch(self, number: int) -> None:
        self.watchers[number % 2].see(KINDS[number // 2 % 4])

    def sweep(self, number: int) -> None:
        self.watchers[number % 2].sweep()

    def restart(self, number: int) -> None:
        self.watchers[number % 2] = LaggingWatcher(self.cluster, self.stream)

    def deliver(self, number: int) -> None:
        """Any stopping fact, also one that was answered before."""
        facts = [subject for subject in self.stream.messages if subject.endswith(STOPPING_FACTS)]
        if facts:
            self.walks.append(self.walk(facts[number % len(facts)]))

    def deadline(self, number: int) -> None:
        if number == 0:
            self.walks.append(self.fire())

    def step(self, number: int) -> None:
        if self.walks:
            walk = self.walks[number % len(self.walks)]
            if next(walk, self) is self:
                self.walks.remove(walk)

    def crash(self, number: int) -> None:
        if self.walks:
            del self.walks[number % len(self.walks)]

    @property
    def topology_is_known(self) -> bool:
        seen = self.stream.said(self.read().life_episode, Fact.TOPOLOGY_ESTABLISHED)
        return seen is not None or "TopologyTerminated" in str(self.cluster.document["status"]["conditions"])

    def settle(self) -> None:
        """Everything that is under way comes to its end."""
        while self.walks:
            self.step(0)
        for watcher in self.watchers:
            for kind in KINDS:
                while watcher.see(kind):
                    pass
            watcher.sweep()
        for _ in range(5):
            for subject in self.pending:
                for _ in self.walk(subject):
                    pass
        waits = self.cluster.canceled and not self.cluster.finished and not self.cluster.topology_gone
        assert waits or not self.pending, "a message is never acknowledged"


ACTIONS: Final = (
    *(Mesh.watch,) * 6,
    *(Mesh.step,) * 6,
    *(Mesh.deliver,) * 3,
    Mesh.cancel,
    Mesh.stamp_fence,
    Mesh.connect,
    Mesh.disconnect,
    Mesh.disconnect,
    Mesh.churn,
    Mesh.crash,
    Mesh.sweep,
    Mesh.restart,
    Mesh.deadline,
    Mesh.hub_says_gone,
    Mesh.hub_takes_it_back,
    Mesh.hub_starts_late,
    Mesh.bobrapet_finishes,
)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), min_size=40, max_size=100))
def test_a_stop_happens_once_in_any_order(actions: list[tuple[Callable[[Mesh, int], None], int]]) -> None:
    mesh = Mesh()
    for action, number in actions:
        action(mesh, number)
    cluster = mesh.cluster
    event("finished" if cluster.finished else "canceled" if cluster.canceled else "running")
    mesh.stamp_fence(0)
    mesh.settle()
    if not cluster.canceled:
        assert not cluster.finished
        assert set(cluster.steps) >= {"listen", "speak"}
        return
    if cluster.topology_gone:
        # A binding that came and went between two looks of every watcher is not known to have been there.
        assert cluster.finished or not mesh.topology_is_known, "topology gone and canceled is enough"
    mesh.walks.append(mesh.fire())
    mesh.settle()
    mesh.settle()
    assert cluster.finishes == 1
    assert cluster.document["status"]["phase"] == bobrapet.FINISHED
    assert cluster.steps == {}


def test_the_shortest_way() -> None:
    """Cancel and fence; the topology goes; both watchers say so; one write, and nothing is left."""
    mesh = Mesh()
    mesh.connect(0)
    mesh.settle()
    mesh.cancel(0)
    mesh.stamp_fence(0)
    mesh.settle()
    assert not mesh.cluster.finished
    mesh.disconnect(0)
    mesh.settle()
    assert not mesh.cluster.finished
    mesh.disconnect(0)
    mesh.settle()
    mesh.settle()
    assert (mesh.cluster.finishes, mesh.cluster.steps) == (1, {})
    run = read_run(mesh.cluster.run, first_seen=NOW, now=NOW, fence_wait=timedelta(0))
    facts = [Fact.TOPOLOGY_ESTABLISHED, Fact.CANCEL_REQUESTED, Fact.TOPOLOGY_TERMINATED, Fact.RUN_TERMINAL]
    said = [fact_subject(run.life_episode if fact is facts[0] else run.episode, fact) for fact in facts]
    assert list(mesh.stream.messages) == said
