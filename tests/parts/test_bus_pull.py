import asyncio
import os
import signal
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.delivery import Ack, DeadLetter, Delivery, DeliveryAnswer, Retry
from exeunt.bus.errors import PublishRefused
from exeunt.bus.mesh_streams import deadletters_stream
from exeunt.bus.publisher import last_message, publish
from exeunt.bus.pull import SILENCE, Handler, PullLoop
from exeunt.bus.shares import Share
from exeunt.bus.streams import Stream, ensure_stream
from exeunt.errors import PoisonEvent
from exeunt.events.messages import Message, header_size
from exeunt.process.health import Health, Pulse
from exeunt_local.nats_server import NatsServer

Until = Callable[..., Awaitable[None]]

A_BUSY_MACHINE = 4.0  # seconds that it may add to anything


def pull_loop(bus: Bus, stream: Stream, *, ack_wait: float = 30.0, **options: Any) -> PullLoop:
    """A loop on a durable consumer of the whole stream; the consumer is named like the stream."""

    async def recreate() -> None:
        await ensure_stream(bus, stream)
        await ensure_consumer(bus, stream.name, stream.name, stream.subjects, ack_wait=ack_wait, max_ack_pending=1000)

    options = {"max_in_flight": 16, "max_deliveries": 20} | options
    return PullLoop(bus, stream.name, stream.name, recreate=recreate, ack_wait=ack_wait, **options)


@asynccontextmanager
async def running(loop: PullLoop, handle: Handler) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run(handle))
    try:
        yield
    finally:
        await loop.stop(budget=10)
        await task


async def put(bus: Bus, stream: Stream, *tokens: object, headers: dict[str, str] | None = None) -> None:
    for token in tokens:
        message = Message(subject=f"{stream.name}.{token}", payload=str(token).encode(), headers=headers or {})
        await publish(bus, message, deadline=10)


async def all_acknowledged(bus: Bus, stream: Stream) -> None:
    """Wait until the consumer has nothing to deliver and no ack to wait for; the server takes acks in its own time."""
    async with asyncio.timeout(10):
        while True:
            info = await bus.api(f"CONSUMER.INFO.{stream.name}.{stream.name}")
            if info["num_ack_pending"] == info["num_pending"] == 0:
                return


class Log(list[Delivery]):
    """A handler that remembers what came and acks it."""

    async def __call__(self, delivery: Delivery) -> DeliveryAnswer:
        self.append(delivery)
        return Ack()

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.data for delivery in self]


async def test_messages_arrive_in_order_with_their_events_and_are_acked(bus: Bus, stream: Stream, until: Until) -> None:
    log = Log()
    await ensure_stream(bus, stream)
    await put(bus, stream, *range(100), headers={"Ce-Type": "test", "Traceparent": "00-1-2-01"})
    loop = pull_loop(bus, stream)
    assert loop.unavailable_reason == "not started"
    async with running(loop, log):
        await until(lambda: len(log) == 100)
        await until(lambda: loop.unavailable_reason is None)
        first = log[0]
        assert log.bodies == [b"%d" % number for number in range(100)]
        assert (first.stream, first.subject) == (stream.name, f"{stream.name}.0")
        assert (first.stream_sequence, first.num_delivered) == (1, 1)
        assert first.headers["ce-type"] == "test"
        assert first.headers["traceparent"] == "00-1-2-01"
        assert abs(datetime.now(UTC) - first.timestamp) < timedelta(seconds=10)
    assert loop.unavailable_reason == "stopped"
    await all_acknowledged(bus, stream)


async def test_a_message_is_handled_within_milliseconds(bus: Bus, stream: Stream, until: Until) -> None:
    handled: dict[bytes, float] = {}

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        handled[delivery.data] = clock()
        return Ack()

    clock = asyncio.get_running_loop().time
    loop = pull_loop(bus, stream)
    latencies = []
    async with running(loop, handle):
        await until(lambda: loop.unavailable_reason is None)
        for number in range(300):
            sent = clock()
            await put(bus, stream, number)
            await until(lambda body=b"%d" % number: body in handled)
            latencies.append(handled[b"%d" % number] - sent)
    # What a busy machine adds is in the slow ones: the quickest tenth tells what the loop does.
    assert statistics.quantiles(latencies, n=10)[0] < 0.005


