"""NATS as others run it: accounts with limits, servers with feature flags, and consumers that somebody paused."""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
import pytest
from msgspec.structs import replace

from actors.installation import DEPLOY
from actors.streams import subjects
from exeunt.bus import lag
from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.delivery import Ack, Delivery, Retry
from exeunt.bus.errors import StreamMisconfigured
from exeunt.bus.mesh_streams import deadlines_stream, ensure_stream_and_consumer, ensure_streams
from exeunt.bus.publisher import Stored, publish
from exeunt.bus.pull import Handler, PullLoop
from exeunt.bus.streams import Stream, ensure_stream
from exeunt.events.messages import Message
from exeunt.settings import read_settings
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer

Until = Callable[..., Awaitable[None]]

SECONDS = 30.0  # for anything, on a busy machine
SIZES = {
    "EXEUNT_HISTORY_BYTES": "10000000",
    "EXEUNT_DEADLINES_BYTES": "1000000",
    "EXEUNT_SIGNALS_BYTES": "1000000",
    "EXEUNT_DEADLETTERS_BYTES": "2000000",
}


@contextlib.asynccontextmanager
async def account(servers: Binaries, folder: Path, limits: str, more: str = "") -> AsyncIterator[Bus]:
    """A connection in an account with these limits of JetStream."""
    config = f"accounts {{ A {{ jetstream: {{ {limits} }}, users: [ {{ user: a, password: a }} ] }} }}\n{more}"
    async with NatsServer(folder, binary=servers.nats_server, config=config) as server:
        url = server.url.replace("//", "//a:a@")
        bus = await connect(url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
        yield bus
        await bus.close(5)


async def config_of(bus: Bus, call: str) -> dict[str, Any]:
    config: dict[str, Any] = (await bus.api(call))["config"]
    return config


async def test_an_account_that_demands_sizes_gets_them_and_says_which_are_missing(
    servers: Binaries, tmp_path: Path
) -> None:
    async with account(servers, tmp_path, "max_bytes_required: true, max_store: 20MB, max_streams: 4") as bus:
        with pytest.raises(StreamMisconfigured) as refused:
            await ensure_streams(bus, read_settings({}))
        assert "RUNS is missing and cannot be made: account requires a stream config" in str(refused.value)
        assert "set EXEUNT_HISTORY_BYTES" in str(refused.value)
        assert "set EXEUNT_DEADLINES_BYTES" in str(refused.value)
        assert "set a smaller EXEUNT_DEADLETTERS_BYTES (now 134217728)" in str(refused.value)
        await ensure_streams(bus, read_settings(SIZES))
        await ensure_streams(bus, read_settings(SIZES))
        sizes = [(await config_of(bus, f"STREAM.INFO.{name}"))["max_bytes"] for name in ("RUNS", "DEADLINES")]
        assert sizes == [10_000_000, 1_000_000]
        with pytest.raises(StreamMisconfigured, match=r"max_bytes 1000000.* or set EXEUNT_DEADLINES_BYTES=1000000"):
            await ensure_streams(bus, read_settings({**SIZES, "EXEUNT_DEADLINES_BYTES": "0"}))


@pytest.mark.parametrize(
    ("limits", "settings", "words"),
    [
        ("max_streams: 3", {}, "DEADLETTERS .*maximum number of streams reached; have max_streams"),
        ("disk_max_stream_bytes: 100MB", {}, "DEADLETTERS .*; set a smaller EXEUNT_DEADLETTERS_BYTES"),
        ("max_store: 100MB", {}, "DEADLETTERS .*insufficient storage.*; set a smaller EXEUNT_DEADLETTERS_BYTES"),
        ("max_streams: 9", {"EXEUNT_STREAM_REPLICAS": "3"}, "RUNS .*; set EXEUNT_STREAM_REPLICAS"),
    ],
)
async def test_a_limit_that_leaves_no_room_for_a_stream_is_reported_with_its_remedy(
    servers: Binaries, tmp_path: Path, limits: str, settings: dict[str, str], words: str
) -> None:
    async with account(servers, tmp_path, limits) as bus:
        with pytest.raises(StreamMisconfigured, match=words):
            await ensure_streams(bus, read_settings(settings))


async def test_messages_that_may_not_even_be_a_signals_size_are_reported(servers: Binaries, tmp_path: Path) -> None:
    async with account(servers, tmp_path, "max_streams: 9", "max_payload: 32KB") as bus:
        with pytest.raises(StreamMisconfigured, match="32768 bytes at the most: have its max_payload raised"):
            await ensure_streams(bus, read_settings({}))


async def test_a_cap_on_pending_acks_is_taken_as_it_is(servers: Binaries, tmp_path: Path) -> None:
    settings = read_settings({})
    async with account(servers, tmp_path, "max_ack_pending: 1000, max_consumers: 1") as bus:
        for _ in range(2):
            await ensure_stream_and_consumer(bus, settings, "RUNS", "d", ("exeunt.runs.a",))
            assert (await config_of(bus, "CONSUMER.INFO.RUNS.d"))["max_ack_pending"] == 1000
        await ensure_stream_and_consumer(bus, settings, "RUNS", "d", ("exeunt.runs.b",))
        adjusted = await config_of(bus, "CONSUMER.INFO.RUNS.d")
        assert (adjusted["max_ack_pending"], adjusted["filter_subjects"]) == (1000, ["exeunt.runs.b"])
        with pytest.raises(StreamMisconfigured, match=r"consumer e of stream RUNS .*; have max_consumers"):
            await ensure_stream_and_consumer(bus, settings, "RUNS", "e", ("exeunt.runs.b",))


async def test_a_cap_that_the_stream_itself_has_is_taken_too(bus: Bus, stream: Stream) -> None:
    limits = {"consumer_limits": {"max_ack_pending": 50}}
    await bus.api(f"STREAM.CREATE.{stream.name}", stream.config() | limits)
    await ensure_consumer(bus, stream.name, "d", stream.subjects, ack_wait=3, max_ack_pending=20_000)
    assert (await config_of(bus, f"CONSUMER.INFO.{stream.name}.d"))["max_ack_pending"] == 50


async def test_a_refused_consumer_is_reported(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, replace(stream, retention="workqueue"))
    await ensure_consumer(bus, stream.name, "d", stream.subjects, ack_wait=3, max_ack_pending=7)
    with pytest.raises(StreamMisconfigured, match=r"consumer e of stream .* cannot be made or adjusted: .*not unique"):
        await ensure_consumer(bus, stream.name, "e", stream.subjects, ack_wait=3, max_ack_pending=7)


async def test_what_somebody_set_on_a_consumer_that_keeps_bodies_from_us_is_taken_out(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    theirs = {
        "durable_name": "d",
        "ack_policy": "explicit",
        "headers_only": True,
        "max_expires": 1_000_000_000,
        "max_bytes": 1000,
        "inactive_threshold": 60_000_000_000,
        "priority_groups": ["g"],
        "priority_policy": "overflow",
    }
    await bus.api(f"CONSUMER.CREATE.{stream.name}.d", {"stream_name": stream.name, "config": theirs})
    await ensure_consumer(bus, stream.name, "d", stream.subjects, ack_wait=3, max_ack_pending=7)
    found = await config_of(bus, f"CONSUMER.INFO.{stream.name}.d")
    assert not (theirs.keys() - {"durable_name", "ack_policy"}) & found.keys()


@contextlib.asynccontextmanager
async def pulling(
    bus: Bus, stream: str, durable: str, heard: list[str], *, handle: Handler | None = None, **more: Any
) -> AsyncIterator[PullLoop]:
    async def hear(delivery: Delivery) -> Ack:
        heard.append(delivery.subject)
        return Ack()

    async def recreate() -> None:
        pass

    loop = PullLoop(bus, stream, durable, max_in_flight=64, recreate=recreate, ack_wait=1, max_deliveries=20, **more)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loop.run(handle or hear))
        yield loop
        await loop.stop(budget=2)


async def test_a_cap_on_the_batches_of_pulls_is_kept(
    servers: Binaries, tmp_path: Path, until: Until, stream: Stream
) -> None:
    async with account(servers, tmp_path, "max_streams: 9") as bus:
        await ensure_stream(bus, stream)
        await ensure_consumer(bus, stream.name, "d", stream.subjects, ack_wait=3, max_ack_pending=7)
        limited = await config_of(bus, f"CONSUMER.INFO.{stream.name}.d") | {"max_batch": 5}
        await bus.api(f"CONSUMER.CREATE.{stream.name}.d", {"stream_name": stream.name, "config": limited})
        heard: list[str] = []
        async with pulling(bus, stream.name, "d", heard) as loop:
            for number in range(30):
                await publish(bus, Message(subject=f"{stream.name}.{number}", payload=b"", headers={}), deadline=5)
            await until(lambda: len(heard) == 30, within=SECONDS)
            await until(lambda: loop.unavailable_reason is None, within=SECONDS)


async def test_a_paused_consumer_is_named_while_it_is_idle_too(
    bus: Bus, stream: Stream, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "_INTERVAL", 0.2)
    await ensure_stream(bus, stream)
    await ensure_consumer(bus, stream.name, "d", stream.subjects, ack_wait=3, max_ack_pending=7)
    heard: list[str] = []
    async with pulling(bus, stream.name, "d", heard) as loop:
        await until(lambda: loop.unavailable_reason is None, within=SECONDS)
        assert await asyncio.to_thread(lambda: loop.unavailable_reason) is None  # as metrics ask, which have a thread
        pause = {"pause_until": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
        await bus.api(f"CONSUMER.PAUSE.{stream.name}.d", pause)
        resume = f"run `nats consumer resume {stream.name} d`"
        await until(lambda: resume in str(loop.unavailable_reason), within=SECONDS)
        await asyncio.sleep(1)  # heartbeats go on, and do not make it well
        assert "consumer d is paused until " in str(loop.unavailable_reason)
        await bus.api(f"CONSUMER.PAUSE.{stream.name}.d", {})
        await until(lambda: loop.unavailable_reason is None, within=SECONDS)


async def test_a_consumer_with_as_many_open_messages_as_it_may_have_is_named(
    bus: Bus, stream: Stream, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "_INTERVAL", 0.2)
    await ensure_stream(bus, stream)
    await ensure_consumer(bus, stream.name, "d", stream.subjects, ack_wait=30, max_ack_pending=2)
    over = asyncio.Event()

    async def keep(_: Delivery) -> Ack | Retry:
        return Ack() if over.is_set() else Retry(delay=1, reason="the room is still there")

    async with pulling(bus, stream.name, "d", [], handle=keep) as loop:
        for number in range(5):
            await publish(bus, Message(subject=f"{stream.name}.{number}", payload=b"", headers={}), deadline=5)
        await until(
            lambda: f"`nats consumer edit {stream.name} d --max-pending=4`" in str(loop.unavailable_reason),
            within=SECONDS,
        )
        over.set()
        await until(lambda: loop.unavailable_reason is None, within=SECONDS)


async def test_a_full_workqueue_is_reported_before_it_loses_deadlines(
    bus: Bus, stream: Stream, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "_INTERVAL", 0.2)
    spec = replace(deadlines_stream(max_bytes=20_000), name=stream.name, subjects=stream.subjects)
    await ensure_stream(bus, spec)
    await ensure_consumer(bus, spec.name, "d", (f"{spec.name}.due.*",), ack_wait=3, max_ack_pending=7)

    async def arm(number: int) -> None:
        due = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        schedule = {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": f"{spec.name}.due.{number}"}
        armed = Message(subject=f"{spec.name}.armed.{number:03}", payload=bytes(1000), headers=schedule)
        assert await publish(bus, armed, deadline=5) == Stored(number)

    async with pulling(bus, spec.name, "d", []) as loop:
        for number in range(1, 11):
            await arm(number)
        await until(lambda: loop.unavailable_reason is None, within=SECONDS)
        for number in range(11, 16):
            await arm(number)
        await until(
            lambda: f"`nats stream edit {spec.name} --max-bytes=40000`" in str(loop.unavailable_reason), within=SECONDS
        )
        assert len(await subjects(bus, spec.name)) == 15
        for number in range(16, 31):
            await arm(number)
        left = await subjects(bus, spec.name)
        assert f"{spec.name}.armed.030" in left  # what ADR 21 says: the newest is taken, the oldest is lost
        assert f"{spec.name}.armed.001" not in left


def lay_out_accounts(folder: Path) -> None:
    """deploy/nats/accounts.conf, with a seed file for each of its users."""
    accounts = (DEPLOY / "nats" / "accounts.conf").read_text()
    (folder / "accounts.conf").write_text(accounts)
    with (folder / "users.conf").open("w") as users:
        for user in re.findall(r"nkey: \$(\w+)", accounts):
            seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
            (folder / f"{user.lower()}.seed").write_bytes(seed)
            users.write(f"{user}: {nkeys.from_seed(bytearray(seed)).public_key.decode()}\n")


@pytest.mark.parametrize("flag", ["false", "true"])
async def test_acks_are_allowed_with_and_without_js_ack_fc_v2(servers: Binaries, tmp_path: Path, flag: str) -> None:
    lay_out_accounts(tmp_path)
    config = f'include "../accounts.conf"\nfeature_flags {{ js_ack_fc_v2: {flag} }}\n'
    async with NatsServer(tmp_path / "n", binary=servers.nats_server, config=config) as server:
        connections = {
            user: await connect(
                server.url,
                name=user,
                inbox_prefix=f"_INBOX_exeunt_{user}",
                credentials=f"{tmp_path}/{user}.seed",
                connect_timeout=5,
            )
            for user in ("watcher", "terminator", "timeout_scheduler", "admin")
        }
        admin = connections["admin"]
        settings = read_settings({})
        for user, stream, durable, subject in (
            ("watcher", "SIGNALS", "watcher-signals", "exeunt.signals.a.b"),
            ("terminator", "RUNS", "terminator", "exeunt.runs.a.b.c.d.cancel-requested"),
            ("timeout_scheduler", "RUNS", "timeout-scheduler", "exeunt.runs.a.b.c.e.cancel-requested"),
            ("timeout_scheduler", "DEADLINES", "timeout-scheduler-due", "exeunt.deadlines.due.a.b.c.d"),
        ):
            bus = connections[user]
            await ensure_stream_and_consumer(bus, settings, stream, durable, (subject,))
            heard: list[str] = []
            async with pulling(bus, stream, durable, heard) as loop:
                await publish(admin, Message(subject=subject, payload=b"", headers={}), deadline=5)
                async with asyncio.timeout(SECONDS):
                    while (await admin.api(f"CONSUMER.INFO.{stream}.{durable}"))["ack_floor"]["consumer_seq"] == 0:
                        pass
                assert heard == [subject]
                assert loop.unavailable_reason is None
        await asyncio.gather(*(bus.close(5) for bus in connections.values()))


async def test_denied_acks_are_reported(servers: Binaries, tmp_path: Path, until: Until, stream: Stream) -> None:
    users = """authorization { users: [
        { user: admin, password: x }
        { user: mute, password: x, permissions: { publish: { deny: "$JS.ACK.>" } } } ] }"""
    async with NatsServer(tmp_path, binary=servers.nats_server, config=users) as server:
        admin, mute = [
            await connect(
                server.url.replace("//", f"//{user}:x@"), name=user, inbox_prefix=f"_INBOX_{user}", connect_timeout=5
            )
            for user in ("admin", "mute")
        ]
        await ensure_stream(admin, stream)
        await ensure_consumer(admin, stream.name, "d", stream.subjects, ack_wait=1, max_ack_pending=7)
        async with pulling(mute, stream.name, "d", []) as loop:
            await publish(admin, Message(subject=f"{stream.name}.a", payload=b"", headers={}), deadline=5)
            await until(
                lambda: "permission denied for the acks of consumer d" in str(loop.unavailable_reason), within=SECONDS
            )
            assert f"$JS.ACK.*.*.{stream.name}.d.>" in str(loop.unavailable_reason)
        await asyncio.gather(admin.close(5), mute.close(5))
