"""Histories out of a real stream, and the commands that tell them: what is read, and that nothing is changed."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from actors.command import exeunt, state_of
from exeunt.bus.connection import Bus, connect
from exeunt.bus.errors import NoResponders, PermissionDenied
from exeunt.bus.mesh_streams import runs_stream
from exeunt.bus.publisher import publish
from exeunt.bus.streams import ensure_stream
from exeunt.clock import parse_instant
from exeunt.events.messages import Message
from exeunt.history.event import understand_all
from exeunt.history.file import read_history
from exeunt.history.reading import EVERY_RUN, follow, last_record, read, run_filter
from exeunt.history.record import Record
from exeunt.history.stops import stops
from exeunt_cli.check import check
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer

HISTORIES: Final = Path(__file__).parents[1] / "histories"
USERS: Final = """
authorization {
  users: [
    {user: admin, password: admin}
    {user: reader, password: reader, permissions: {
      publish: ["$JS.API.DIRECT.GET.RUNS"], subscribe: ["_INBOX_exeunt.>"]}}
    {user: stranger, password: stranger, permissions: {
      publish: ["nothing"], subscribe: ["_INBOX_exeunt.>"]}}
  ]
}
no_auth_user: admin
"""


@pytest.fixture(scope="module")
async def server(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """One that nothing runs on: what changes there, the reader has changed."""
    folder = tmp_path_factory.mktemp("history-nats")
    async with NatsServer(folder, binary=servers.nats_server, config=USERS) as server:
        yield server


async def connected(server: NatsServer, user: str = "admin") -> Bus:
    url = server.url.replace("nats://", f"nats://{user}:{user}@")
    return await connect(url, name="test", inbox_prefix="_INBOX_exeunt", connect_timeout=5)


@pytest.fixture(scope="module")
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    """RUNS holds all cases of the released history, republished into a stream with other sequences."""
    bus = await connected(server)
    await ensure_stream(bus, runs_stream())
    for number in range(50):
        await store(bus, f"exeunt.runs.elsewhere.other.uid-{number}.first.topology-established", b"{}", {})
    for record in recorded("released/v1"):
        await store(bus, record.subject, record.data, _plain(record.headers))
    yield bus
    await bus.close(5)


def recorded(name: str) -> list[Record]:
    return read_history((HISTORIES / f"{name}.jsonl").read_bytes().splitlines(keepends=True)).records


def _plain(headers: dict[str, str]) -> dict[str, str]:
    """Without what was expected of the stream at that time."""
    return {name: value for name, value in headers.items() if not name.lower().startswith("nats-")}


async def store(bus: Bus, subject: str, data: bytes, headers: dict[str, str]) -> None:
    await publish(bus, Message(subject=subject, payload=data, headers=headers), deadline=5)


async def all_of(bus: Bus, subjects: str, **options: Any) -> list[Record]:
    return [record async for record in read(bus, subjects, **options)]


async def test_a_run_is_read_by_its_subjects(bus: Bus) -> None:
    records = await all_of(bus, run_filter("livekit-voice", "redriven"))
    assert len(records) == 12
    assert {record.subject.split(".")[3] for record in records} == {"redriven"}
    events, problems = understand_all(records)
    assert problems == []
    checked = check(stops(events))
    assert checked.passed
    assert checked.outcomes == 4


async def test_a_stream_is_read_page_by_page(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await all_of(bus, EVERY_RUN)
    monkeypatch.setattr("exeunt.history.reading._PAGE", 7)
    assert await all_of(bus, EVERY_RUN) == whole
    assert [record.sequence for record in whole] == list(range(1, len(whole) + 1))
    assert await all_of(bus, EVERY_RUN, after=whole[20].sequence) == whole[21:]


async def test_a_time_is_read_from_and_to(bus: Bus) -> None:
    whole = await all_of(bus, EVERY_RUN)
    since, until = parse_instant(whole[60].time), parse_instant(whole[80].time)
    some = await all_of(bus, EVERY_RUN, since=since, until=until)
    assert some[0].sequence in range(whole[55].sequence, whole[62].sequence)
    assert all(since <= parse_instant(record.time) <= until for record in some)
    assert whole[80] in some


async def test_what_is_not_there_is_nothing(bus: Bus) -> None:
    assert await all_of(bus, run_filter(None, "nobody")) == []
    assert await last_record(bus, run_filter(None, "nobody")) is None


async def test_the_last_record_is_found_at_once(bus: Bus) -> None:
    last = await last_record(bus, run_filter(None, "unfenced"))
    assert last == (await all_of(bus, run_filter("livekit-voice", "unfenced")))[-1]


async def test_without_a_stream_there_is_nobody_to_ask(servers: Binaries, tmp_path: Path) -> None:
    async with NatsServer(tmp_path, binary=servers.nats_server) as server:
        bus = await connected(server)
        with pytest.raises(NoResponders, match="nobody serves the stream RUNS"):
            await all_of(bus, EVERY_RUN)
        await bus.close(5)


async def test_one_right_is_enough_and_without_it_the_message_names_it(
    bus: Bus, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, stranger = await connected(server, "reader"), await connected(server, "stranger")
    assert len(await all_of(reader, EVERY_RUN)) == len(await all_of(bus, EVERY_RUN))
    monkeypatch.setattr("exeunt.history.reading._PATIENCE", 1)
    with pytest.raises(PermissionDenied, match=r"\$JS.API.DIRECT.GET.RUNS"):
        await all_of(stranger, EVERY_RUN)
    await reader.close(5)
    await stranger.close(5)


async def test_following_goes_on_over_a_restart_of_the_server(servers: Binaries, tmp_path: Path) -> None:
    async with NatsServer(tmp_path, binary=servers.nats_server) as server:
        bus = await connected(server)
        await ensure_stream(bus, runs_stream())
        await store(bus, "exeunt.runs.a", b"before", {})
        following = follow(bus, EVERY_RUN, after=0)
        async with asyncio.timeout(20):
            assert (await anext(following)).data == b"before"
            await server.kill()
            await server.start()
            await store(bus, "exeunt.runs.b", b"after", {})
            assert (await anext(following)).data == b"after"
        await following.aclose()  # type: ignore[attr-defined]  # an async generator
        await bus.close(5)


COMMANDS: Final = [
    ("runs",),
    ("runs", "-o", "wide", "-n", "livekit-voice"),
    ("timeline", "racing"),
    ("timeline", "@latest", "-o", "json"),
    ("explain", "cancel-then-gone"),
    ("export", "redriven"),
    ("report", "racing"),
    ("report", "redriven", "--redact"),
    ("export", "redriven", "--redact"),
    ("replay", "condition-lost"),
    ("replay", "condition-lost", "--check"),
    ("replay", "deadline-default", "--what-if", "shutdown-timeout=5s"),
    ("tail", "--since", "1h", "--until", "0s"),
]


async def test_replaying_reads_only(bus: Bus, server: NatsServer) -> None:
    before = await state_of(bus.nc)
    for ran in await asyncio.gather(*(exeunt(server, *command) for command in COMMANDS)):
        assert (ran.code, bool(ran.out)) == (0, True), ran.err
    assert await state_of(bus.nc) == before


@pytest.mark.usefixtures("bus")
async def test_what_was_exported_tells_and_checks_as_the_stream_does(server: NatsServer, tmp_path: Path) -> None:
    exported = await exeunt(server, "export", "livekit-voice/redriven")
    file = tmp_path / "run.jsonl"
    file.write_text(exported.out)
    from_stream, from_file = await asyncio.gather(
        exeunt(server, "timeline", "redriven", "-o", "json"), exeunt(server, "timeline", str(file), "-o", "json")
    )
    assert from_stream.out == from_file.out
    assert json.loads(from_file.out)[0]["ending"] == "finalized"
    from_pipe = await exeunt(server, "replay", "-", "--check", stdin=exported.out.encode())
    assert from_pipe.out == "8 events and 4 decisions come out as they were recorded.\n"


@pytest.mark.usefixtures("bus")
async def test_every_output_is_what_it_says(server: NatsServer) -> None:
    table, wide, lines, events = await asyncio.gather(
        exeunt(server, "timeline", "cancel-then-gone"),
        exeunt(server, "timeline", "cancel-then-gone", "-o", "wide"),
        exeunt(server, "timeline", "cancel-then-gone", "-o", "jsonl"),
        exeunt(server, "timeline", "cancel-then-gone", "-o", "ce"),
    )
    assert "Stop latency:" in table.out
    assert "\x1b[" not in table.out  # a pipe gets no colours
    assert "CANCELLATION" in wide.out
    reported = [json.loads(line) for line in lines.out.splitlines()]
    assert [
        event["what"] for event in reported
    ] == [  # in order of time: the end is seen before its decision is recorded
        *("topology-established", "cancel-requested", "wait"),
        *("topology-terminated", "run-terminal", "finalize"),
    ]
    assert reported[5]["cause_sequence"] == reported[3]["sequence"]
    assert {event["run"] for event in reported} == {"livekit-voice/cancel-then-gone"}
    clouds = [json.loads(line) for line in events.out.splitlines()]
    assert {(event["specversion"], event["subject"]) for event in clouds} == {("1.0", "livekit-voice/cancel-then-gone")}
    assert clouds[1]["type"] == "io.bubustack.exeunt.cancel-requested.v1"
    assert clouds[1]["data"]["run"]["cancel_requested"] is True


@pytest.mark.usefixtures("bus")
async def test_tail_counts_from_the_cancel_as_the_timeline_does(server: NatsServer) -> None:
    tailed, reported = await asyncio.gather(
        exeunt(server, "tail", "cancel-then-gone", "--since", "1d", "--until", "0s", "-o", "jsonl"),
        exeunt(server, "timeline", "cancel-then-gone", "-o", "jsonl"),
    )
    elapsed = [
        {event["sequence"]: event["elapsed_ms"] for event in map(json.loads, ran.out.splitlines())}
        for ran in (tailed, reported)
    ]
    assert len(elapsed[1]) == 6
    # Before the cancel there is nothing to count from.
    assert [elapsed[0][sequence] for sequence in sorted(elapsed[0])[1:]] == [
        elapsed[1][sequence] for sequence in sorted(elapsed[1])[1:]
    ]


@pytest.mark.parametrize(
    ("code", "message", "arguments"),
    [
        (2, "Unknown option", ("timeline", "--colour")),
        (2, "only one of --speed, --check, --at and --what-if", ("replay", "racing", "--check", "--at", "1")),
        (2, "what if 'drain'?", ("replay", "racing", "--what-if", "drain=1s")),
        (2, "--speed fast: 1x, 10x, 0.5x or step", ("replay", "racing", "--speed", "fast")),
        (2, "is neither RFC 3339 nor a duration", ("runs", "--since", "yesterday")),
        (2, "is not in namespace b", ("timeline", "a/racing", "-n", "b")),
        (3, "nothing about a StoryRun nobody in namespace a", ("timeline", "nobody", "-n", "a")),
        (3, "no event with sequence 9999", ("replay", "racing", "--at", "9999")),
        (3, "cannot read /nowhere/run.jsonl", ("replay", "/nowhere/run.jsonl")),
        (4, "not connected to NATS", ("runs", "--nats-url", "nats://127.0.0.1:9")),
    ],
)
@pytest.mark.usefixtures("bus")
async def test_an_exit_code_tells_whose_fault_it_was(
    server: NatsServer, code: int, message: str, arguments: tuple[str, ...]
) -> None:
    ran = await exeunt(server, *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert message in " ".join(ran.err.split())


@pytest.mark.usefixtures("bus")
async def test_a_difference_exits_1_and_shows_expected_and_actual(server: NatsServer, tmp_path: Path) -> None:
    lines = (HISTORIES / "cancel-then-gone.jsonl").read_text()
    file = tmp_path / "run.jsonl"
    file.write_text(lines.replace('"verdict":"finalize"', '"verdict":"leave"'))
    ran = await exeunt(server, "replay", str(file), "--check")
    assert ran.code == 1
    assert "line 7 (sequence 6) of livekit-voice/cancel-then-gone: the decision on topology-terminated" in ran.out
    assert "expected  leave by topology-gone\n  actual    finalize by topology-gone" in ran.out


@pytest.mark.usefixtures("bus")
async def test_a_damaged_file_says_where_and_tells_the_rest(server: NatsServer, tmp_path: Path) -> None:
    lines = (HISTORIES / "cancel-then-gone.jsonl").read_text().splitlines(keepends=True)
    file = tmp_path / "run.jsonl"
    file.write_text("".join([*lines[:2], "{}\n", *lines[2:]])[:-50])
    reported, checked = await asyncio.gather(
        exeunt(server, "timeline", str(file)), exeunt(server, "replay", str(file), "--check")
    )
    assert "not shown: line 3: no record of an event: Object missing required field `sequence`" in reported.err
    assert "not shown: line 8: no JSON object" in reported.err
    assert (reported.code, checked.code) == (0, 1)
    assert "run-terminal" in reported.out


async def test_a_name_in_two_namespaces_has_to_be_reported_apart(bus: Bus, server: NatsServer) -> None:
    subject = "exeunt.runs.elsewhere.racing.uid.first.run-deleted"
    await store(bus, subject, b"{}", {})
    ran = await exeunt(server, "timeline", "racing")
    assert ran.code == 2
    assert "there is a StoryRun racing in elsewhere, livekit-voice: say which one with -n" in ran.err
    assert (await exeunt(server, "timeline", "racing", "-n", "livekit-voice")).code == 0


async def test_tail_shows_what_is_published_as_it_is_published(bus: Bus, server: NatsServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", "tail", "-n", "live", "-o", "jsonl"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "EXEUNT_NATS_URL": server.url},
    )
    assert process.stdout is not None
    record, *_ = recorded("cancel-then-gone")
    subject, data = record.subject.replace("livekit-voice", "live"), record.data.replace(b"livekit-voice", b"live")
    reading = asyncio.create_task(process.stdout.readline())
    async with asyncio.timeout(20):
        while not reading.done():  # what was published before it listens is not shown
            await store(bus, subject, data, _plain(record.headers) | {"ce-subject": "live/cancel-then-gone"})
            await asyncio.sleep(0.1)
    assert json.loads(await reading)["what"] == "topology-established"
    process.terminate()
    await process.wait()


async def test_a_run_of_which_nothing_can_be_understood_ends_no_command_with_a_traceback(
    bus: Bus, server: NatsServer
) -> None:
    await store(bus, "exeunt.runs.elsewhere.garbled.uid.first.run-deleted", b"{}", {})
    commands = ("explain", "report", "timeline", "replay", "replay --check", "export", "tail --since 1d --until 0s")
    ran = [await exeunt(server, *command.split(), "garbled") for command in commands]
    assert [each.code for each in ran] == [3, 3, 0, 0, 1, 0, 0]
    assert all("not shown: sequence" in each.err for each in ran)
    assert not any("Traceback" in each.err for each in ran)
