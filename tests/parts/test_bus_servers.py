"""Servers and credentials as people write them, on the real nats-server; and servers that one is only told of."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import nkeys  # type: ignore[import-untyped]
import pytest
import trustme

from actors.nats_cluster import nats_cluster
from actors.plain_nats import PlainNats
from exeunt.bus.connection import Bus, connect
from exeunt.bus.credentials import Tls, read_user
from exeunt.errors import UsageError
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port

Until = Callable[..., Awaitable[None]]

NO_TLS = Tls()
SECONDS = 20.0  # for anything, on a busy machine
PASSWORD = "p@ss/w:o%r?d#,+ä"
ENCODED = "p%40ss%2Fw%3Ao%25r%3Fd%23%2C+%C3%A4"
USERS = f'authorization {{ users: [ {{ user: "us@er", password: "{PASSWORD}" }} ] }}\n'


@contextlib.asynccontextmanager
async def connected(
    url: str,
    *,
    tls: Tls = NO_TLS,
    credentials: str = "",
    patience: float = SECONDS,
) -> AsyncIterator[Bus]:
    bus = await connect(
        url,
        name="test",
        inbox_prefix="_INBOX_test",
        tls=tls,
        credentials=credentials,
        connect_timeout=3,
        patience=patience,
    )
    try:
        yield bus
    finally:
        await bus.close(budget=1)


def port_of(server: NatsServer) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.fixture
def seed() -> str:
    return str(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())


async def test_percent_encoded_user_and_password(servers: Binaries, tmp_path: Path, until: Until) -> None:
    async with NatsServer(tmp_path / "n", binary=servers.nats_server, config=USERS) as server:
        nobody = free_port()
        url = f" nats://us%40er:{ENCODED}@127.0.0.1:{port_of(server)}/ , us%40er:{ENCODED}@127.0.0.1:{nobody},"
        async with connected(url) as bus:
            await until(lambda: bus.unavailable_reason is None, within=SECONDS)
            await server.restart()
            await until(lambda: bus.unavailable_reason is None and bus.session > 1, within=SECONDS)
        async with connected(f"us%40er:wrong@127.0.0.1:{port_of(server)}", patience=0) as bus:
            await until(lambda: "Authorization Violation" in str(bus.unavailable_reason), within=SECONDS)


async def test_a_percent_encoded_token(servers: Binaries, tmp_path: Path) -> None:
    config = f'authorization {{ token: "{PASSWORD}" }}'
    async with (
        NatsServer(tmp_path / "n", binary=servers.nats_server, config=config) as server,
        connected(f"{ENCODED}@127.0.0.1:{port_of(server)}") as bus,
    ):
        assert bus.unavailable_reason is None


@pytest.mark.parametrize("authorization", [USERS, f'authorization {{ token: "{PASSWORD}" }}\n'])
async def test_a_server_that_one_is_reported_of_gets_the_login_and_is_verified_by_the_known_name(
    servers: Binaries, tmp_path: Path, until: Until, authorization: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    config = authorization + f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem" }}\n'
    one, two = nats_cluster(servers, tmp_path, config, config)
    login = ENCODED if "token" in authorization else f"us%40er:{ENCODED}"
    async with (
        one,
        two,
        connected(f"tls://{login}@localhost:{port_of(one)}", tls=Tls(ca=f"{tmp_path}/ca.pem")) as bus,
    ):
        reported = {f"127.0.0.1:{port_of(server)}" for server in (one, two)}
        await until(lambda: {uri.netloc for uri in bus.nc.discovered_servers} == reported, within=SECONDS)
        await one.kill()
        await until(lambda: bus.unavailable_reason is None and bus.session > 1, within=SECONDS)
        assert bus.nc.connected_url is not None
        assert bus.nc.connected_url.netloc == f"127.0.0.1:{port_of(two)}"
        await one.start()  # and back, from one that was told of to another
        await until(lambda: {uri.netloc for uri in bus.nc.discovered_servers} == reported, within=SECONDS)
        await two.kill()
        await until(lambda: bus.unavailable_reason is None and bus.session > 2, within=SECONDS)


async def test_where_addresses_are_what_certificates_have_each_server_is_verified_by_its_own(
    servers: Binaries, tmp_path: Path, until: Until
) -> None:
    """As the Go client does: no name is known that could stand for the others'."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    configs = []
    for address in ("127.0.0.1", "127.0.0.2"):
        authority.issue_cert(address).private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{address}.pem")
        pem = tmp_path / f"{address}.pem"
        configs.append(f'listen: "{address}:{free_port()}"\ntls {{ cert_file: "{pem}", key_file: "{pem}" }}\n')
    one, two = nats_cluster(servers, tmp_path, *configs)
    address = configs[0].partition('"')[2].partition('"')[0]
    other = configs[1].partition('"')[2].partition('"')[0]
    async with one, two, connected(f"tls://{address}", tls=Tls(ca=f"{tmp_path}/ca.pem")) as bus:
        await until(lambda: {uri.netloc for uri in bus.nc.discovered_servers} == {other}, within=SECONDS)
        await one.kill()
        await until(lambda: bus.unavailable_reason is None and bus.session > 1, within=SECONDS)


