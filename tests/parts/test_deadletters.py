"""Messages that a real pull loop has set aside: listed, shown, republished once however often it is tried, dropped."""

import asyncio
import base64
import json
import os
import pty
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.command import exeunt, state_of
from actors.streams import subjects
from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.delivery import DeadLetter as SetAside
from exeunt.bus.delivery import Delivery
from exeunt.bus.mesh_streams import deadletters_stream, deadlines_stream, runs_stream, signals_stream
from exeunt.bus.publisher import message_at, publish
from exeunt.bus.pull import PullLoop
from exeunt.bus.streams import ensure_stream
from exeunt.clock import parse_instant
from exeunt.errors import UsageError
from exeunt.events.messages import Message, header_size
from exeunt.events.subjects import DEADLETTERS, DEADLINES, RUNS, SIGNALS
from exeunt.history.file import read_history
from exeunt.history.record import Record
from exeunt_cli.dead_letter import dead_letter, render_letter, republished
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer

FILE: Final = Path(__file__).parents[1] / "histories" / "cancel-then-gone.jsonl"
HEARD: Final = {RUNS: "exeunt.runs.>", DEADLINES: "exeunt.deadlines.due.>", SIGNALS: "exeunt.signals.>"}
DUE: Final = "exeunt.deadlines.due.livekit-voice.call.uid-1.first"


@pytest.fixture
async def server(servers: Binaries, tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, binary=servers.nats_server) as server:
        yield server


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    bus = await connect(server.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
    for stream in (runs_stream(), deadlines_stream(), signals_stream(), deadletters_stream()):
        await ensure_stream(bus, stream)
    yield bus
    await bus.close(5)


def run_events() -> list[Record]:
    """Two events of one run, on which the terminator may stumble."""
    records = read_history(FILE.read_bytes().splitlines(keepends=True)).records
    message = [record for record in records if record.subject.endswith((".cancel-requested", ".topology-terminated"))]
    return [record for record in message if ".outcome." not in record.subject]


async def store(bus: Bus, subject: str, data: bytes, headers: dict[str, str], last: int | None = 0) -> None:
    message = Message(subject=subject, payload=data, headers=headers, expected_last_subject_sequence=last)
    await publish(bus, message, deadline=5)


async def publish_events(bus: Bus) -> None:
    for record in run_events():
        headers = {name: value for name, value in record.headers.items() if not name.lower().startswith("nats-")}
        await store(bus, record.subject, record.data, headers)


async def set_aside(bus: Bus, stream: str, durable: str, *, count: int, reason: str) -> list[Delivery]:
    """A service that sets aside whatever it hears; returns when the server has nothing more to do about it."""
    ensure = partial(ensure_consumer, bus, stream, durable, (HEARD[stream],), ack_wait=10, max_ack_pending=100)
    await ensure()
    heard: list[Delivery] = []

    async def handle(delivery: Delivery) -> SetAside:
        heard.append(delivery)
        return SetAside(reason)

    before = await letters(bus)
    loop = PullLoop(bus, stream, durable, max_in_flight=1, recreate=ensure, ack_wait=10, max_deliveries=20)
    running = asyncio.create_task(loop.run(handle))
    async with asyncio.timeout(10):
        while await letters(bus) < before + count:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.01)
    await loop.stop(5)
    await running
    async with asyncio.timeout(10):  # the server takes in what was acknowledged in its own time
        while (await bus.api(f"CONSUMER.INFO.{stream}.{durable}"))["num_ack_pending"]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    return heard


async def letters(bus: Bus) -> int:
    return sum((await subjects(bus, DEADLETTERS)).values())


async def messages(bus: Bus, stream: str) -> int:
    return sum((await subjects(bus, stream)).values())


