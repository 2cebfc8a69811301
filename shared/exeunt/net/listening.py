"""Sockets that listen where an address says: `host:port`, as Go's net.Listen reads it.

No host (":8080") is every address of this machine, IPv4 and IPv6, or IPv4 where there is no IPv6; "[::]:8080" is the
same but insists on IPv6. A name is every address that it has: "localhost" often has one of each family, and where one
is switched off the other will do. All of it is one port, also when that is 0, which takes a free one.
"""

import errno
import re
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Final

from exeunt.errors import UsageError

_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:*]*)):(?P<port>\d{1,5})")
_NO_SUCH_FAMILY: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_TRIES: Final = 10
"""Free ports of one family that are tried in the others."""


def listen(variable: str, address: str) -> list[socket.socket]:
    """Sockets that are bound and listen, all on one port. Raises UsageError that names `variable`, which said so."""
    try:
        return _listen(*_host_and_port(address))
    except (OSError, ValueError) as error:
        raise UsageError(f"{variable}={address!r} cannot be listened on: {error}") from error


def addresses(sockets: list[socket.socket]) -> list[str]:
    """Where they listen, as `host:port`."""
    bound = [listening.getsockname() for listening in sockets]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in bound]


def _host_and_port(address: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65_535:
        raise ValueError("it has to be host:port, as in :8080, 127.0.0.1:8080 or [::1]:8080")
    return found["ipv6"] or found["host"], int(found["port"])


def _listen(host: str, port: int) -> list[socket.socket]:
    if host == "::" or (not host and socket.has_dualstack_ipv6()):
        try:
            return [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)]
        except OSError as error:
            if host or error.errno not in _NO_SUCH_FAMILY:
                raise
    found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104 - what ":8080" means
    for tries_left in reversed(range(_TRIES)):
        try:
            return _bind(found, port)
        except OSError as error:
            # A free port of one family may be somebody's in the other.
            if port or error.errno != errno.EADDRINUSE or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _bind(found: Iterable[tuple[Any, ...]], port: int) -> list[socket.socket]:
    """One socket for each address, on the port of the first; a family that is switched off is passed over."""
    with ExitStack() as failed:
        bound: list[socket.socket] = []
        missing: OSError | None = None
        for family, *_, (host, _, *scope) in found:
            try:
                server = socket.create_server((host, port, *scope), family=family)
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = error
                continue
            failed.callback(server.close)
            bound.append(server)
            port = server.getsockname()[1]
        if not bound and missing is not None:
            raise missing
        failed.pop_all()
        return bound
