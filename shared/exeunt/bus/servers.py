"""EXEUNT_NATS_URL, read as the nats command line reads its servers. Pure.

nats-py reads them otherwise: it knows schemes in lower case only, takes percent-encoding as it stands, and no list as
people write one. So what it is given here is plain: a scheme, a host and a port. Who we are is kept apart.
"""

import re
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from exeunt.errors import UsageError

_PORT: Final = 4222
_ENCODE: Final = "write / ? # % @ : and the comma in a user, password or token percent-encoded (%40 for @)"


class Login(Struct, frozen=True):
    """User and password, or a token, as `user` without a password."""

    user: str
    password: str | None = None


class NatsServer(Struct, frozen=True):
    """One server that was named. `address` is host:port, an IPv6 host in brackets."""

    address: str
    tls: bool = False
    login: Login | None = None

    @property
    def url(self) -> str:
        """It, without who we are: fit for a log."""
        return f"{'tls' if self.tls else 'nats'}://{self.address}"


def read_servers(text: str) -> tuple[NatsServer, ...]:
    """The servers of a comma-separated list, each once, in its order. Raises UsageError that tells no password."""
    items = [item for part in text.split(",") if (item := part.strip())]
    if not items:
        raise UsageError("EXEUNT_NATS_URL names no server: set it to one, such as tls://nats.example.com:4222")
    servers = [_read(item) for item in items]
    return tuple({server.address: server for server in reversed(servers)}.values())[::-1]


def _read(item: str) -> NatsServer:
    known = re.match(r"(?i)([a-z][a-z0-9+.-]*)://", item)
    scheme, rest = (known[1].lower(), item[known.end() :]) if known else ("nats", item)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    who, _, where = authority.rpartition("@")
    if "@" in rest[len(authority) :]:  # what stands before it is somebody's password, or a part of one
        raise _refused(scheme, rest.rpartition("@")[2], _ENCODE)
    if scheme in {"ws", "wss"}:
        raise _refused(
            scheme, where, "Exeunt speaks no WebSocket; name the port for other clients, as tls:// or nats://"
        )
    if scheme not in {"nats", "tls"}:
        raise _refused(scheme, where, "the scheme must be tls:// or nats://")
    address = _address(scheme, where)
    try:
        return NatsServer(address, tls=scheme == "tls", login=_login(who) if who else None)
    except ValueError:
        raise _refused(scheme, address, _ENCODE) from None


def _address(scheme: str, where: str) -> str:
    host, port = re.fullmatch(r"(?s)(\[.*\]|.*?)(?::([^:\]]*))?", where).groups()  # type: ignore[union-attr]  # fits all
    if host.startswith("["):
        try:
            host = f"[{IPv6Address(unquote(host[1:-1]))}]"
        except ValueError:
            raise _refused(scheme, where, "no IPv6 address is in the brackets") from None
    elif ":" in host and not re.search(r"[\s;]|://", host):
        raise _refused(scheme, where, "write an IPv6 address in brackets, as in tls://[2001:db8::1]:4222")
    elif not host:
        raise _refused(scheme, where, "it names no host")
    elif not re.fullmatch(r"[\w.~-]+", host):
        raise _refused(scheme, where, "a host has letters, digits, dots and hyphens; separate servers by commas")
    if port and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        raise _refused(scheme, where, "a port is a number from 1 to 65535")
    return f"{host}:{int(port or _PORT)}"


def _refused(scheme: str, where: str, why: str) -> UsageError:
    """`where` may be no host and port but a user and password whose @ and host were forgotten."""
    shown = (
        where if re.fullmatch(r"(\[?[0-9a-fA-F:.%]*]?|[^:]*)(:[0-9]*)?", where) else f"{where.partition(':')[0]}:..."
    )
    return UsageError(f"EXEUNT_NATS_URL: cannot use NATS at {scheme}://{shown}: {why}")


def _login(who: str) -> Login:
    user, colon, password = who.partition(":")
    return Login(_decoded(user), _decoded(password) if colon else None)


def _decoded(text: str) -> str:
    """Raises ValueError for what is no percent-encoded UTF-8."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("a % that encodes nothing")
    return unquote(text, errors="strict")