async def test_what_is_set_aside_is_listed_and_shown_and_nothing_changes(bus: Bus, server: NatsServer) -> None:
    await publish_events(bus)
    await set_aside(bus, RUNS, "terminator", count=2, reason="the write was refused")
    await store(bus, "exeunt.deadletters.stranger", b"\xff", {})
    before = await state_of(bus.nc)
    table, wide, array, lines, other, shown, strange = await asyncio.gather(
        exeunt(server, "deadletters", "list"),
        exeunt(server, "deadletters", "list", "-o", "wide"),
        exeunt(server, "deadletters", "list", "-o", "json"),
        exeunt(server, "deadletters", "list", "-o", "jsonl", "-n", "livekit-voice"),
        exeunt(server, "deadletters", "list", "-n", "elsewhere"),
        exeunt(server, "deadletters", "show", "1"),
        exeunt(server, "deadletters", "show", "3", "-o", "json"),
    )
    assert await state_of(bus.nc) == before

    header, first, second, third = table.out.splitlines()
    assert header.split()[:2] == ["SEQ", "SET"]
    assert first.split()[2:6] == ["terminator", "livekit-voice/cancel-then-gone", "cancel-requested", "1"]
    assert first.endswith("   the write was refused")
    assert "topology-terminated" in second
    assert third.split()[2:] == ["stranger", "-", "-", "-", "-"]
    assert run_events()[0].subject in wide.out
    reported = json.loads(array.out)
    assert [letter["sequence"] for letter in reported] == [1, 2, 3]
    assert reported[0]["data"] == json.loads(run_events()[0].data)
    assert [json.loads(line)["sequence"] for line in lines.out.splitlines()] == [1, 2]
    assert (other.code, other.out, other.err) == (0, "", "exeunt: nothing is set aside\n")
    assert "the write was refused" in shown.out
    assert '"cancel_requested": true' in shown.out
    assert json.loads(strange.out)["data_base64"] == "/w=="


async def test_a_message_is_published_again_once_however_often_that_is_tried(bus: Bus, server: NatsServer) -> None:
    await publish_events(bus)
    await set_aside(bus, RUNS, "terminator", count=2, reason="the write was refused")
    tries = await asyncio.gather(*(exeunt(server, "deadletters", "republish", "1") for _ in range(3)))
    # Whoever comes when it is off the list does not find it any more.
    assert {(ran.code, ran.out.partition(" on ")[0]) for ran in tries} <= {
        (0, "1: republished"), (0, "1: was republished before"), (3, "")}  # fmt: skip
    assert (0, f"1: republished on {run_events()[0].subject}, sequence 3\n") in [(ran.code, ran.out) for ran in tries]
    assert await messages(bus, RUNS) == 3
    assert await letters(bus) == 1

    again, *_ = await set_aside(bus, RUNS, "terminator", count=1, reason="refused again")
    assert again.stream_sequence == 3
    assert again.data == run_events()[0].data
    assert again.headers["ce-id"] == run_events()[0].headers["ce-id"]
    assert not any(name.startswith("exeunt-") for name in again.headers)
    # It has failed a second time: that is another letter, and can be published again, too.
    everything = await exeunt(server, "deadletters", "republish", "--all")
    assert [line.partition(" on ")[0] for line in everything.out.splitlines()] == ["2: republished", "3: republished"]
    assert await messages(bus, RUNS) == 5
    assert await letters(bus) == 0


async def test_an_interrupted_republishing_is_only_finished(bus: Bus, server: NatsServer) -> None:
    await publish_events(bus)
    await set_aside(bus, RUNS, "terminator", count=2, reason="the write was refused")
    stored = await message_at(bus, DEADLETTERS, 2)
    assert stored is not None
    letter = dead_letter(stored.sequence, stored.timestamp, stored.subject, stored.headers, stored.data)
    await publish(bus, republished(letter, expected=letter.stream_sequence), deadline=5)  # and there it was killed
    ran = await exeunt(server, "deadletters", "republish", "2")
    assert ran.out == f"2: was republished before on {run_events()[1].subject}, sequence 3\n"
    assert await messages(bus, RUNS) == 3
    assert await letters(bus) == 1


async def test_what_is_gone_from_its_stream_is_published_again_all_the_same(bus: Bus, server: NatsServer) -> None:
    await store(bus, DUE, b"due", {}, last=None)
    await set_aside(bus, DEADLINES, "timeout-scheduler-due", count=1, reason="no deadline")
    async with asyncio.timeout(10):  # a workqueue lets go of what is acknowledged in its own time
        while await messages(bus, DEADLINES):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.01)
    ran = await exeunt(server, "deadletters", "republish", "--all", "-n", "livekit-voice")
    assert ran.out == f"1: republished on {DUE}, sequence 2\n"
    assert await messages(bus, DEADLINES) == 1


