"""Encryption that was asked for is not optional: what goes over the wire, on every way to a server."""

import asyncio
import contextlib
import importlib.metadata
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from actors.command import exeunt
from actors.nats_cluster import nats_cluster
from actors.plain_authority import issue_plainly
from actors.plain_nats import PlainNats
from exeunt.bus import client
from exeunt.bus.client import NatsClient
from exeunt.bus.connection import Bus, connect
from exeunt.bus.credentials import Tls
from exeunt.errors import UsageError
from exeunt_local.binaries import Binaries
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port

Until = Callable[..., Awaitable[None]]
Connect = Callable[..., contextlib.AbstractAsyncContextManager[Bus]]

SECONDS = 20.0  # for anything, on a busy machine
NO_TLS = "offers no TLS, which was asked for (by tls:// in EXEUNT_NATS_URL or by EXEUNT_NATS_TLS_*)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, the certificate of a server that is called localhost, and that of a client."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("localhost", "client"):
        certificate = authority.issue_cert(name)
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    return folder


def tls_block(folder: Path, name: str = "localhost", more: str = "") -> str:
    # The server hangs up after 2 s otherwise, which is little on a busy machine.
    return f'tls {{ cert_file: "{folder}/{name}.pem", key_file: "{folder}/{name}.key", timeout: 30, {more} }}\n'


@contextlib.asynccontextmanager
async def connected(url: str, tls: Tls, *, patience: float = 0.0) -> AsyncIterator[Bus]:
    bus = await connect(url, name="test", inbox_prefix="_INBOX_test", tls=tls, connect_timeout=3, patience=patience)
    try:
        yield bus
    finally:
        await bus.close(budget=1)


@pytest.fixture
async def server(servers: Binaries, tmp_path: Path, folder: Path) -> AsyncIterator[NatsServer]:
    """One with TLS."""
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, config=tls_block(folder)) as server:
        yield server


def port_of(server: NatsServer) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("tls://user:secret@localhost:{port}", ()),
        ("TLS://user:secret@localhost:{port}", ()),
        ("nats://user:secret@localhost:{port},tls://localhost:{nobody}", ()),
        ("user:secret@localhost:{port}", ("ca",)),
        ("nats://secret@localhost:{port}", ("cert", "key")),
    ],
)
async def test_a_server_without_tls_hears_nothing(folder: Path, until: Until, url: str, asked: tuple[str, ...]) -> None:
    files = Tls(ca=f"{folder}/ca.pem", cert=f"{folder}/client.pem", key=f"{folder}/client.key")
    tls = replace(Tls(), **{name: getattr(files, name) for name in asked})
    async with PlainNats(free_port(), {}) as plain:
        async with connected(url.format(port=plain.port, nobody=free_port()), tls) as bus:
            await until(lambda: plain.connections > 1, within=SECONDS)  # it is tried again
            await until(lambda: NO_TLS in str(bus.unavailable_reason), within=SECONDS)
            assert "secret" not in str(bus.unavailable_reason)
        assert plain.received == b""


async def test_where_nothing_was_asked_for_the_server_decides() -> None:
    async with (
        PlainNats(free_port(), {}) as plain,
        connected(f"nats://localhost:{plain.port}", Tls(), patience=SECONDS) as bus,
    ):
        assert bus.unavailable_reason is None
        assert b"CONNECT" in plain.received


async def test_tls_that_is_only_available_is_taken(servers: Binaries, tmp_path: Path, folder: Path) -> None:
    config = tls_block(folder) + "allow_non_tls: true"
    async with (
        NatsServer(tmp_path / "nats", binary=servers.nats_server, config=config) as server,
        connected(f"localhost:{port_of(server)}", Tls(ca=f"{folder}/ca.pem"), patience=SECONDS) as bus,
    ):
        assert bus.unavailable_reason is None
        assert await encrypted(server)


async def encrypted(server: NatsServer) -> bool:
    async with aiohttp.ClientSession() as http, http.get(f"{server.monitor_url}/connz") as answer:
        connections = (await answer.json())["connections"]
    return bool(connections) and all(connection.get("tls_version") for connection in connections)


