"""How long it takes to decide a long history again, and to find one run in a stream of very many events.

The floor of the second is a raw read: the same events by sequence numbers that are known already, one request each.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from nats.aio.client import Client

from bench.report import Row
from exeunt.bus.connection import Bus, connect
from exeunt.bus.mesh_streams import runs_stream
from exeunt.bus.publisher import message_at
from exeunt.bus.streams import ensure_stream
from exeunt.events.subjects import RUNS
from exeunt.history.file import line_of, read_history
from exeunt.history.reading import read, run_filter
from exeunt.history.record import Record
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer

_HISTORY: Final = Path(__file__).parents[1] / "histories" / "released" / "v1.jsonl"
_RUN: Final = "cancel-then-gone"
_TRIES: Final = 25
_WINDOW: Final = 4_096
"""Publishes between two flushes: the server drops what comes faster than it can store."""


async def measure(servers: Binaries, *, events: int, stream: int) -> list[Row]:
    """Check a file of `events` events; find a run of six in a stream of `stream`."""
    recorded = _recorded()
    with tempfile.TemporaryDirectory(prefix="exeunt-bench-replay-") as folder:
        took = await _check(Path(folder) / "run.jsonl", recorded, events)
        async with NatsServer(Path(folder) / "nats", binary=servers.nats_server) as server:
            bus = await connect(server.url, name="bench", inbox_prefix="_INBOX_bench", connect_timeout=5)
            try:
                await ensure_stream(bus, runs_stream())
                await _fill(bus, recorded, stream)
                floor, found = await _find(bus)
            finally:
                await bus.close(5)
    return [
        Row(what=f"replay --check of {events} events", unit="s", exeunt=took, at_most=2),
        Row(what=f"one run out of {stream} events", unit="ms", exeunt=found, floor=floor),
    ]


def _recorded() -> list[Record]:
    return read_history(_HISTORY.read_bytes().splitlines(keepends=True)).records


async def _check(file: Path, recorded: list[Record], events: int) -> float:
    """Seconds of the whole command, its start included."""
    copies = -(-events // len(recorded))
    last = recorded[-1].sequence
    lines = [_copy(record, number * last, f"n{number}") for number in range(copies) for record in recorded]
    header = _HISTORY.read_bytes().split(b"\n", 1)[0]
    await asyncio.to_thread(file.write_bytes, b"\n".join([header, *lines[:events], b""]))
    began = time.perf_counter()
    command = (sys.executable, "-m", "exeunt_cli", "replay", str(file), "--check")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError("the history was not decided as it was recorded")
    return time.perf_counter() - began


def _copy(record: Record, shift: int, namespace: str) -> bytes:
    """The same event of another run, further on in the stream."""
    moved = msgspec.structs.replace(record, sequence=record.sequence + shift)
    return line_of(moved).replace(b"livekit-voice", namespace.encode())


async def _fill(bus: Bus, recorded: list[Record], events: int) -> None:
    """The run lies scattered among all the others, of which only the subjects matter."""
    client: Client = bus.nc
    wanted = [record for record in recorded if f".{_RUN}." in record.subject]
    others = [record for record in recorded if f".{_RUN}." not in record.subject]
    every = events // len(wanted)
    for number in range(events):
        if number % every == every // 2:
            record = wanted[number // every % len(wanted)]
            await client.publish(record.subject, record.data, headers=record.headers)
        else:
            subject = others[number % len(others)].subject.replace("livekit-voice", f"n{number // 1000}")
            await client.publish(subject, b"{}", headers={"ce-id": "bench"})
        if number % _WINDOW == 0:
            await _stored(bus, number)
    await _stored(bus, events)


async def _stored(bus: Bus, least: int) -> None:
    async with asyncio.timeout(60):
        while (await bus.api(f"STREAM.INFO.{RUNS}"))["state"]["messages"] < least:  # noqa: ASYNC110 - asked for
            await asyncio.sleep(0.001)


async def _find(bus: Bus) -> tuple[float, float]:
    """Milliseconds, medians of many tries: by known sequences, and by the run's subjects."""
    subjects = run_filter("livekit-voice", _RUN)
    sequences = [record.sequence async for record in read(bus, subjects)]
    floors, reads = [], []
    for _ in range(_TRIES):
        began = time.perf_counter()
        for sequence in sequences:
            await message_at(bus, RUNS, sequence)
        floors.append(time.perf_counter() - began)
        began = time.perf_counter()
        found = [record.sequence async for record in read(bus, subjects)]
        reads.append(time.perf_counter() - began)
        if found != sequences:
            raise RuntimeError(f"read {found}, and {sequences} before")
    return 1000 * median(floors), 1000 * median(reads)
