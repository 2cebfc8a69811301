import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from actors.streams import subjects
from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.errors import ApiRefused, PublishRefused, StreamMisconfigured
from exeunt.bus.mesh_streams import (
    deadletters_stream,
    deadlines_stream,
    ensure_streams,
    livekit_stream,
    runs_stream,
    signals_stream,
)
from exeunt.bus.publisher import Stored, last_message, publish
from exeunt.bus.streams import (
    Stream,
    ensure_stream,
    purge_subject,
)
from exeunt.events.messages import Message
from exeunt.settings import read_settings
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer


async def config_of(bus: Bus, stream: Stream) -> dict[str, Any]:
    config: dict[str, Any] = (await bus.api(f"STREAM.INFO.{stream.name}"))["config"]
    return config


async def make(bus: Bus, stream: Stream, **settings: object) -> None:
    await bus.api(f"STREAM.CREATE.{stream.name}", stream.config() | settings)


@pytest.mark.parametrize("spec", [runs_stream(), deadlines_stream(), signals_stream(), deadletters_stream()])
async def test_a_missing_stream_is_made_and_then_left_alone(bus: Bus, stream: Stream, spec: Stream) -> None:
    spec = replace(spec, name=stream.name, subjects=stream.subjects)
    await ensure_stream(bus, spec)
    made = await config_of(bus, spec)
    await ensure_stream(bus, spec)
    assert await config_of(bus, spec) == made
    assert {key: made.get(key, False) for key in spec.config()} == spec.config() | {"max_consumers": -1}


async def test_deadlines_have_no_limit_that_would_evict_timers(bus: Bus, stream: Stream) -> None:
    spec = replace(deadlines_stream(), name=stream.name, subjects=stream.subjects)
    await ensure_stream(bus, spec)
    found = await config_of(bus, spec)
    limits = [found[key] for key in ("max_age", "max_msgs", "max_bytes", "max_msgs_per_subject")]
    assert limits == [0, -1, -1, -1]
    assert found["retention"] == "workqueue"


async def test_signals_are_small(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, replace(signals_stream(), name=stream.name, subjects=stream.subjects))
    large = Message(subject=f"{stream.name}.voice.call-1", payload=b"x" * 66_000, headers={})
    with pytest.raises(PublishRefused, match="message size exceeds maximum allowed"):
        await publish(bus, large, deadline=5)
    assert await publish(bus, replace(large, payload=b"x" * 65_000), deadline=5) == Stored(1)


async def test_harmless_differences_are_left_alone(bus: Bus, stream: Stream) -> None:
    wanted = replace(stream, max_age=86_400)
    theirs = {"max_age": int(2 * 86_400 * 1e9), "description": "theirs", "compression": "s2"}
    await make(bus, stream, **theirs)
    await ensure_stream(bus, wanted)
    found = await config_of(bus, stream)
    assert {key: found[key] for key in theirs} == theirs


