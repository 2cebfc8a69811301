"""One stop from end to end without I/O: the real machines of terminator and timeout-scheduler, and the watcher's
deciding modules, with everything around them in an order that hypothesis chooses (`simulation`).

Whatever the order: a run is ended at most once in each life, and once in the end; never before its cancel and fence,
never while it is opted out, never while its topology is up and its deadline has not come; no StepRun goes before that,
none of a later life ever, and in the end none is left; a deadline is the one of the cancel, and is not said again while
it is not settled. Each of these promises is broken on purpose, and found out.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from core.objects import FENCE_WAIT, NOW
from core.simulation import ACTIONS, Action, Mesh, simulate
from exeunt import bobrapet
from exeunt.events import Fact
from exeunt.rules import Case
from exeunt.snapshot import RunState, read_run
from exeunt.subjects import fact_subject
from exeunt_terminator import decision, evidence, machine
from exeunt_terminator.commands import Ack
from exeunt_terminator.finalize import finalizing_patch
from exeunt_terminator.stop import TRANSITIONS, Result, State
from exeunt_timeout_scheduler import way
from exeunt_timeout_scheduler.machine import Scheduling

MOST_SEEDS: Final = 3000
"""Within which every planted bug is found; most take some dozens."""


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), min_size=40, max_size=140))
def test_a_stop_happens_once_in_any_order(actions: list[tuple[Action, int]]) -> None:
    cluster = simulate(actions).cluster
    event(f"life {cluster.life}: {'finished' if cluster.finished else 'canceled' if cluster.canceled else 'running'}")


def seeded(seed: int) -> Mesh:
    """A simulation that one number decides."""
    chance = random.Random(seed)
    return simulate([(chance.choice(ACTIONS), chance.randrange(8)) for _ in range(chance.randrange(40, 140))])


def test_one_seed_decides_everything() -> None:
    one, other = seeded(1), seeded(1)
    assert list(one.stream.messages.values()) == list(other.stream.messages.values())
    assert one.cluster.document == other.cluster.document


def broken_promises() -> Iterator[str]:
    """What simulations say that find something wrong: a bug may break one promise first, and then another."""
    for seed in range(MOST_SEEDS):
        try:
            seeded(seed)
        except AssertionError as broken:
            yield str(broken)


def without_rules(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(decision, "RULES", tuple(rule for rule in decision.RULES if rule.name not in names))


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are ended that nobody has canceled."""
    without_tests(monkeypatch, "/spec/cancelRequested")
    without_rules(monkeypatch, "not-canceled")
    (unfenced,) = (rule for rule in decision.RULES if rule.name == "unfenced")

    def of_canceled_runs(case: Case) -> bool:
        return case.snapshot.run.cancel_requested and unfenced.applies(case)

    rules = (rule._replace(applies=of_canceled_runs) if rule is unfenced else rule for rule in decision.RULES)
    monkeypatch.setattr(decision, "RULES", tuple(rules))