async def test_no_more_than_max_in_flight_are_handled_at_once(bus: Bus, stream: Stream, until: Until) -> None:
    at_once, most, done = 0, 0, 0

    async def handle(_: Delivery) -> DeliveryAnswer:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1
        done += 1
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, *range(200))
    async with running(pull_loop(bus, stream, max_in_flight=5), handle):
        await until(lambda: done == 200)
    assert most == 5


async def test_held_messages_do_not_block_the_free_slots(bus: Bus, stream: Stream, until: Until) -> None:
    release = asyncio.Event()
    quick = 0

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        nonlocal quick
        if delivery.subject.endswith(".held"):
            await release.wait()
        else:
            quick += 1
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, *["held"] * 7, *range(100))
    async with running(pull_loop(bus, stream, max_in_flight=8), handle):
        await until(lambda: quick == 100)
        release.set()


def team_and_run(delivery: Delivery) -> Share:
    """Messages are about `<team>-<run>`."""
    team, _, run = delivery.data.decode().partition("-")
    return Share(team, run)


async def test_a_team_that_gets_nowhere_leaves_room_and_one_run_is_handled_once_at_a_time(
    bus: Bus, stream: Stream, until: Until
) -> None:
    release, stuck, done, most = asyncio.Event(), list[str](), list[str](), 0

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        nonlocal most
        name = delivery.data.decode()
        if name.startswith("stuck"):
            stuck.append(name)
            most = max(most, len(stuck))
            assert stuck.count(name) == 1
            await release.wait()
            stuck.remove(name)
        done.append(name)
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, *["stuck-twice"] * 3, *(f"stuck-{number}" for number in range(100)))
    await put(bus, stream, *(f"well-{number}" for number in range(50)))
    async with running(pull_loop(bus, stream, max_in_flight=16, share=team_and_run, max_waiting=500), handle):
        await until(lambda: len(done) == 50)
        assert done == [f"well-{number}" for number in range(50)]
        assert len(stuck) == 8
        release.set()
        await until(lambda: len(done) == 153)
        assert done.count("stuck-twice") == 3
        assert most == 8
    await all_acknowledged(bus, stream)


async def test_who_only_fails_is_tried_little_and_others_are_seen_behind_any_number_of_it(
    bus: Bus, stream: Stream, until: Until
) -> None:
    tries, done, heals = 0, list[bytes](), asyncio.Event()

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        nonlocal tries
        if delivery.data.startswith(b"stuck") and not heals.is_set():
            tries += 1
            await asyncio.sleep(0.5)
            return Retry(0.5, "in vain", failed=True)
        done.append(delivery.data)
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, *(f"stuck-{number}" for number in range(500)), "well-1")
    options: dict[str, Any] = {"share": team_and_run, "max_waiting": 150, "max_deliveries": 2}
    async with running(pull_loop(bus, stream, **options), handle):
        await until(lambda: done == [b"well-1"], within=60)
        assert tries < 100
        heals.set()
        await until(lambda: len(done) == 501, within=90)  # none of them has become a dead letter
    await all_acknowledged(bus, stream)


async def test_what_waits_for_a_place_is_given_back_at_once_when_the_loop_ends(
    bus: Bus, stream: Stream, until: Until
) -> None:
    release, begun, log = asyncio.Event(), list[bytes](), Log()

    async def stuck(delivery: Delivery) -> DeliveryAnswer:
        begun.append(delivery.data)
        await release.wait()
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, *(f"stuck-{number}" for number in range(50)))
    loop = pull_loop(bus, stream, max_in_flight=4, share=team_and_run, max_waiting=500)
    task = asyncio.create_task(loop.run(stuck))
    await until(lambda: len(begun) == 2)
    ending = asyncio.create_task(loop.stop(budget=30))
    async with running(pull_loop(bus, stream), log):  # ack_wait is 30 s: without a NAK this would wait
        await until(lambda: len(log) == 48)
        assert len(begun) == 2
        release.set()
        await ending
        await task
        assert not set(begun) & set(log.bodies)


async def test_a_loop_that_has_not_begun_is_not_stuck(bus: Bus, stream: Stream) -> None:
    loop = pull_loop(bus, stream)
    health = Health({}, {"facts": Pulse(lambda: loop.last_progress, 30)})
    later = asyncio.get_running_loop().time() + 3600  # so long may NATS be away when a service starts
    assert health.stuck(later) == {}
    async with running(loop, Log()):
        await asyncio.sleep(0)
        assert "facts" in health.stuck(later)