async def test_what_may_only_grow_is_switched_on(bus: Bus, stream: Stream) -> None:
    await make(bus, stream, subjects=[f"{stream.name}_more.>"], allow_direct=False, compression="s2")
    await ensure_stream(bus, replace(stream, allow_msg_schedules=True, allow_msg_ttl=True))
    found = await config_of(bus, stream)
    assert found["subjects"] == [f"{stream.name}_more.>", *stream.subjects]
    assert found["allow_direct"]
    assert found["allow_msg_schedules"]
    assert found["allow_msg_ttl"]
    assert found["compression"] == "s2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"storage": "memory"}, r"storage memory, wanted file: .*`nats stream rm {name}`"),
        ({"retention": "workqueue"}, r"retention workqueue, wanted limits: .*`nats stream rm {name}`"),
        ({"retention": "interest"}, r"retention interest, wanted limits: "),
        (
            {"max_age": 3_600_000_000_000},
            r"max_age 3600 s, wanted 86400 s or more: run `nats stream edit {name} --max-age=86400s`",
        ),
        (
            {"max_msgs": 100},
            r"max_msgs 100, wanted no limit: run `nats stream edit {name} --max-msgs=-1`",
        ),
        (
            {"max_bytes": 1_000_000},
            r"max_bytes 1000000, wanted 2000000 or more: .*--max-bytes=2000000`",
        ),
        ({"max_msg_size": 5}, r"max_msg_size 5, wanted no limit: run `nats stream edit {name} --max-msg-size=-1`"),
        ({"max_msgs_per_subject": 5}, r"max_msgs_per_subject 5, wanted no limit: .*=-1`"),
        ({"discard": "new"}, r"discard new, wanted old: run `nats stream edit {name} --discard=old`"),
        ({"no_ack": True}, r"no_ack true, wanted false: run `nats stream edit {name} --ack`"),
        ({"persist_mode": "async"}, r"persist_mode async, wanted default: .*`nats stream rm {name}`"),
        (
            {"subject_delete_marker_ttl": 1_000_000_000, "allow_msg_ttl": True},
            r"subject_delete_marker_ttl 1 s, wanted none: run `nats stream edit {name} --subject-del-markers-ttl=0s`",
        ),
        ({"allow_msg_counter": True}, r"allow_msg_counter set, wanted none: .*`nats stream rm {name}`"),
        ({"subject_transform": {"src": ">", "dest": "x.>"}}, r"subject_transform set, wanted none: "),
    ],
)
async def test_a_setting_that_loses_data_stops_the_start_and_says_what_to_run(
    bus: Bus, stream: Stream, settings: dict[str, object], message: str
) -> None:
    await make(bus, stream, **settings)
    before = await config_of(bus, stream)
    with pytest.raises(StreamMisconfigured, match=message.format(name=stream.name)):
        await ensure_stream(bus, replace(stream, max_age=86_400, max_bytes=2_000_000))
    assert await config_of(bus, stream) == before


async def test_an_age_limit_on_deadlines_is_refused(bus: Bus, stream: Stream) -> None:
    spec = replace(deadlines_stream(), name=stream.name, subjects=stream.subjects)
    await make(bus, spec, max_age=int(86_400 * 1e9))
    with pytest.raises(StreamMisconfigured, match=r"max_age 86400 s, wanted no limit: .*--max-age=0s"):
        await ensure_stream(bus, spec)


@pytest.mark.parametrize("found", [-1, 2])
async def test_a_newer_message_has_to_take_the_place_of_the_older_where_it_is_to(
    bus: Bus, stream: Stream, found: int
) -> None:
    spec = replace(livekit_stream(), name=stream.name, subjects=stream.subjects)
    await make(bus, spec, max_msgs_per_subject=found)
    with pytest.raises(StreamMisconfigured, match=rf"max_msgs_per_subject {found}, wanted 1: .*-per-subject=1`"):
        await ensure_stream(bus, spec)


async def test_all_faults_are_reported_at_once(bus: Bus, stream: Stream) -> None:
    await make(bus, stream, storage="memory", max_msgs=1)
    with pytest.raises(StreamMisconfigured, match=r"storage.*; .*max_msgs"):
        await ensure_stream(bus, stream)


async def test_subjects_that_another_stream_holds_are_reported(bus: Bus, stream: Stream) -> None:
    await make(bus, stream)
    rival = replace(stream, name=f"{stream.name}_rival")
    with pytest.raises(StreamMisconfigured, match=f"stream {rival.name} is missing and cannot be made: .*overlap"):
        await ensure_stream(bus, rival)


async def test_a_consumer_is_made_adjusted_and_keeps_its_kind(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)

    async def consumer() -> dict[str, Any]:
        config: dict[str, Any] = (await bus.api(f"CONSUMER.INFO.{stream.name}.d"))["config"]
        return config

    first = [f"{stream.name}.a", f"{stream.name}.b"]
    for _ in range(2):
        await ensure_consumer(bus, stream.name, "d", first, ack_wait=3, max_ack_pending=7)
    made = await consumer()
    assert made["filter_subjects"] == first
    assert (made["ack_wait"], made["max_ack_pending"], made["max_deliver"]) == (3_000_000_000, 7, -1)
    assert (made["ack_policy"], made["deliver_policy"]) == ("explicit", "all")

    await ensure_consumer(bus, stream.name, "d", [f"{stream.name}.c"], ack_wait=4, max_ack_pending=8)
    adjusted = await consumer()
    assert adjusted["filter_subjects"] == [f"{stream.name}.c"]
    assert (adjusted["ack_wait"], adjusted["max_ack_pending"]) == (4_000_000_000, 8)