async def test_a_server_that_is_reported_of_no_longer_is_not_tried_for_ever(until: Until) -> None:
    gone = f"127.0.0.1:{free_port()}"
    async with PlainNats(free_port(), {"connect_urls": [gone]}) as plain, connected(f"127.0.0.1:{plain.port}") as bus:
        assert [uri.netloc for uri in bus.nc.discovered_servers] == [gone]
        there = f"127.0.0.1:{plain.port}"
        plain.info = {"connect_urls": [there]}
        plain.send(plain.info)
        plain.send(b"-ERR 'Stale Connection'\r\n")  # so that it is tried once: one that is cut off tells of no others
        await until(lambda: bus.unavailable_reason is None and bus.session > 1, within=SECONDS)
        await until(lambda: bus.nc.discovered_servers == [], within=SECONDS)
        assert [uri.netloc for uri in bus.nc.servers] == [there]


@pytest.mark.parametrize(
    "info",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO\r\n",
        b"INFO []\r\n",
        b"INFO {\r\n",
        b"\x16\x03\x01\r\n",
        b"x" * 70_000,
    ],
)
async def test_what_is_no_nats_server_is_reported_and_tried_again(info: bytes, until: Until) -> None:
    async with PlainNats(free_port(), info) as plain, connected(f"127.0.0.1:{plain.port}", patience=0) as bus:
        await until(lambda: "no NATS" in str(bus.unavailable_reason), within=SECONDS)
        assert plain.received == b""


def as_written(seed: str, how: str) -> bytes:
    jwt = "eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiJVQSJ9.c2lnbmF0dXJl"
    creds = (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "********************** IMPORTANT **********************\nNKEY Seed printed below can be used to sign.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n*****\n"
    )
    return {
        "seed": seed.encode(),
        "newline": f"{seed}\n".encode(),
        "crlf": f"{seed}\r\n".encode(),
        "blanks": f"\n\n  {seed} \t\n\n".encode(),
        "comment": f"# the watcher's seed\n{seed}\n".encode(),
        "block": f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------".encode(),
        "with public key": f"{seed}\nUDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4\n".encode(),
        "bom": f"\ufeff{seed}\r\n".encode(),
        "utf-16": f"{seed}\r\n".encode("utf-16"),
        "creds": creds.encode(),
        "creds crlf": creds.replace("\n", "\r\n").encode(),
        "creds bom": f"\ufeff{creds}".encode(),
        "creds trailing blanks": creds.replace("\n", "  \n").encode(),
        "creds indented": "".join(f"    {line}\n" for line in creds.splitlines()).encode(),
        "creds without newline": creds.rstrip("*\n").encode(),
        "creds swapped": "".join(reversed(creds.partition("\n\n***"))).encode(),
    }[how]


@pytest.mark.parametrize(
    "how", ["seed", "newline", "crlf", "blanks", "comment", "block", "with public key", "bom", "utf-16"]
)
async def test_an_nkey_seed_as_people_write_it(servers: Binaries, tmp_path: Path, seed: str, how: str) -> None:
    (tmp_path / "seed").write_bytes(as_written(seed, how))
    user = read_user(str(tmp_path / "seed")).public_key
    config = f"authorization {{ users: [ {{ nkey: {user} }} ] }}"
    async with (
        NatsServer(tmp_path / "n", binary=servers.nats_server, config=config) as server,
        connected(server.url, credentials=f"{tmp_path}/seed") as bus,
    ):
        assert bus.unavailable_reason is None