async def test_what_was_cut_is_shown_and_not_published_again(bus: Bus, server: NatsServer) -> None:
    """A signal as large as NATS takes it: with the reason it is larger."""
    body = b"x" * (bus.nc.max_payload - 100)
    await bus.api(f"STREAM.UPDATE.{SIGNALS}", signals_stream().config() | {"max_msg_size": -1})  # as it once was
    await store(bus, "exeunt.signals.livekit-voice.call", body, {"ce-id": "1"})
    await set_aside(bus, SIGNALS, "watcher-signals", count=1, reason="no signal")
    before = await state_of(bus.nc)
    shown, reported, republished_ = await asyncio.gather(
        exeunt(server, "deadletters", "show", "1"),
        exeunt(server, "deadletters", "show", "1", "-o", "json"),
        exeunt(server, "deadletters", "republish", "1"),
    )
    size = len(body) + header_size({"ce-id": "1", "Nats-Expected-Last-Subject-Sequence": "0"})
    assert re.search(rf"Cut from: +{size}\n", shown.out)
    letter = json.loads(reported.out)
    assert letter["cut_from"] == size
    assert body.startswith(base64.b64decode(letter["data_base64"]))
    assert (republished_.code, republished_.out) == (2, "")
    assert f"only the beginning of a message of {size} bytes; the whole is sequence 1 of the stream" in republished_.err
    assert "`nats stream get SIGNALS 1`" in republished_.err
    assert await state_of(bus.nc) == before

    # It does not keep those behind it.
    await publish_events(bus)
    await set_aside(bus, RUNS, "terminator", count=2, reason="the write was refused")
    everything = await exeunt(server, "deadletters", "republish", "--all")
    assert everything.code == 2
    assert [line.partition(" on ")[0] for line in everything.out.splitlines()] == ["2: republished", "3: republished"]
    assert "only the beginning of a message" in everything.err
    assert everything.err.endswith("1 of the dead letters cannot be republished, as shown above\n")
    assert await letters(bus) == 1


async def test_dropping_wants_a_yes(bus: Bus, server: NatsServer) -> None:
    await publish_events(bus)
    await set_aside(bus, RUNS, "terminator", count=2, reason="the write was refused")
    unasked = await exeunt(server, "deadletters", "drop", "1")
    assert (unasked.code, await letters(bus)) == (2, 2)
    assert "say --yes" in unasked.err
    assert (await exeunt(server, "deadletters", "drop", "1", "--yes")).out == "1: dropped\n"
    assert await letters(bus) == 1
    assert await on_a_terminal(server, "n\n", "deadletters", "drop", "--all") == 0
    assert await letters(bus) == 1
    assert await on_a_terminal(server, "y\n", "deadletters", "drop", "--all") == 0
    assert (await letters(bus), await messages(bus, RUNS)) == (0, 2)


async def test_what_somebody_else_has_dropped_meanwhile_is_dropped(bus: Bus, server: NatsServer) -> None:
    await publish_events(bus)
    await set_aside(bus, RUNS, "terminator", count=2, reason="the write was refused")
    other = partial(exeunt, server, "deadletters", "drop", "1", "--yes")
    assert await on_a_terminal(server, "y\n", "deadletters", "drop", "1", meanwhile=other) == 0
    assert await letters(bus) == 1


async def nothing() -> None:
    pass


async def on_a_terminal(
    server: NatsServer, typed: str, *arguments: str, meanwhile: Callable[[], Awaitable[object]] = nothing
) -> int | None:
    """Run it on a terminal on which an answer is typed when it has asked, after `meanwhile`; its exit code."""
    here, there = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", *arguments),
        stdin=there,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "EXEUNT_NATS_URL": server.url},
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readuntil(b"[y/N] ")
        await meanwhile()
        os.write(here, typed.encode())
        await process.communicate()
        code = process.returncode
    os.close(here)
    os.close(there)
    return code


@pytest.mark.parametrize(
    ("code", "message", "arguments"),
    [
        (2, "say which ones", ("republish",)),
        (2, "say which ones", ("drop", "1", "--all", "--yes")),
        (2, "cannot be republished: its headers name no subject", ("republish", "1")),
        (3, "there is no dead letter 9", ("show", "9")),
        (3, "there is no dead letter 9", ("republish", "1", "9")),
    ],
)
async def test_an_exit_code_tells_what_was_wrong_and_nothing_is_done(
    bus: Bus, server: NatsServer, code: int, message: str, arguments: tuple[str, ...]
) -> None:
    await store(bus, "exeunt.deadletters.stranger", b"hello", {"exeunt-stream": RUNS, "exeunt-subject": "elsewhere.a"})
    before = await state_of(bus.nc)
    ran = await exeunt(server, "deadletters", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert await state_of(bus.nc) == before


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["exeunt-stream", "exeunt-subject", "exeunt-sequence", "Nats-Msg-Id"]), st.text())
)
def test_whatever_was_set_aside_can_be_reported(headers: dict[str, str]) -> None:
    letter = dead_letter(1, parse_instant("2026-11-24T00:00:00Z"), "exeunt.deadletters.x", headers, b"\0")
    assert render_letter(letter)["consumer"] == "x"
    with pytest.raises(UsageError, match="dead letter 1 cannot be republished"):
        republished(letter, expected=0)
