"""Where a service can be reached that was reported an address: by real connections."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from exeunt.errors import UsageError
from exeunt.net.listening import addresses, listen
from exeunt.settings import Settings
from exeunt_local.processes import free_port


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:  # as in many containers
        return False
    return True


LOOPBACK = {"127.0.0.1", "::1"} if has_ipv6() else {"127.0.0.1"}
needs_ipv6 = pytest.mark.skipif("::1" not in LOOPBACK, reason="this machine has no IPv6")


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def reached(address: str, closing: ExitStack) -> set[str]:
    """By which loopback addresses, all on one port."""
    sockets = [closing.enter_context(listening) for listening in listen("EXEUNT_HTTP_ADDR", address)]
    (port,) = {listening.getsockname()[1] for listening in sockets}
    return {host for host in ("127.0.0.1", "::1") if socket_answers(host, port)}


def socket_answers(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex((host, port)) == 0


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        (":0", LOOPBACK),
        ("[::]:0", LOOPBACK),
        ("0.0.0.0:0", {"127.0.0.1"}),
        ("127.0.0.1:0", {"127.0.0.1"}),
        pytest.param("[::1]:0", {"::1"}, marks=needs_ipv6),
    ],
)
def test_an_address_is_reached_by_the_families_that_it_means(address: str, hosts: set[str], closing: ExitStack) -> None:
    assert reached(address, closing) == hosts


def test_a_name_is_listened_on_at_all_its_addresses_on_one_port(
    closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [(socket.AF_INET, None, None, "", ("127.0.0.1", 0)), (socket.AF_INET6, None, None, "", ("::1", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert reached("localhost:0", closing) == LOOPBACK


def test_the_default_does_without_ipv6_where_the_kernel_has_none(
    closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_ipv6", False)
    assert Settings().http_addr == ":8080"
    assert reached(":0", closing) == {"127.0.0.1"}


def test_where_it_listens_is_reported_as_it_is_written(closing: ExitStack) -> None:
    port = free_port()
    for address in (f"[::]:{port}", f"127.0.0.1:{free_port()}"):
        sockets = [closing.enter_context(listening) for listening in listen("EXEUNT_HTTP_ADDR", address)]
        assert addresses(sockets) == [address]


@pytest.mark.parametrize("address", ["", "8080", "nowhere", ":http", ":65536", "::1:8080", "[::1]", ":-1", "*:8080"])
def test_what_is_no_address_is_refused_with_what_is_one(address: str) -> None:
    with pytest.raises(UsageError, match=r"^EXEUNT_HTTP_ADDR=.* it has to be host:port, as in :8080"):
        listen("EXEUNT_HTTP_ADDR", address)


def test_a_port_that_is_taken_is_refused(closing: ExitStack) -> None:
    (taken, *_) = [closing.enter_context(listening) for listening in listen("EXEUNT_HTTP_ADDR", "127.0.0.1:0")]
    for address in (addresses([taken])[0], f":{taken.getsockname()[1]}"):
        with pytest.raises(UsageError, match=r"cannot be listened on: .*in use"):
            listen("EXEUNT_HTTP_ADDR", address)