async def test_a_server_that_has_lost_its_tls_hears_nothing_on_reconnecting(
    folder: Path, server: NatsServer, until: Until
) -> None:
    async with connected(
        f"tls://user:secret@localhost:{port_of(server)}", Tls(ca=f"{folder}/ca.pem"), patience=SECONDS
    ) as bus:
        assert bus.unavailable_reason is None
        await bus.nc.subscribe("facts")
        await server.kill()
        async with PlainNats(port_of(server), {}) as plain:
            await until(lambda: NO_TLS in str(bus.unavailable_reason), within=SECONDS)
            await bus.nc.publish("facts", b"secret")  # what is published meanwhile is kept back, too
            tries = plain.connections
            await until(lambda: plain.connections > tries + 1, within=SECONDS)
            assert plain.received == b""
        await server.start()
        await until(lambda: bus.unavailable_reason is None, within=SECONDS)
        assert await encrypted(server)


@pytest.mark.parametrize("info", [None, {}])
async def test_closing_meanwhile_sends_nothing_either(
    folder: Path, server: NatsServer, until: Until, info: dict[str, object] | None
) -> None:
    async with connected(f"tls://localhost:{port_of(server)}", Tls(ca=f"{folder}/ca.pem"), patience=SECONDS) as bus:
        await server.kill()
        async with PlainNats(port_of(server), info) as plain:
            await until(lambda: plain.connections > 0, within=SECONDS)
            await bus.nc.publish("facts", b"secret")
            await bus.close(budget=1)
            await asyncio.sleep(0.2)
            assert plain.received == b""


async def test_a_server_that_another_tells_of_hears_nothing_without_tls(
    servers: Binaries, tmp_path: Path, folder: Path, until: Until
) -> None:
    async with PlainNats(free_port(), {}) as plain, PlainNats(free_port(), {}) as other:
        one, two = nats_cluster(
            servers,
            tmp_path,
            f'{tls_block(folder)} client_advertise: "127.0.0.1:{plain.port}"',
            f'{tls_block(folder)} client_advertise: "127.0.0.1:{other.port}"',
        )
        async with one, two:
            url = f"nats://user:secret@localhost:{port_of(one)}"
            async with connected(url, Tls(ca=f"{folder}/ca.pem"), patience=SECONDS) as bus:
                await until(lambda: len(bus.nc.discovered_servers) == 2, within=SECONDS)
                await one.kill()
                await until(lambda: min(plain.connections, other.connections) > 1, within=SECONDS)
                await one.start()
                await until(lambda: bus.unavailable_reason is None, within=SECONDS)
        assert plain.received == other.received == b""


async def test_a_server_whose_handshake_comes_first(
    servers: Binaries, tmp_path: Path, folder: Path, until: Until
) -> None:
    config = tls_block(folder, more="handshake_first: true")
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, config=config) as server:
        url = f"localhost:{port_of(server)}"
        async with connected(url, Tls(ca=f"{folder}/ca.pem", first=True), patience=SECONDS) as bus:
            assert bus.unavailable_reason is None
            await server.restart()
            await until(lambda: bus.session > 1 and bus.unavailable_reason is None, within=SECONDS)
            assert await encrypted(server)
        async with connected(url, Tls(ca=f"{folder}/ca.pem")) as bus:
            await until(lambda: "wants EXEUNT_NATS_TLS_FIRST=true" in str(bus.unavailable_reason), within=SECONDS)
    async with PlainNats(free_port(), {}) as plain, connected(f"localhost:{plain.port}", Tls(first=True)) as bus:
        await until(lambda: "no TLS: " in str(bus.unavailable_reason), within=SECONDS)
        assert b"CONNECT" not in plain.received


@pytest.mark.parametrize(
    ("ca", "host", "words"),
    [
        ("ca.pem", "127.0.0.1", "IP address mismatch, certificate is not valid for '127.0.0.1'; use a name"),
        ("", "localhost", "EXEUNT_NATS_TLS_CA must hold the authority"),
    ],
)
async def test_a_certificate_that_does_not_verify_is_reported_with_its_remedy(
    folder: Path, server: NatsServer, until: Until, ca: str, host: str, words: str
) -> None:
    tls = Tls(ca=f"{folder}/{ca}" if ca else "")
    async with connected(f"tls://{host}:{port_of(server)}", tls) as bus:
        await until(lambda: words in str(bus.unavailable_reason), within=SECONDS)
        assert "CERTIFICATE_VERIFY_FAILED" in str(bus.unavailable_reason)