def without_tests(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    """The conditional write does not look at what is there."""

    def blind(run: RunState, now: Any) -> bytes:
        operations = msgspec.json.decode(finalizing_patch(run, now))
        return msgspec.json.encode([each for each in operations if each["op"] == "add" or each["path"] not in paths])

    monkeypatch.setattr(machine, "finalizing_patch", blind)


def ways(monkeypatch: pytest.MonkeyPatch, state: State, result: Result, target: State) -> None:
    monkeypatch.setitem(TRANSITIONS[state], result, target)


FENCED: Final = "/metadata/annotations/" + bobrapet.FENCE.replace("/", "~1")
ENABLED: Final = "/metadata/annotations/" + bobrapet.ENABLED.replace("/", "~1")
Bug = Callable[[pytest.MonkeyPatch], None]
BUGS: Final[dict[str, tuple[Bug, str]]] = {
    "a cancel is not waited for": (
        eager,
        "a run that is not canceled is not ended",
    ),
    "the fence is not waited for": (
        lambda patch: without_rules(patch, "unfenced"),
        "no run is ended before its fence",
    ),
    "opted-out runs are ended": (
        lambda patch: without_rules(patch, "opted-out"),
        "a run that is opted out is not ended",
    ),
    "an opt-out that comes between is overwritten": (
        lambda patch: without_tests(patch, ENABLED),
        "a run that is opted out is not ended",
    ),
    "a fact is believed that its topology is gone": (
        lambda patch: ways(patch, State.DECIDING, Result.FINALIZE, State.PATCHING),
        "no run is ended early",
    ),
    "a signal that was taken back counts": (
        lambda patch: patch.setattr(machine, "still_signaled", lambda *_, **__: True),
        "no run is ended early",
    ),
    "the deadline of an earlier cancel counts": (
        lambda patch: without_rules(patch, "new-episode"),
        "no run is ended early",
    ),
    "a write is not conditional": (
        lambda patch: without_tests(patch, "/status/phase", "/status/finishedAt", "/status/conditions", FENCED),
        "a run ends once",
    ),
    "StepRuns go before the write": (
        lambda patch: ways(patch, State.CHECKING, Result.STILL_GONE, State.DELETING),
        "StepRuns go after the status was written",
    ),
    "what is listed is deleted unconfirmed": (
        lambda patch: ways(patch, State.LISTING, Result.LISTED, State.DELETING),
        "never those of a later life",
    ),
    "nobody takes a second look": (
        lambda patch: patch.setattr(machine, "SecondLook", Ack),
        "nothing is left",
    ),
    "a lost condition is the end": (
        lambda patch: ways(patch, State.PATCHING, Result.CONDITION_LOST, State.DONE),
        "topology gone and canceled is enough",
    ),
    "a topology that is up again is forgotten": (
        lambda patch: ways(patch, State.CHECKING, Result.UP_AGAIN, State.DONE),
        "topology gone and canceled is enough",
    ),
    "a request that failed is not tried again": (
        lambda patch: ways(patch, State.CHECKING, Result.FAILED, State.DONE),
        "topology gone and canceled is enough",
    ),
    "a late signal does not help a fact that stands on something else": (
        lambda patch: patch.setattr(
            machine,
            "possible_evidence",
            lambda topology: (
                [kind for kind in evidence.possible_evidence(topology) if kind != "signal"]
                if topology.gone and topology.gone.kind != "signal"
                else evidence.possible_evidence(topology)
            ),
        ),
        "a message is never acknowledged",
    ),
    "deadlines are not acted on": (
        lambda patch: without_rules(patch, "deadline"),
        "every stop ends",
    ),
    "a deadline is not held": (
        lambda patch: patch.setattr(Scheduling, "_hold", lambda *_: way.Result.INSTANT),
        "no run is ended early",
    ),
    "nothing is armed that was lost": (
        lambda patch: patch.setitem(
            way.TRANSITIONS[way.State.LOOKING_BACK], way.Result.NEVER_PUBLISHED, way.State.DONE
        ),
        "every stop ends",
    ),
    "an edit of the Story after the cancel moves the deadline": (
        lambda patch: patch.setattr(Scheduling, "_as_published", lambda *_: None),
        "the deadline is the one of the cancel",
    ),
    "an overdue run is not said again": (
        lambda patch: patch.setitem(way.TRANSITIONS[way.State.LOOKING_BACK], way.Result.OVERDUE, way.State.DONE),
        "every stop ends",
    ),
    "an overdue run is said again while terminators have the last event": (
        lambda patch: patch.setattr(Scheduling, "_is_settled", lambda *_: True),
        "what is not settled is not said again",
    ),
    "another's write is taken for an own one": (
        lambda patch: patch.setattr(machine, "format_status_time", lambda _: "2026-11-24T18:13:33Z"),
        "what is recorded as written was written",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, promise = BUGS[bug]
    plant(monkeypatch)
    assert any(promise in broken for broken in broken_promises())


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
    assert (mesh.cluster.ends, mesh.cluster.steps) == ({1: 1}, {})
    run = read_run(mesh.cluster.run, first_seen=NOW, now=NOW, fence_wait=FENCE_WAIT)
    facts = [Fact.TOPOLOGY_ESTABLISHED, Fact.CANCEL_REQUESTED, Fact.TOPOLOGY_TERMINATED, Fact.RUN_TERMINAL]
    said = [fact_subject(run.life_episode if fact is facts[0] else run.episode, fact) for fact in facts]
    assert list(mesh.stream.messages) == said
