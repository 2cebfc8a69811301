"""`make simulate`: play many seeds on all cores and print those that fail, or one seed with its trace, shrunk."""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from simulation.play import Failure, play, play_all, shrink

_CHUNK = 50
"""Seeds that a process plays before it tells what came of them."""


def play_many(first: int, seeds: int) -> Iterator[tuple[list[Failure], Counter[str]]]:
    """On all cores, chunk by chunk, in any order."""
    os.environ["PYTHONHASHSEED"] = "0"  # the order of sets is a part of what repeats exactly
    chunks = [range(at, min(at + _CHUNK, first + seeds)) for at in range(first, first + seeds, _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        yield from pool.imap_unordered(play_all, chunks)


def _print(*lines: object) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one, with its trace")
    parser.add_argument("--seeds", type=int, default=10_000, help="play so many")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    told = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})
    return _one(told.seed) if told.seed is not None else _many(told.first, told.seeds)


def _one(seed: int) -> int:
    world, broken = play(seed, traced=True)
    if broken is not None:
        actions, _ = shrink(seed)
        world, broken = play(seed, actions, traced=True)
        _print("It still fails with only these actions:", *actions, "")
    _print(*(world.trace or ()))
    _print(f"\nseed {seed}: {broken or 'all is well'}")
    return 1 if broken else 0


def _many(first: int, seeds: int) -> int:
    began, done, failed = time.monotonic(), 0, 0
    for failures, _ in play_many(first, seeds):
        done += _CHUNK
        failed += len(failures)
        for seed, why in failures:
            _print(f"seed {seed}: {why}    (make simulate SEED={seed})")
    _print(f"{min(done, seeds)} seeds in {time.monotonic() - began:.0f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