async def test_only_the_given_authority_is_trusted_and_a_replaced_one_no_longer(
    folder: Path, server: NatsServer, tmp_path: Path, until: Until
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes((folder / "ca.pem").read_bytes())
    async with connected(f"tls://localhost:{port_of(server)}", Tls(ca=str(ca)), patience=SECONDS) as bus:
        assert bus.unavailable_reason is None
        assert len(bus.nc.ssl_context.get_ca_certs()) == 1
        trustme.CA().cert_pem.write_to_path(ca)
        await server.restart()
        await until(lambda: "unable to get local issuer certificate" in str(bus.unavailable_reason), within=SECONDS)
        ca.write_text("half-written")
        await asyncio.sleep(1)
        ca.write_bytes((folder / "ca.pem").read_bytes())
        await until(lambda: bus.unavailable_reason is None, within=SECONDS)


async def test_an_authority_without_key_identifiers_is_taken_unless_strictness_is_asked_for(
    servers: Binaries, tmp_path: Path, until: Until
) -> None:
    issue_plainly(tmp_path)
    ca = f"{tmp_path}/plain-ca.pem"
    async with NatsServer(tmp_path / "n", binary=servers.nats_server, config=tls_block(tmp_path, "plain")) as server:
        url = f"tls://localhost:{port_of(server)}"
        async with connected(url, Tls(ca=ca), patience=SECONDS) as bus:
            assert bus.unavailable_reason is None
        async with connected(url, Tls(ca=ca, strict=True)) as bus:
            await until(lambda: "Key Identifier" in str(bus.unavailable_reason), within=SECONDS)
            assert "EXEUNT_TLS_STRICT=false" in str(bus.unavailable_reason)


@pytest.mark.parametrize(("ours", "theirs"), [(NatsClient, Client), (client._Transport, TcpTransport)])
def test_what_is_overridden_is_still_there(ours: type, theirs: type) -> None:
    """The other tests tell whether it is still called; a new nats-py is read again before it is taken."""
    overridden = [name for name in vars(ours) if name in vars(theirs) and not name.startswith("__")]
    for name in overridden:
        one, other = vars(ours)[name], vars(theirs)[name]
        if callable(one):
            passed_on = ["self", "args", "kwargs"]
            assert list(inspect.signature(one).parameters) in (list(inspect.signature(other).parameters), passed_on)
    assert {"connect_tls", "readline", "write", "writelines"} <= {*overridden} or {
        "ssl_context", "_connect_to_server", "_process_connect_init", "_connect_command", "_process_info", "_close"
    } <= {*overridden}  # fmt: skip
    assert importlib.metadata.version("nats-py") == "2.16.0"


def test_files_that_are_of_no_use_are_reported_with_their_setting(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    locked = serialization.load_pem_private_key((folder / "client.key").read_bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    client, key = f"{folder}/client.pem", f"{folder}/client.key"
    for tls, words in (
        (Tls(ca=f"{tmp_path}/empty"), "EXEUNT_NATS_TLS_CA=.*empty.* in PEM"),
        (Tls(ca=f"{tmp_path}"), "EXEUNT_NATS_TLS_CA="),
        (Tls(cert=client, key=f"{folder}/localhost.key"), "EXEUNT_NATS_TLS_CERT=.*its own key"),
        (Tls(cert=client, key=f"{tmp_path}/locked.key"), "EXEUNT_NATS_TLS_KEY=.*passphrase"),
        (Tls(cert=key, key=client), "EXEUNT_NATS_TLS_CERT="),
    ):
        with pytest.raises(UsageError, match=words):
            tls.context()
    assert isinstance(Tls(cert=client, key=key).context(), ssl.SSLContext)


async def test_a_command_over_tls_says_nothing_but_its_own(server: NatsServer, folder: Path) -> None:
    url, ca = f"tls://localhost:{port_of(server)}", str(folder / "ca.pem")
    ran = await exeunt(server, "runs", EXEUNT_NATS_URL=url, EXEUNT_NATS_TLS_CA=ca)
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == "exeunt: nobody serves the stream RUNS: has Exeunt ever run on this NATS?\n"


async def test_who_is_not_known_is_told_where_that_is_set(servers: Binaries, tmp_path: Path) -> None:
    users = "authorization: {users: [{user: somebody, password: secret}]}\n"
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server, config=users) as server:
        ran = await exeunt(server, "runs")
    assert ran.code == 4
    assert ran.err.endswith("; EXEUNT_NATS_CREDENTIALS names the file by which NATS knows who asks\n")
