"""What a seed plans: a few calls, what people do to them, and what fails meanwhile. Each seed leaves most kinds of
faults out, so that what happens together differs from seed to seed.
"""

import random
from typing import Final

from simulation.faults import Fault
from simulation.world import CALM, DISASTERS, PEOPLE, TRAPS, Action

RUNS: Final = ("call", "chat", "talk")
_PROCESSES: Final = tuple(
    f"{service}-{i}" for service in ("watcher", "terminator", "scheduler", "bridge") for i in (1, 2)
)
_CLOCKS: Final = (*_PROCESSES, "nats", "operator")
_OF_ALL: Final = (
    "trap",
    "requests fail",
    "writes are refused",
    "restart kube-apiserver",
    "restore etcd",
    "wipe NATS",
    "NATS dies",
    "stop NATS",
    "lose consumer",
    "operator down",
)
_SELDOM: Final = (Fault.GIVEN_UP, Fault.ANSWER_LOST, Fault.REQUEST_LOST, Fault.FORBIDDEN, Fault.CONFLICT, Fault.REFUSED)
"""They strike only the one write that ends a run."""
_DONE_TO_CALLS: Final = tuple(what for what in PEOPLE if what not in ("create", "cancel"))


def plan(seed: int) -> list[Action]:
    chance = random.Random(f"plan {seed}")
    actions = []
    runs = RUNS[: chance.choice((1, 1, 1, 2, 2, 3))]
    deeds = chance.sample(_DONE_TO_CALLS, chance.randrange(2, 9))
    for run in runs:
        created_at = chance.uniform(0.0, 6.0)
        actions.append(Action(created_at, "create", run, chance.randrange(10)))
        plotted = run == runs[0] and chance.random() < 0.6
        if plotted:
            actions += _plot(chance, run)
        elif chance.random() < 0.85:
            actions.append(Action(chance.uniform(created_at, 25), "cancel", run))
        if chance.random() < 0.3:
            actions += _again(chance, run)
        for _ in range(chance.randrange(0, 3 if plotted else 8)):
            actions.append(
                Action(chance.uniform(created_at, CALM - 5), chance.choice(deeds), run, chance.randrange(12))
            )
    actions += _faults(chance)
    return sorted(actions)


def _again(chance: random.Random, run: str) -> list[Action]:
    """Another attempt of the run, or another run of its name."""
    at = chance.uniform(15, 32)
    if chance.random() < 0.7:
        again = [Action(at, "redrive", run, chance.randrange(2))]
    else:
        again = [Action(at, "delete", run), Action(at + chance.uniform(0.5, 3), "recreate", run, chance.randrange(10))]
    return [*again, Action(at + chance.uniform(0.5, 8), "cancel", run)]


def _plot(chance: random.Random, run: str) -> list[Action]:
    """What has to come together to be of interest."""
    kind, at = chance.randrange(8), chance.uniform(8, 24)
    if kind == 0:  # nobody arms what was opted out at its cancel, and what is armed may be opted out before it is due
        whose = chance.choice(("", "Story "))
        left = [Action(at + chance.choice((-4, 5)), "cancel", run), Action(at, f"opt {whose}out", run)]
        opted_in = Action(at + chance.uniform(6, 14), f"opt {whose}in", run)
        return [*left, opted_in] if chance.random() < 0.6 else left
    if kind == 1:  # the stream refuses what is published at the cancel
        gone = Action(at - 1, chance.choice(("signal gone", "stop engrams", "leave room")), run)
        refused = Action(at, f"fault: {Fault.PUBLISH_REFUSED}", "", 2, chance.uniform(2, 6))
        return [gone, refused, Action(at + 1, "cancel", run)]
    gone_at = at + chance.uniform(0.5, 6)
    gone = Action(gone_at, chance.choice(("signal gone", "delete bindings", "stop engrams")), run)
    trap = Action(at, "trap", "", chance.randrange(len(TRAPS)), chance.uniform(0.1, 9))
    return [Action(at, "cancel", run), trap, gone]


def _faults(chance: random.Random) -> list[Action]:
    actions = []
    kinds = chance.sample((*Fault, *DISASTERS), chance.randrange(0, 7))
    if chance.random() < 0.3:
        kinds.append(chance.choice(_SELDOM))
    for kind in kinds:
        for _ in range(chance.randrange(1, 4)):
            at = chance.uniform(0, CALM - 10)
            number = chance.randrange(12)
            if kind in _OF_ALL:
                actions.append(Action(at, kind, "", number, chance.uniform(0.5, 15)))
            elif kind == "set clock":
                actions.append(Action(at, kind, chance.choice(_CLOCKS), number))
            elif kind in DISASTERS:
                actions.append(Action(at, kind, chance.choice(_PROCESSES), number, chance.uniform(0.1, 15)))
            else:
                whom = chance.choice((*_PROCESSES, *[""] * 6))
                actions.append(Action(at, f"fault: {kind}", whom, number, chance.uniform(1, 30)))
    return actions
