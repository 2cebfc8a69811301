"""What a seed decides: which stops a round has, and which faults, and when. Pure.

A round is some minutes of faults, then calm. Faults of one domain follow each other, those of several overlap.
"""

from random import Random
from typing import Final, Literal, NamedTuple, get_args

Way = Literal[
    "bindings go",
    "bindings went before",
    "the hub says so",
    "a signal says so",
    "deadline",
    "redriven",
    "deleted",
    "opted out",
    "batch",
    "not canceled",
]
"""How a stop goes; the last three are none, and nobody may touch them."""
UNTOUCHABLE: Final[frozenset[Way]] = frozenset({"opted out", "batch", "not canceled"})

_WEIGHTS: Final[dict[Way, float]] = {"deadline": 3, "bindings go": 2, "the hub says so": 2, "a signal says so": 2}
_STOPS_A_SECOND: Final = 0.7

FAULTS: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "services": {
        "service killed": (0, 10),
        "service frozen": (2, 30),
    },
    "NATS": {
        "nats-server killed": (1, 20),
        "leader killed": (1, 20),
        "all nats-servers killed": (5, 70),
        "nats-server frozen": (2, 30),
        "nats-server isolated": (5, 40),
        "streams lost": (0, 0),
        "store full": (5, 30),
    },
    "Kubernetes": {
        "kube-apiserver killed": (0.5, 20),
        "kube-apiserver restarted": (0, 0),
        "service cut off": (5, 40),
        "writes refused": (5, 40),
        "etcd restored": (5, 20),
    },
}
"""Seconds that each may last, by the domain that it happens to."""
_RARE: Final = {"etcd restored"}
"""In every third round: of runs that were there before nobody can tell afterwards what should have come of them."""
KINDS: Final = tuple(kind for domain in FAULTS.values() for kind in domain)
_PAUSE: Final = (2.0, 15.0)
"""Seconds between two faults of a domain."""


class Fault(NamedTuple):
    """It begins `at` so many seconds of the round and `lasts` for so many. `choice` says which of several it meets."""

    at: float
    kind: str
    lasts: float
    choice: int


class Stop(NamedTuple):
    """A run is made `at` so many seconds of the round, canceled `runs` seconds later, and what ends it comes after
    `then` more. `timeout` is its shutdown timeout in seconds.
    """

    at: float
    way: Way
    runs: float
    then: float
    timeout: int
    troubled: bool
    """Whether it belongs to the team whose writes are refused at times."""


class Round(NamedTuple):
    seconds: float
    stops: tuple[Stop, ...]
    faults: tuple[Fault, ...]


def plan(seed: int, number: int, seconds: float, kinds: tuple[str, ...] = KINDS) -> Round:
    """The round of that number: of every seed, number and length there is one."""
    dice = Random(f"{seed}/{number}/{seconds:g}")
    ways = get_args(Way)
    weights = [_WEIGHTS.get(way, 1) for way in ways]
    stops = tuple(
        _stop(dice, way, seconds)
        for way in dice.choices(ways, weights, k=max(len(ways), int(_STOPS_A_SECOND * seconds)))
    )
    rare = set() if number % 3 == 2 else _RARE
    faults = [
        fault
        for domain in FAULTS.values()
        for fault in _faults(dice, {kind: lasts for kind, lasts in domain.items() if kind not in rare}, seconds)
        if fault.kind in kinds
    ]
    return Round(seconds, stops, tuple(sorted(faults)))


def _stop(dice: Random, way: Way, seconds: float) -> Stop:
    timeout = dice.randint(2, 15) if way in ("deadline", "redriven", "deleted") else dice.randint(30, 60)
    return Stop(
        at=dice.uniform(0, seconds),
        way=way,
        runs=dice.uniform(1, 8),
        then=dice.uniform(0, 4),
        timeout=timeout,
        troubled=dice.random() < 0.25,
    )


def _faults(dice: Random, domain: dict[str, tuple[float, float]], seconds: float) -> list[Fault]:
    """One after the other, all of them over by the end of the round."""
    faults: list[Fault] = []
    at = dice.uniform(*_PAUSE)
    restored = False
    while at < seconds:
        kind = dice.choice([kind for kind in domain if not (kind == "etcd restored" and restored)])
        restored = restored or kind == "etcd restored"
        fault = Fault(at, kind, min(dice.uniform(*domain[kind]), seconds - at), dice.randrange(1_000_000))
        faults.append(fault)
        at += fault.lasts + dice.uniform(*_PAUSE)
    return faults
