"""What is measured, in which order, and how much of it."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

from bench import crowd, deadlines, idle, latency, replay, rooms, scale, storm, telemetry
from bench.report import Row
from bench.stage import Stage
from exeunt_local.binaries import Binaries

Part = Literal["idle", "latency", "storm", "deadlines", "crowd", "scale", "rooms", "telemetry", "replay"]
COMPARED: Final[tuple[Part, ...]] = ("idle", "latency", "storm", "deadlines", "crowd", "scale")
"""With another build."""
ALL: Final[tuple[Part, ...]] = (*COMPARED, "rooms", "telemetry", "replay")
WITH_PEERS: Final[tuple[Part, ...]] = ("idle", "latency", "storm", "deadlines", "scale")
ALONE: Final[tuple[Part, ...]] = ("replay",)
"""On servers of their own."""

Measured = dict[Part, tuple[str, Callable[[], Awaitable[list[Row]]]]]
"""What is said while it is measured, and how."""


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    peer_rounds: int
    """Peers come in the first rounds only: their figures are not held against a target."""
    idle: float
    """Seconds."""
    latency: int
    warm_up: int
    storm: int
    deadlines: int
    spread: timedelta
    finished: int
    crowd: int
    crowd_rounds: int
    live: int
    waiting: int
    waited: float
    """Seconds; no shorter than between two sweeps."""
    calls: int
    telemetry: int
    replayed: int
    stream: int
    settings: dict[str, str]


FULL = Size(
    rounds=8,
    peer_rounds=3,
    idle=3,
    latency=25,
    warm_up=20,
    storm=600,
    deadlines=40,
    spread=timedelta(seconds=1),
    finished=20_000,
    crowd=100,
    crowd_rounds=4,
    live=10_000,
    waiting=5_000,
    waited=35,
    calls=15,
    telemetry=100,
    replayed=10_000,
    stream=1_000_000,
    settings={"EXEUNT_SECOND_LOOK": "4s"},  # the same in all builds
)
QUICK = Size(
    rounds=1,
    peer_rounds=1,
    idle=0.2,
    latency=5,
    warm_up=2,
    storm=10,
    deadlines=5,
    spread=timedelta(seconds=0.25),
    finished=50,
    crowd=5,
    crowd_rounds=1,
    live=50,
    waiting=20,
    waited=0.5,
    calls=2,
    telemetry=2,
    replayed=100,
    stream=1_000,
    settings={"EXEUNT_SECOND_LOOK": "1s"},  # nothing is measured before they are over
)


def on_stage(on: Stage, livekit_server: Path | None, size: Size) -> Measured:
    """What takes turns there. `rooms` is left out without LiveKit."""
    stops, starts = size.storm // 2, min(size.rounds, 3)
    turns = partial(on.turns, peer_rounds=size.peer_rounds)
    stops_in_turn = partial(turns, looking=True)
    found: Measured = {
        "idle": (
            f"Idle: {starts} starts",
            partial(idle.measure, on, rounds=starts, seconds=size.idle),
        ),
        "latency": (
            f"Latency: {size.rounds} times {size.latency} runs a side, in both orders",
            partial(latency.measure, on, stops_in_turn, runs=size.latency, warm_up=size.warm_up, rounds=size.rounds),
        ),
        "storm": (
            f"Storms: {size.rounds} times {size.storm} stops a side, and as many cancels",
            partial(storm.measure, on, stops_in_turn, runs=size.storm, rounds=size.rounds),
        ),
        "deadlines": (
            f"Deadlines: {size.rounds} times {size.deadlines} a side",
            partial(deadlines.measure, on, turns, runs=size.deadlines, spread=size.spread, rounds=size.rounds),
        ),
        "crowd": (
            f"Crowd: {size.crowd_rounds} times {size.crowd} stops, alone and among {size.finished} finished runs",
            partial(
                crowd.measure,
                on,
                finished=size.finished,
                runs=size.crowd,
                rounds=size.crowd_rounds,
                rest=size.idle,
            ),
        ),
        "scale": (
            f"Scale: {size.live} live calls, {size.waiting} stops that wait",
            partial(scale.measure, on, calls=size.live, waiting=size.waiting, seconds=size.waited),
        ),
        "telemetry": (
            f"Telemetry: {3 * starts} times {stops} stops, {size.telemetry} runs a side four times",
            partial(telemetry.measure, on, stops=stops, rounds=starts, runs=size.telemetry, warm_up=size.warm_up),
        ),
    }
    if livekit_server is not None:
        measure = partial(rooms.measure, on, livekit_server, calls=size.calls)
        found["rooms"] = f"Rooms: {size.calls} real calls a side", measure
    return found


def alone(servers: Binaries, size: Size) -> Measured:
    """What has servers of its own."""
    return {
        "replay": (
            f"Replay: {size.replayed} events, and one run in a stream of {size.stream}",
            partial(replay.measure, servers, events=size.replayed, stream=size.stream),
        )
    }
