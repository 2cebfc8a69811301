"""Play one seed, or many; print, repeat and shrink what fails."""

import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from simulation import coverage
from simulation.plan import plan
from simulation.world import Action, World


class Failure(NamedTuple):
    seed: int
    why: str


def play(seed: int, actions: Sequence[Action] | None = None, *, traced: bool = False) -> tuple[World, str | None]:
    """One simulation, and what went wrong in it."""
    world = World(seed, propagates=seed % 4 == 0, instances=2 + (seed % 10 == 0), traced=traced)
    try:
        world.live(plan(seed) if actions is None else actions)
    except AssertionError as broken:
        return world, str(broken) or traceback.format_exc().splitlines()[-2].strip()
    except Exception:  # noqa: BLE001 - whatever it is, its seed has to be told
        return world, traceback.format_exc()
    return world, None


def play_all(seeds: Iterable[int]) -> tuple[list[Failure], Counter[str]]:
    coverage.record()
    coverage.walked.clear()
    failures, happened = [], Counter[str]()
    for seed in seeds:
        world, broken = play(seed)
        happened.update(world.happened)
        if broken is not None:
            failures.append(Failure(seed, broken))
    return failures, happened + coverage.walked


def shrink(seed: int) -> tuple[list[Action], str]:
    """The fewest actions with which it still fails, for whatever reason, dropping one after the other."""
    actions = plan(seed)
    _, why = play(seed, actions)
    assert why is not None, f"seed {seed} does not fail"
    dropped = True
    while dropped:
        dropped = False
        for action in reversed(actions):
            fewer = [each for each in actions if each is not action]
            _, still = play(seed, fewer)
            if still is not None:
                actions, why, dropped = fewer, still, True
    return actions, why
