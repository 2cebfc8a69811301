import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from actors.streams import subjects
from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable, NoResponders, PublishRefused
from exeunt.bus.publisher import AlreadyStored, Stored, last_message, message_at, publish
from exeunt.bus.streams import Stream, ensure_stream
from exeunt.events.messages import Message, header_size
from exeunt_local.nats_server import NatsServer

Until = Callable[..., Awaitable[None]]


def event_type(stream: Stream, token: str, *, expected: int | None = 0, payload: bytes = b"{}") -> Message:
    return Message(
        subject=f"{stream.name}.{token}",
        payload=payload,
        headers={"ce-type": "test"},
        expected_last_subject_sequence=expected,
    )


async def test_of_eight_racing_publishers_one_stores_and_all_learn_which(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    for turn in range(20):
        results = await asyncio.gather(
            *(publish(bus, event_type(stream, f"run{turn}", payload=b"%d" % rival), deadline=5) for rival in range(8))
        )
        (winner,) = [rival for rival, result in enumerate(results) if isinstance(result, Stored)]
        assert {result.sequence for result in results} == {turn + 1}
        stored = await message_at(bus, stream.name, turn + 1)
        assert stored is not None
        assert stored.data == b"%d" % winner
    assert set((await subjects(bus, stream.name)).values()) == {1}


async def test_a_lost_condition_tells_the_sequence_that_holds_the_place(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    assert await publish(bus, event_type(stream, "a"), deadline=5) == Stored(1)
    assert await publish(bus, event_type(stream, "a", expected=1), deadline=5) == Stored(2)
    assert await publish(bus, event_type(stream, "a", expected=1), deadline=5) == AlreadyStored(2)


async def test_a_duplicate_message_id_is_success(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    message = Message(subject=f"{stream.name}.a", payload=b"", headers={"Nats-Msg-Id": "one"})
    assert await publish(bus, message, deadline=5) == Stored(1)
    assert await publish(bus, message, deadline=5) == AlreadyStored(1)
    assert message.headers == {"Nats-Msg-Id": "one"}


async def test_messages_read_back_with_headers_and_the_server_time(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    await publish(bus, event_type(stream, "a", payload=b"first"), deadline=5)
    await publish(bus, event_type(stream, "a", payload=b"", expected=None), deadline=5)

    last = await last_message(bus, stream.name, f"{stream.name}.a")
    assert last is not None
    assert (last.subject, last.sequence, last.data) == (f"{stream.name}.a", 2, b"")
    assert last.headers["ce-type"] == "test"
    assert abs(datetime.now(UTC) - last.timestamp) < timedelta(seconds=10)
    first = await message_at(bus, stream.name, 1)
    assert first is not None
    assert first.data == b"first"
    assert await message_at(bus, stream.name, 3) is None
    assert await last_message(bus, stream.name, f"{stream.name}.b") is None
    with pytest.raises(NoResponders):
        await last_message(bus, "absent", "absent.a")


async def test_publishing_goes_on_over_a_killed_server(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until
) -> None:
    await ensure_stream(bus, stream)
    stored: list[int] = []

    async def publish_all() -> None:
        for number in range(400):
            result = await publish(bus, event_type(stream, f"run{number}"), deadline=20)
            stored.append(result.sequence)

    publishing = asyncio.create_task(publish_all())
    await until(lambda: len(stored) >= 100)
    await nats_server.kill()
    assert not publishing.done()
    await nats_server.start()
    await publishing

    assert stored == list(range(1, 401))
    assert set((await subjects(bus, stream.name)).values()) == {1}


async def test_a_dead_server_is_given_up_at_the_deadline(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until
) -> None:
    await ensure_stream(bus, stream)
    await nats_server.kill()
    await until(lambda: bus.unavailable_reason is not None)
    started = asyncio.get_running_loop().time()
    try:
        with pytest.raises(BusUnavailable, match=f"not stored on {stream.name}.a within 1.5 s"):
            await publish(bus, event_type(stream, "a"), deadline=1.5)
        # In the middle of the second try, which by itself would go on until more than 3 s have passed.
        assert asyncio.get_running_loop().time() - started < 3.0
    finally:
        await nats_server.start()
    await until(lambda: bus.unavailable_reason is None)  # or a try might have no time left to hear that it was stored
    assert await publish(bus, event_type(stream, "a"), deadline=10) == Stored(1)  # the try given up was not buffered


async def test_a_stream_deleted_while_publishing_is_made_again(bus: Bus, stream: Stream) -> None:
    made = 0

    async def recreate() -> None:
        nonlocal made
        made += 1
        await ensure_stream(bus, stream)

    bus.recreate_streams = recreate
    for number in range(30):
        if number % 10 == 5:
            await bus.api(f"STREAM.DELETE.{stream.name}")
        assert isinstance(await publish(bus, event_type(stream, f"run{number}"), deadline=5), Stored)
    assert made == 4  # the first publish found none, and three were deleted
    assert sorted(await subjects(bus, stream.name)) == sorted(f"{stream.name}.run{number}" for number in range(25, 30))


async def test_without_recreation_a_missing_stream_is_named(bus: Bus, stream: Stream) -> None:
    with pytest.raises(BusUnavailable, match=rf"nobody answers on {stream.name}\.a: the stream"):
        await publish(bus, event_type(stream, "a"), deadline=1)


async def test_what_can_never_be_stored_is_refused_at_once(bus: Bus, stream: Stream) -> None:
    await ensure_stream(bus, stream)
    other = Message(subject=f"{stream.name}.a", payload=b"", headers={"Nats-Expected-Stream": "other"})
    with pytest.raises(PublishRefused, match="expected stream does not match"):
        await publish(bus, other, deadline=30)
    with pytest.raises(PublishRefused, match="maximum payload exceeded"):
        await publish(bus, event_type(stream, "a", payload=b"x" * 2_000_000), deadline=30)
    headers = {"A": "x"}
    room = bus.nc.max_payload - header_size(headers)
    one_too_many = Message(subject=f"{stream.name}.a", payload=b"x" * (room + 1), headers=headers)
    with pytest.raises(PublishRefused, match="maximum payload exceeded"):  # the server would close the connection
        await publish(bus, one_too_many, deadline=30)
    assert isinstance(await publish(bus, replace(one_too_many, payload=b"x" * room), deadline=30), Stored)
    with pytest.raises(PublishRefused, match="invalid subject"):
        await publish(bus, Message(subject="a b", payload=b"", headers={}), deadline=30)
