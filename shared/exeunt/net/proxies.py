"""Which proxy a request goes through, by HTTPS_PROXY, HTTP_PROXY and NO_PROXY as programs in Go read them. Pure.

The variables are written for kubectl, for the kubelet and by OpenShift, so golang.org/x/net/http/httpproxy says what
they mean: upper case before lower case, a proxy without a scheme is an HTTP one, and neither `localhost` nor a loopback
address ever goes through one. An entry of NO_PROXY is a CIDR, an address or a domain (with its subdomains; after a dot,
the subdomains alone), the last two also with a port; `*` is everything. What is none of these is skipped. Python's own
libraries differ: urllib knows no CIDR, requests none for IPv6, and both send loopback to the proxy.
"""

from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from yarl import URL

from exeunt.errors import UsageError

_SUPPORTED: Final = ("http", "https")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. What is printed of it has no credentials in it."""

    url: str
    authorization: str | None = field(default=None, repr=False)
    """The value of the header Proxy-Authorization."""

    def __str__(self) -> str:
        return self.url


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for a request to `url`, or None: straight to the server.

    Raises UsageError when the proxy that would be taken is not written as one, or is of another kind than HTTP.
    """
    target = URL(url)
    variable = f"{target.scheme.upper()}_PROXY"
    used = next((name for name in (variable, variable.lower()) if environ.get(name)), None)
    if used is None or target.scheme not in _SUPPORTED:
        return None
    if _exempt(target, environ.get("NO_PROXY") or environ.get("no_proxy") or ""):
        return None
    return parse_proxy(environ[used], used)


def parse_proxy(text: str, where: str) -> Proxy:
    """The proxy that `text` writes down; `where` it does is for the error. Raises UsageError, without the text."""
    text = text.strip()
    try:
        url = URL(text if "://" in text else f"http://{text}")
        usable = url.scheme not in {"", *_SUPPORTED} or bool(url.host and url.port)
    except ValueError:
        url, usable = URL(), False
    if not usable:
        raise UsageError(
            f"{where} is not the URL of a proxy: write http://user:password@host:port,"
            " with percent-encoding for what is special in a password"
        )
    if url.scheme not in _SUPPORTED:
        raise UsageError(f"{where}: a {url.scheme} proxy is not supported: name an HTTP proxy (http:// or https://)")
    if url.user is None and url.password is None:
        return Proxy(str(url.origin()))
    credentials = f"{url.user or ''}:{url.password or ''}".encode()
    return Proxy(str(url.origin()), f"Basic {b64encode(credentials).decode()}")


def _exempt(target: URL, no_proxy: str) -> bool:
    host = (target.raw_host or "").lower()
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    entries = (entry.strip().lower() for entry in no_proxy.split(","))
    return any(_matches(entry, host, address, str(target.port)) for entry in entries if entry)


def _matches(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: str) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        network = _network(entry)
        return address is not None and network is not None and address in network
    name, wanted = _split(entry)
    if not name or wanted not in {"", port}:
        return False
    listed = _address(name)
    if listed is not None or address is not None:
        return listed == address
    return _is_of(host, name.removeprefix("*") if name.startswith("*.") else name)


def _is_of(host: str, domain: str) -> bool:
    bare = domain.removeprefix(".")
    with suppress(ValueError):  # what cannot be a name in DNS stays as it is, and matches nothing
        bare = bare if bare.isascii() else URL.build(scheme="http", host=bare).raw_host or bare
    return host.endswith(f".{bare}") or (host == bare and not domain.startswith("."))


def _split(entry: str) -> tuple[str, str]:
    """Host and port, "" for none; an IPv6 address has a port only after brackets."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return host, port.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An IPv4 address that is written as an IPv6 one is an IPv4 address; the zone of an address says nothing here."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    address, _, prefix = entry.partition("/")
    if not prefix.isdecimal():  # a netmask, which is no CIDR
        return None
    try:
        network = ip_network(f"{address.strip('[]')}/{prefix}", strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network
