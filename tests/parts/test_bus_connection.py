import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import nkeys  # type: ignore[import-untyped]
import pytest
import trustme
from structlog.testing import capture_logs

from actors.plain_nats import PlainNats
from exeunt.bus.connection import Bus, connect
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.credentials import Tls
from exeunt.bus.delivery import Ack, Delivery
from exeunt.bus.errors import BusClosed, BusUnavailable, PermissionDenied
from exeunt.bus.publisher import Stored, publish
from exeunt.bus.pull import PullLoop
from exeunt.bus.streams import Stream, ensure_stream
from exeunt.errors import UsageError
from exeunt.events.messages import Message
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port

Until = Callable[..., Awaitable[None]]

A_BUSY_MACHINE = 4.0  # seconds that it may add to anything

USERS = """
authorization { users: [
  { user: admin, password: admin }
  { user: few, password: few, permissions {
      publish: [ "allowed.>", "$JS.API.STREAM.INFO.*" ], subscribe: "_INBOX_few.>" } }
] }
"""


@pytest.fixture(scope="session")
async def guarded(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> object:
    """A server whose user `few` may do little."""
    return NatsServer(tmp_path_factory.mktemp("guarded"), binary=servers.nats_server, config=USERS)


async def as_user(server: NatsServer, user: str, inbox_prefix: str | None = None) -> Bus:
    url = server.url.replace("nats://", f"nats://{user}:{user}@")
    return await connect(url, name=user, inbox_prefix=inbox_prefix or f"_INBOX_{user}", connect_timeout=5)


def message(subject: str) -> Message:
    return Message(subject=subject, payload=b"", headers={})


async def test_a_server_that_is_not_there_yet_is_waited_for_and_told(
    servers: Binaries, tmp_path: Path, until: Until
) -> None:
    server = NatsServer(tmp_path / "nats", binary=servers.nats_server)
    bus = await connect(
        server.url.replace("nats://", "nats://me:secret@"),
        name="early",
        inbox_prefix="_INBOX_early",
        connect_timeout=0.2,
    )
    try:
        assert "not connected to NATS at nats://127.0.0.1" in str(bus.unavailable_reason)
        await until(lambda: "Connection refused" in str(bus.unavailable_reason))
        assert "secret" not in str(bus.unavailable_reason)
        with pytest.raises(BusUnavailable, match="not connected to NATS"):
            await bus.request("$JS.API.STREAM.NAMES", timeout=0.2)
        await server.start()
        await until(lambda: bus.unavailable_reason is None)
        assert (await bus.api("STREAM.NAMES"))["total"] == 0
    finally:
        await bus.close(budget=1)
        await server.kill()


async def test_closing_while_the_server_was_never_there(until: Until) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    bus = await connect(url, name="early", inbox_prefix="_INBOX_early", connect_timeout=0.1)
    async with asyncio.timeout(0.5 + A_BUSY_MACHINE):
        await bus.close(budget=0.5)
    with pytest.raises(BusClosed):
        await bus.api("STREAM.NAMES")
    await until(lambda: bus.unavailable_reason is not None)


async def test_an_unusable_setting_stops_the_start() -> None:
    for patience in (None, 0):
        with pytest.raises(UsageError, match=r"cannot use NATS at nats://none"):
            await connect("nats://none", name="x", inbox_prefix="_INBOX_x", connect_timeout=1, patience=patience)
    with pytest.raises(UsageError, match=r"^EXEUNT_NATS_TLS_CA='/absent' cannot be used: .* PEM$"):
        await connect("x", name="x", inbox_prefix="_INBOX_x", tls=Tls(ca="/absent"), connect_timeout=1)
    for half in (Tls(cert="/absent"), Tls(key="/absent")):
        with pytest.raises(UsageError, match="set both or neither"):
            await connect("x", name="x", inbox_prefix="_INBOX_x", tls=half, connect_timeout=1)


async def test_a_lost_server_is_reported_and_forgotten_when_it_is_back(
    bus: Bus, nats_server: NatsServer, until: Until
) -> None:
    session = bus.session
    with capture_logs() as logs:
        await nats_server.kill()
        await until(lambda: bus.unavailable_reason is not None)
        await asyncio.sleep(1.5)  # several tries fail
        await nats_server.start()
        await until(lambda: bus.unavailable_reason is None)
    assert bus.session == session + 1
    refused = [entry for entry in logs if "Connection refused" in str(entry.get("error"))]
    assert len(refused) == 1, "an error that repeats itself is logged once"
    assert [entry["event"] for entry in logs if entry["event"] != "NATS error"] == [
        "NATS disconnected",
        "NATS reconnected",
    ]


async def test_whoever_is_cancelled_in_the_moment_of_its_answer_is_cancelled(bus: Bus) -> None:
    await bus.api("INFO")  # nats-py has its inbox now
    asking = asyncio.create_task(bus.api("INFO"))
    while not bus.nc._resp_map:  # noqa: ASYNC110 - nats-py tells nobody
        await asyncio.sleep(0)
    (answer,) = bus.nc._resp_map.values()
    in_time: list[bool] = []
    answer.add_done_callback(lambda _: in_time.append(asking.cancel()))
    await asyncio.wait({asking}, timeout=A_BUSY_MACHINE)
    assert [asking.cancelled()] == in_time


async def first_connection(bus: Bus, plain: PlainNats) -> None:
    """Going on since `connect`."""


async def another_connection(bus: Bus, plain: PlainNats) -> None:
    await bus.wait_connected(A_BUSY_MACHINE)
    so_far = plain.connections
    await bus.nc.force_reconnect()
    while plain.connections == so_far:  # noqa: ASYNC110 - step by step
        await asyncio.sleep(0)


@pytest.mark.parametrize("connecting", [first_connection, another_connection])
async def test_a_connection_that_is_closed_in_whichever_moment_of_connecting_leaves_nothing_behind(
    connecting: Callable[[Bus, PlainNats], Awaitable[None]],
) -> None:
    for steps in range(40):
        before = asyncio.all_tasks()
        async with PlainNats(free_port(), {}) as plain:
            url = f"nats://127.0.0.1:{plain.port}"
            bus = await connect(url, name="t", inbox_prefix="_INBOX_t", connect_timeout=3, patience=0)
            await connecting(bus, plain)
            for _ in range(steps):
                await asyncio.sleep(0)
            await bus.close(budget=A_BUSY_MACHINE)
        if left := asyncio.all_tasks() - before:
            await asyncio.wait(left, timeout=A_BUSY_MACHINE)
        assert not [task for task in left if not task.done()], f"closed after {steps} steps of the loop"


async def test_what_is_unsent_when_the_server_has_gone_does_not_keep_a_connection_open(nats_server: NatsServer) -> None:
    bus = await connect(nats_server.url, name="t", inbox_prefix="_INBOX_t", connect_timeout=3)
    await nats_server.kill()
    try:
        while bus.nc.is_connected:  # noqa: ASYNC110 - nats-py tells nobody
            await asyncio.sleep(0)
        await bus.nc.publish("subject", b"unsent")
        await bus.close(budget=1)
        assert bus.nc.is_closed
    finally:
        await nats_server.start()


async def test_a_denied_publish_names_the_subject(guarded: NatsServer) -> None:
    async with guarded:
        bus = await as_user(guarded, "few")
        with pytest.raises(PermissionDenied, match=r"permission denied for subject exeunt\.runs\.A"):
            await publish(bus, message("exeunt.runs.A"), deadline=10)
        with pytest.raises(PermissionDenied, match=r"permission denied for subject exeunt\.runs\.b"):
            await publish(bus, message("exeunt.runs.b"), deadline=1)
        with pytest.raises(PermissionDenied, match=r"\$JS\.API\.STREAM\.CREATE\.S"):
            await bus.request("$JS.API.STREAM.CREATE.S", timeout=1)
        with pytest.raises(BusUnavailable, match=r"nobody answers on allowed.a"):
            await publish(bus, message("allowed.a"), deadline=1)
        await bus.close(budget=1)


async def test_a_denied_inbox_is_reported(guarded: NatsServer) -> None:
    async with guarded:
        bus = await as_user(guarded, "few", inbox_prefix="_INBOX_other")
        with pytest.raises(PermissionDenied):
            await bus.request("$JS.API.STREAM.INFO.S", timeout=1)
        await bus.close(budget=1)


async def test_a_denied_pull_is_reported(guarded: NatsServer, stream: Stream, until: Until) -> None:
    async def handle(_: Delivery) -> Ack:
        return Ack()

    async def recreate() -> None:
        pass

    async with guarded:
        admin, few = await as_user(guarded, "admin"), await as_user(guarded, "few")
        await ensure_stream(admin, stream)
        await ensure_consumer(admin, stream.name, "d", stream.subjects, ack_wait=3, max_ack_pending=7)
        loop = PullLoop(few, stream.name, "d", max_in_flight=1, recreate=recreate, ack_wait=3, max_deliveries=20)
        task = asyncio.create_task(loop.run(handle))
        denied = f"permission denied for subject $JS.API.CONSUMER.MSG.NEXT.{stream.name}.d"
        await until(lambda: denied in str(loop.unavailable_reason))
        await loop.stop(budget=1)
        await task
        await few.close(budget=1)
        await admin.close(budget=1)


async def test_close_sends_what_is_buffered_and_then_nothing_goes(
    nats_server: NatsServer, bus: Bus, stream: Stream
) -> None:
    await ensure_stream(bus, stream)
    other = await connect(nats_server.url, name="other", inbox_prefix="_INBOX_other", connect_timeout=5)
    for _ in range(100):
        await other.nc.publish(f"{stream.name}.a", b"")
    await other.close(budget=5)
    async with asyncio.timeout(10):  # what the server has read is stored in its own time
        while (await bus.api(f"STREAM.INFO.{stream.name}"))["state"]["messages"] < 100:
            pass
    assert other.unavailable_reason is not None
    with pytest.raises(BusClosed):
        await publish(other, message(f"{stream.name}.a"), deadline=1)
    assert isinstance(await publish(bus, message(f"{stream.name}.a"), deadline=5), Stored)


async def test_close_keeps_its_budget_without_a_server(nats_server: NatsServer, until: Until) -> None:
    bus = await connect(nats_server.url, name="other", inbox_prefix="_INBOX_other", connect_timeout=5)
    await nats_server.kill()
    try:
        await until(lambda: bus.unavailable_reason is not None)
        async with asyncio.timeout(0.5 + A_BUSY_MACHINE):
            await bus.close(budget=0.5)
    finally:
        await nats_server.start()


def issue(folder: Path) -> None:
    """A new authority, and new certificates of it for server and client."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("127.0.0.1", "client"):
        certificate = authority.issue_cert(name)
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")


async def test_keys_and_certificates_are_used_and_read_again_when_rotated(
    servers: Binaries, tmp_path: Path, until: Until
) -> None:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_bytes(seed)
    issue(tmp_path)
    user = nkeys.from_seed(bytearray(seed)).public_key.decode()
    config = f"""
        authorization {{ users: [ {{ nkey: {user} }} ] }}
        tls {{ cert_file: "{tmp_path}/127.0.0.1.pem", key_file: "{tmp_path}/127.0.0.1.key"
               ca_file: "{tmp_path}/ca.pem", verify: true }}
    """
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, config=config) as server:
        bus = await connect(
            server.url,
            name="tls",
            inbox_prefix="_INBOX_tls",
            credentials=str(tmp_path / "seed"),
            tls=Tls(ca=f"{tmp_path}/ca.pem", cert=f"{tmp_path}/client.pem", key=f"{tmp_path}/client.key"),
            connect_timeout=5,
        )
        assert bus.unavailable_reason is None
        await server.kill()
        await until(lambda: bus.unavailable_reason is not None)
        issue(tmp_path)
        await server.start()
        await until(lambda: bus.unavailable_reason is None)
        assert (await bus.api("STREAM.NAMES"))["total"] == 0
        await bus.close(budget=1)
