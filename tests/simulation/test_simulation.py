"""All of Exeunt without I/O: its real machines, two or more processes of each service, in a world that one seed decides
(`world`). What is promised is in `invariants`; each promise is broken on purpose, and found out.
"""

import os
from collections import Counter

import pytest

from simulate import play_many
from simulation.bugs import BUGS
from simulation.coverage import expected
from simulation.plan import plan
from simulation.play import play, shrink

SEEDS = 10_000 if os.environ.get("CI") == "true" else 1_000
MOST_SEEDS = 4_000
"""Within which every planted bug is found; most take some dozens."""
ENOUGH_TO_SEE_ALL = 10_000
NEVER = {
    "scheduler hears: Denied",  # permissions of an older version: no world has them
    "watcher hears: RunUndecodable",
    "terminator deciding: dry run",
    "terminator deciding: by the word of the event only",  # what is published of a stop is of an unfinished run
    "scheduler asking: failed",  # once in some ten thousand: few runs are overdue (tests/core/test_deadlines.py)
}


@pytest.mark.timeout(900)
def test_nothing_is_broken_by_any_seed() -> None:
    failures, happened = [], Counter[str]()
    for failed, seen in play_many(0, SEEDS):
        failures += failed
        happened += seen
    assert not failures, f"make simulate SEED={failures[0].seed}"
    missing = {what for what in expected() - NEVER if not happened[what]}
    assert SEEDS < ENOUGH_TO_SEE_ALL or not missing, missing


def test_one_seed_decides_everything() -> None:
    one, other = play(7, traced=True)[0], play(7, traced=True)[0]
    assert one.trace
    assert one.trace == other.trace


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, promise = BUGS[bug]
    plant(monkeypatch)
    for seed in range(MOST_SEEDS):
        _, broken = play(seed)
        if broken is not None and promise in broken:
            return
    raise AssertionError(f"nobody noticed in {MOST_SEEDS} simulations")


def test_what_fails_is_shrunk_to_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    plant, promise = BUGS["deadlines are not acted on"]
    plant(monkeypatch)
    seed = next(seed for seed in range(MOST_SEEDS) if promise in (play(seed)[1] or ""))
    actions, why = shrink(seed)
    assert play(seed, actions)[1] == why
    assert 0 < len(actions) < len(plan(seed))
    assert not any(play(seed, [each for each in actions if each is not action])[1] for action in actions)