async def test_a_killed_server_is_back_in_use_at_once(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until
) -> None:
    log = Log()
    loop = pull_loop(bus, stream)
    async with running(loop, log):
        await put(bus, stream, "before")
        await until(lambda: log.bodies == [b"before"])

        await nats_server.kill()
        await until(lambda: loop.unavailable_reason is not None)
        assert "not connected" in str(loop.unavailable_reason)
        beat = loop.last_progress
        await until(lambda: loop.last_progress > beat)  # waiting is no standstill
        await nats_server.start()
        await put(bus, stream, "after")
        await until(lambda: b"after" in log.bodies)
        await until(lambda: loop.unavailable_reason is None)


async def test_a_server_that_hung_is_asked_again_and_max_in_flight_holds(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay, so that the pulls from before and from after deliver in the end."""
    monkeypatch.setattr("exeunt.bus.pull.PULL_EXPIRES", 30.0)
    release = asyncio.Event()
    at_once = most = 0

    async def handle(_: Delivery) -> DeliveryAnswer:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await release.wait()
        at_once -= 1
        return Ack()

    loop = pull_loop(bus, stream, max_in_flight=4)
    server = nats_server._process.pid
    assert server is not None
    async with running(loop, handle):
        await until(lambda: loop.unavailable_reason is None)
        os.kill(server, signal.SIGSTOP)
        try:
            await until(lambda: "no heartbeat" in str(loop.unavailable_reason))
            assert loop.silent_since is not None  # of its last word, not of when that was noticed
            assert loop.silent_since < asyncio.get_running_loop().time() - SILENCE
        finally:
            os.kill(server, signal.SIGCONT)
        async with asyncio.timeout(10):
            while (await bus.api(f"CONSUMER.INFO.{stream.name}.{stream.name}"))["num_waiting"] < 2:
                pass
        await until(lambda: loop.unavailable_reason is None)
        assert loop.silent_since is None
        await put(bus, stream, *range(20))
        await until(lambda: len(loop._in_flight) == 8)
        release.set()
        await all_acknowledged(bus, stream)
    assert most == 4


async def test_a_quick_restart_is_back_in_use_at_once(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until
) -> None:
    log = Log()
    clock = asyncio.get_running_loop().time
    took: list[float] = []
    async with running(pull_loop(bus, stream), log):
        for turn in range(3):
            await nats_server.kill()
            await nats_server.start()
            await put(bus, stream, turn)
            stored = clock()
            await until(lambda body=b"%d" % turn: body in log.bodies)
            took.append(clock() - stored)
    assert min(took) < 0.6  # less than a heartbeat; a busy machine may hold up some, a wait of the loop's own all


async def test_a_deleted_consumer_is_made_again(bus: Bus, stream: Stream, until: Until) -> None:
    log = Log()
    loop = pull_loop(bus, stream)
    async with running(loop, log):
        await put(bus, stream, "before")
        await until(lambda: log.bodies == [b"before"])
        await bus.api(f"CONSUMER.DELETE.{stream.name}.{stream.name}")
        await put(bus, stream, "after")
        await until(lambda: b"after" in log.bodies)
        await until(lambda: loop.unavailable_reason is None)


async def test_a_deleted_stream_is_made_again(bus: Bus, stream: Stream, until: Until) -> None:
    log = Log()
    bus.recreate_streams = partial(ensure_stream, bus, stream)
    async with running(pull_loop(bus, stream), log):
        await put(bus, stream, "before")
        await until(lambda: log.bodies == [b"before"])
        await bus.api(f"STREAM.DELETE.{stream.name}")
        await put(bus, stream, "after")
        await until(lambda: log.bodies == [b"before", b"after"])


async def test_a_handler_that_takes_long_keeps_its_message(bus: Bus, stream: Stream, until: Until) -> None:
    deliveries = 0
    done = False

    async def handle(_: Delivery) -> DeliveryAnswer:
        nonlocal deliveries, done
        deliveries += 1
        await asyncio.sleep(3.5)
        done = True
        return Ack()

    await ensure_stream(bus, stream)
    async with running(pull_loop(bus, stream, ack_wait=1.5), handle):
        await put(bus, stream, "long")
        await until(lambda: done)
    assert deliveries == 1
    await all_acknowledged(bus, stream)


async def test_a_handler_that_takes_too_long_is_cut_off_and_retried(bus: Bus, stream: Stream, until: Until) -> None:
    log = Log()

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        await log(delivery)
        if delivery.num_delivered == 1:
            await asyncio.Event().wait()
        return Ack()

    async with running(pull_loop(bus, stream, max_hold=0.2), handle):
        await put(bus, stream, "stuck")
        await until(lambda: [delivery.num_delivered for delivery in log] == [1, 2])


async def test_a_retry_comes_again_after_its_delay(bus: Bus, stream: Stream, until: Until) -> None:
    clock = asyncio.get_running_loop().time
    came: list[float] = []

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        came.append(clock())
        return Retry(0.4, "not yet") if delivery.num_delivered == 1 else Ack()

    async with running(pull_loop(bus, stream), handle):
        await put(bus, stream, "a")
        await until(lambda: len(came) == 2)
    assert 0.4 <= came[1] - came[0] < 5.0  # and not after the ack wait, which is 30 s


@pytest.mark.parametrize("way", ["verdict", "poison", "refused"])
async def test_a_dead_letter_is_copied_and_terminated_and_the_rest_goes_on(
    bus: Bus, stream: Stream, until: Until, way: str
) -> None:
    log = Log()
    terminated: list[bytes] = []

    async def hear(message: Any) -> None:
        terminated.append(message.data)

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        if delivery.data != b"bad":
            return await log(delivery)
        if way == "poison":
            raise PoisonEvent("it makes\nno sense")
        if way == "refused":
            raise PublishRefused("it makes\nno sense")
        return DeadLetter("it makes\nno sense")

    workqueue = replace(stream, retention="workqueue")
    bus.recreate_streams = partial(ensure_stream, bus, deadletters_stream())
    await ensure_stream(bus, workqueue)
    await put(
        bus,
        stream,
        "bad",
        headers={"ce-id": "1", "traceparent": "00-1-2-01", "Nats-Msg-Id": "x", "Exeunt-Cut-From": "9"},
    )
    await put(bus, stream, "good")
    await bus.nc.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream.name}.>", cb=hear)
    async with running(pull_loop(bus, workqueue), handle):
        await until(lambda: log.bodies == [b"good"])
        await until(lambda: bool(terminated))
    assert b'"reason":"it makes no sense"' in terminated[0]
    await all_acknowledged(bus, stream)
    async with asyncio.timeout(10):  # a workqueue lets go of what is acknowledged in its own time
        while (await bus.api(f"STREAM.INFO.{stream.name}"))["state"]["messages"]:
            pass

    letter = await last_message(bus, "DEADLETTERS", f"exeunt.deadletters.{stream.name}")
    assert letter is not None
    assert letter.data == b"bad"
    assert {key: value for key, value in letter.headers.items() if not key.startswith("nats-")} == {
        "ce-id": "1",
        "traceparent": "00-1-2-01",
        "exeunt-reason": "it makes no sense",
        "exeunt-stream": stream.name,
        "exeunt-subject": f"{stream.name}.bad",
        "exeunt-sequence": "1",
        "exeunt-deliveries": "1",
    }


@pytest.mark.parametrize(
    ("headers", "room", "kept"),
    [
        ({"ce-id": "1"}, 100, {"ce-id": "1"}),  # with the reason it would be more than the server takes
        ({"ce-id": "1", "ce-long": "x" * 65_400}, 100_000, {}),  # its headers would be more than JetStream takes
    ],
)
async def test_a_message_too_large_to_be_set_aside_whole_is_cut_and_the_rest_goes_on(
    bus: Bus, stream: Stream, until: Until, headers: dict[str, str], room: int, kept: dict[str, str]
) -> None:
    log = Log()
    body = os.urandom(bus.nc.max_payload - room)

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        if delivery.data != b"good":
            raise PoisonEvent("it makes no sense")
        return await log(delivery)

    await ensure_stream(bus, deadletters_stream())
    await ensure_stream(bus, stream)
    await publish(bus, Message(subject=f"{stream.name}.bad", payload=body, headers=headers), deadline=10)
    await put(bus, stream, "good")
    async with running(pull_loop(bus, stream), handle):
        await until(lambda: log.bodies == [b"good"])
        await all_acknowledged(bus, stream)
    assert (bus.unavailable_reason, bus.session) == (None, 1)

    letter = await last_message(bus, "DEADLETTERS", f"exeunt.deadletters.{stream.name}")
    assert letter is not None
    assert body.startswith(letter.data)
    assert len(letter.data) > len(body) - 1000
    assert {key: value for key, value in letter.headers.items() if not key.startswith("nats-")} == kept | {
        "exeunt-reason": "it makes no sense",
        "exeunt-stream": stream.name,
        "exeunt-subject": f"{stream.name}.bad",
        "exeunt-sequence": "1",
        "exeunt-deliveries": "1",
        "exeunt-cut-from": str(header_size(headers) + len(body)),
    }


async def test_a_message_that_ends_processes_is_set_aside_unseen(bus: Bus, stream: Stream, until: Until) -> None:
    log = Log()

    class Bug(Exception):
        pass

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        await log(delivery)
        if delivery.data == b"bad":
            raise Bug
        return Ack()

    await ensure_stream(bus, deadletters_stream())
    await ensure_stream(bus, stream)
    await put(bus, stream, "bad")
    for _ in range(3):
        with pytest.RaisesGroup(Bug):
            async with asyncio.timeout(20):
                await pull_loop(bus, stream, ack_wait=0.3, max_deliveries=3).run(handle)
    async with running(pull_loop(bus, stream, ack_wait=0.3, max_deliveries=3), handle):
        await put(bus, stream, "good")
        await until(lambda: len(log) == 4)
        await all_acknowledged(bus, stream)
    assert log.bodies == [b"bad"] * 3 + [b"good"]
    letter = await last_message(bus, "DEADLETTERS", f"exeunt.deadletters.{stream.name}")
    assert letter is not None
    assert letter.headers["exeunt-reason"] == "not acknowledged in 3 deliveries"


async def test_a_message_that_is_given_back_is_tried_for_as_long_as_it_takes(
    bus: Bus, stream: Stream, until: Until
) -> None:
    log = Log()

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        await log(delivery)
        return Ack() if len(log) == 9 else Retry(0, "the kube-apiserver is away")

    await ensure_stream(bus, deadletters_stream())
    async with running(pull_loop(bus, stream, max_deliveries=3), handle):
        await put(bus, stream, "good")
        await until(lambda: len(log) == 9)
        await all_acknowledged(bus, stream)
    assert await last_message(bus, "DEADLETTERS", f"exeunt.deadletters.{stream.name}") is None


async def test_a_copy_made_twice_is_one_dead_letter(bus: Bus, stream: Stream, until: Until) -> None:
    """As when the service dies between the copy and the termination."""
    await ensure_stream(bus, deadletters_stream())
    for _ in range(2):
        seen = Log()

        async def handle(delivery: Delivery, seen: Log = seen) -> DeliveryAnswer:
            seen.append(delivery)
            return DeadLetter("bad")

        loop = pull_loop(bus, stream)
        async with running(loop, handle):
            await until(lambda: loop.unavailable_reason is None)  # noqa: B023 - called in this turn
            if not (await bus.api(f"STREAM.INFO.{stream.name}"))["state"]["messages"]:
                await put(bus, stream, "bad")
            await until(lambda: len(seen) == 1)  # noqa: B023 - called in this turn
        await bus.api(f"CONSUMER.DELETE.{stream.name}.{stream.name}")
    subject = f"exeunt.deadletters.{stream.name}"
    info = await bus.api("STREAM.INFO.DEADLETTERS", {"subjects_filter": subject})
    assert info["state"]["subjects"] == {subject: 1}


async def test_stop_lets_handlers_finish(bus: Bus, stream: Stream, until: Until) -> None:
    started = done = 0

    async def handle(_: Delivery) -> DeliveryAnswer:
        nonlocal started, done
        started += 1
        await asyncio.sleep(0.3)
        done += 1
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, *range(4))
    async with running(pull_loop(bus, stream), handle):
        await until(lambda: started == 4)
    assert done == 4
    await all_acknowledged(bus, stream)


async def test_stop_gives_back_what_is_not_finished_in_its_budget(bus: Bus, stream: Stream, until: Until) -> None:
    started, log = 0, Log()

    async def stuck(_: Delivery) -> DeliveryAnswer:
        nonlocal started
        started += 1
        await asyncio.Event().wait()
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, *range(4))
    loop = pull_loop(bus, stream)
    task = asyncio.create_task(loop.run(stuck))
    await until(lambda: started == 4)
    before = asyncio.get_running_loop().time()
    await loop.stop(budget=0.2)
    await task
    assert asyncio.get_running_loop().time() - before < 0.2 + A_BUSY_MACHINE

    async with running(pull_loop(bus, stream), log):  # ack_wait is 30 s: without a NAK this would wait
        await until(lambda: len(log) == 4)
    assert {delivery.num_delivered for delivery in log} == {2}


async def test_stop_returns_in_time_without_a_server(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until
) -> None:
    loop = pull_loop(bus, stream)
    task = asyncio.create_task(loop.run(Log()))
    await until(lambda: loop.unavailable_reason is None)
    await nats_server.kill()
    try:
        async with asyncio.timeout(0.5 + A_BUSY_MACHINE):
            await loop.stop(budget=0.5)
            await task
    finally:
        await nats_server.start()


async def test_stop_before_run_ends_it(bus: Bus, stream: Stream) -> None:
    loop = pull_loop(bus, stream)
    await loop.stop(budget=1)
    async with asyncio.timeout(A_BUSY_MACHINE):
        await loop.run(Log())


async def test_a_bug_in_a_handler_ends_the_loop_and_gives_the_others_back(
    bus: Bus, stream: Stream, until: Until
) -> None:
    log = Log()
    started = 0

    async def handle(delivery: Delivery) -> DeliveryAnswer:
        nonlocal started
        started += 1
        if delivery.data == b"bug":
            await until(lambda: started == 3)
            raise ZeroDivisionError
        await asyncio.Event().wait()
        return Ack()

    await ensure_stream(bus, stream)
    await put(bus, stream, "one", "bug", "two")
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(10):
            await pull_loop(bus, stream).run(handle)
    assert raised.group_contains(ZeroDivisionError)

    async with running(pull_loop(bus, stream), log):
        await until(lambda: len(log) == 2)
    assert sorted(log.bodies) == [b"one", b"two"]  # the bug waits out its ack wait


async def test_two_loops_on_one_durable_share_the_work(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until
) -> None:
    ours, theirs = Log(), Log()

    async def slow(log: Log, delivery: Delivery) -> DeliveryAnswer:
        await asyncio.sleep(0.005)
        return await log(delivery)

    await ensure_stream(bus, stream)
    other = await connect(nats_server.url, name="other", inbox_prefix="_INBOX_other", connect_timeout=5)
    one, two = pull_loop(bus, stream), pull_loop(other, stream)
    async with running(one, partial(slow, ours)), running(two, partial(slow, theirs)):
        await until(lambda: one.unavailable_reason is None and two.unavailable_reason is None)
        await put(bus, stream, *range(300))
        await until(lambda: len(ours) + len(theirs) >= 300)
    await other.close(budget=1)
    assert len({*ours.bodies, *theirs.bodies}) == len(ours) + len(theirs) == 300
    assert len(ours) > 50
    assert len(theirs) > 50


async def test_confirmed_acks_of_a_workqueue_survive_a_killed_server(
    bus: Bus, stream: Stream, nats_server: NatsServer, until: Until
) -> None:
    workqueue = replace(stream, retention="workqueue")
    log = Log()
    await ensure_stream(bus, workqueue)
    await put(bus, stream, *range(200))
    async with running(pull_loop(bus, workqueue, ack_sync=True), log):
        await until(lambda: len(log) == 200)
    await nats_server.kill()
    await nats_server.start()
    await until(
        lambda: bus.unavailable_reason is None
    )  # or a try to put might be stored, and have no time left to hear it
    async with running(pull_loop(bus, workqueue, ack_sync=True), log):
        await put(bus, stream, "last")
        await until(lambda: log.bodies[-1] == b"last")
    assert len(log) == 201


async def test_a_consumer_without_replicas_lacks_no_majority_whatever_it_had_before(bus: Bus, stream: Stream) -> None:
    loop = pull_loop(bus, stream)
    loop.alone_since = 1.0  # as with replicas of which none was heard, before the stream was made anew with one
    async with running(loop, Log()):
        async with asyncio.timeout(30):
            while loop.lost is not None:  # noqa: ASYNC110 - the server is asked now and then
                await asyncio.sleep(0.01)