@pytest.mark.parametrize(
    "how",
    [
        "creds",
        "creds crlf",
        "creds bom",
        "creds trailing blanks",
        "creds indented",
        "creds without newline",
        "creds swapped",
    ],
)
async def test_user_credentials_as_people_write_them(tmp_path: Path, seed: str, how: str, until: Until) -> None:
    (tmp_path / "creds").write_bytes(as_written(seed, how))
    async with (
        PlainNats(free_port(), {"nonce": "n", "auth_required": True}) as plain,
        connected(f"127.0.0.1:{plain.port}", credentials=f"{tmp_path}/creds") as bus,
    ):
        await until(lambda: b"CONNECT" in plain.received, within=SECONDS)
        assert bus.unavailable_reason is None
    sent = plain.connect()
    assert sent["jwt"] == "eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiJVQSJ9.c2lnbmF0dXJl"
    assert sent["sig"] == read_user(f"{tmp_path}/creds").sign("n").decode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "neither an nkey seed nor the credentials"),
        ("SUNOSEED", "its seed is cut"),
        ("{seed}A", "its seed is cut"),
        ("{mistyped}", "its seed is mistyped"),
        ("SAAIVY77NM2RTRG3ZNNKPFQEAZZP6TCGXLGKVS64LL6LQHYUCQIUMVBJ5A", "not that of a user: it begins with SA"),
        ("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4", "public key"),
        ("eyJ0.eyJz.c2ln", "a JWT and no seed"),
        ("-----BEGIN NATS USER JWT-----\neyJ0\neyJz.c2ln\n---\n{seed}", "broken over lines"),
        ("-----BEGIN USER NKEY SEED-----\nSUA\n------END USER NKEY SEED------\n", "its seed is cut"),
        (b"\xff\x00\xfe", "no text"),
    ],
)
async def test_credentials_of_no_use_are_reported_with_the_variable_and_without_what_they_hold(
    tmp_path: Path, seed: str, content: str | bytes, why: str
) -> None:
    file = tmp_path / "credentials"
    mistyped = seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]
    if isinstance(content, str):
        content = content.replace("{seed}", seed).replace("{mistyped}", mistyped).encode()
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"^EXEUNT_NATS_CREDENTIALS='{file}' cannot be used: .*{why}") as refused:
        await connect("x", name="x", inbox_prefix="_INBOX_x", credentials=str(file), connect_timeout=1)
    assert seed[10:18] not in str(refused.value)


async def test_a_folder_is_no_credentials_and_a_missing_file_is_waited_for(
    servers: Binaries, tmp_path: Path, seed: str, until: Until
) -> None:
    with pytest.raises(UsageError, match=r"EXEUNT_NATS_CREDENTIALS=.* directory"):
        await connect("x", name="x", inbox_prefix="_INBOX_x", credentials=str(tmp_path), connect_timeout=1)
    public = nkeys.from_seed(bytearray(seed.encode())).public_key.decode()
    config = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    async with (
        NatsServer(tmp_path / "n", binary=servers.nats_server, config=config) as server,
        connected(server.url, credentials=f"{tmp_path}/seed", patience=0) as bus,
    ):
        await until(lambda: "/seed': No such file" in str(bus.unavailable_reason), within=SECONDS)
        (tmp_path / "seed").write_text("half")
        await until(lambda: "neither" in str(bus.unavailable_reason), within=SECONDS)
        (tmp_path / "seed").write_text(seed)
        await until(lambda: bus.unavailable_reason is None, within=SECONDS)
        (tmp_path / "seed").write_text("half")
        await server.restart()
        await until(lambda: "neither" in str(bus.unavailable_reason), within=SECONDS)
        await asyncio.sleep(0.5)
        (tmp_path / "seed").write_text(seed)
        await until(lambda: bus.unavailable_reason is None, within=SECONDS)