async def test_a_consumer_that_somebody_else_made_with_one_filter_is_adjusted(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    config = {
        "durable_name": "d",
        "ack_policy": "explicit",
        "filter_subject": f"{stream.name}.a",
        "max_deliver": 2,
        "backoff": [1_000_000_000],
    }
    await bus.api(f"CONSUMER.CREATE.{stream.name}.d", {"stream_name": stream.name, "config": config})
    await ensure_consumer(bus, stream.name, "d", [f"{stream.name}.b"], ack_wait=3, max_ack_pending=7)
    found = (await bus.api(f"CONSUMER.INFO.{stream.name}.d"))["config"]
    assert found["filter_subjects"] == [f"{stream.name}.b"]
    assert (found["max_deliver"], found["ack_wait"]) == (-1, 3_000_000_000)
    assert "backoff" not in found


async def test_a_consumer_of_another_kind_is_refused(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    config = {"durable_name": "d", "ack_policy": "none"}
    await bus.api(f"CONSUMER.CREATE.{stream.name}.d", {"stream_name": stream.name, "config": config})
    with pytest.raises(StreamMisconfigured, match=f"run `nats consumer rm {stream.name} d`"):
        await ensure_consumer(bus, stream.name, "d", [f"{stream.name}.a"], ack_wait=3, max_ack_pending=7)


async def test_a_consumer_needs_its_stream(bus: Bus, stream: Stream) -> None:
    with pytest.raises(ApiRefused, match="stream not found"):
        await ensure_consumer(bus, stream.name, "d", [], ack_wait=3, max_ack_pending=7)


async def test_schedules_are_seen_and_purged(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, replace(stream, allow_msg_schedules=True, allow_msg_ttl=True))
    armed = f"{stream.name}.armed.a"
    due = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    schedule = {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": f"{stream.name}.due.a"}
    arm = Message(subject=armed, payload=b"", headers=schedule, expected_last_subject_sequence=0)
    assert await publish(bus, arm, deadline=5) == Stored(1)
    assert await subjects(bus, stream.name) == {armed: 1}
    assert await purge_subject(bus, stream.name, armed) == 1
    assert await purge_subject(bus, stream.name, armed) == 0
    assert await last_message(bus, stream.name, armed) is None
    assert await subjects(bus, stream.name) == {}


async def test_of_a_missing_stream_nothing_is_purged(bus: Bus, stream: Stream) -> None:
    assert await purge_subject(bus, stream.name, f"{stream.name}.armed.a") == 0


async def test_who_may_not_change_a_stream_says_what_it_lacks_and_who_may(servers: Binaries, tmp_path: Path) -> None:
    users = """authorization { users: [
        { user: admin, password: x }
        { user: service, password: x, permissions: { publish: { deny: "$JS.API.STREAM.UPDATE.>" } } }
    ] }"""
    async with NatsServer(tmp_path, binary=servers.nats_server, config=users) as server:
        admin, service = [
            await connect(
                server.url.replace("//", f"//{user}:x@"), name=user, inbox_prefix=f"_INBOX_{user}", connect_timeout=5
            )
            for user in ("admin", "service")
        ]
        await make(admin, runs_stream(), allow_direct=False)
        words = r"stream RUNS lacks allow_direct=True, .*with an admin's credentials \(`nats stream edit RUNS`\)"
        with pytest.raises(StreamMisconfigured, match=words):
            await ensure_stream(service, runs_stream())
        await ensure_stream(admin, runs_stream())
        await ensure_stream(service, runs_stream())
        await asyncio.gather(admin.close(5), service.close(5))


async def test_the_history_takes_no_more_room_than_it_is_given(servers: Binaries, tmp_path: Path) -> None:
    async with NatsServer(tmp_path, binary=servers.nats_server) as server:
        bus = await connect(server.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
        await ensure_streams(bus, read_settings({"EXEUNT_HISTORY_BYTES": "100000"}))
        for number in range(30):
            message = Message(subject=f"exeunt.runs.a.b.{number}", payload=bytes(10_000), headers={})
            assert await publish(bus, message, deadline=5) == Stored(number + 1)
        state = (await bus.api("STREAM.INFO.RUNS"))["state"]
        assert 1 < state["first_seq"] < state["last_seq"] == 30
        assert state["bytes"] <= 100_000
        await bus.close(5)
