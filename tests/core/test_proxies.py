from base64 import b64encode
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunt.errors import UsageError
from exeunt.net.proxies import Proxy, parse_proxy, proxy_for

PROXY = "http://proxy.example:3128"
OPENSHIFT = ".cluster.local,.svc,10.128.0.0/14,127.0.0.1,172.30.0.0/16,api-int.ocp.example.com,localhost"


def proxied(url: str, no_proxy: str) -> bool:
    return proxy_for(url, {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "NO_PROXY": no_proxy}) is not None


# What golang.org/x/net/http/httpproxy v0.62.0 says of each.
@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("https://172.30.0.1:443", OPENSHIFT),
        ("https://kubernetes.default.svc", OPENSHIFT),
        ("https://api-int.ocp.example.com:6443", OPENSHIFT),
        ("https://10.1.2.3", "10.1.2.3/9"),  # the host's part of a network says nothing
        ("https://10.1.2.3", "10.1.2.3"),
        ("https://10.1.2.3:6443", "10.1.2.3:6443"),
        ("https://10.1.2.3", "10.1.2.3:443"),
        ("http://10.1.2.3", "10.1.2.3:80"),
        ("https://[2001:db8::1]:6443", "2001:db8::1"),
        ("https://[2001:db8:0:0::1]", "2001:0db8::0001"),
        ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443"),
        ("https://[2001:db8::1]", "[2001:db8::1]"),  # not in Go, where this form does nothing
        ("https://[2001:db8::1]", "2001:db8::/32"),
        ("https://[fe80::1%25eth0]", "fe80::/10"),
        ("https://[::ffff:10.1.2.3]", "10.0.0.0/8"),
        ("https://10.1.2.3", "::ffff:10.0.0.0/104"),
        ("https://example.com", "example.com"),
        ("https://a.b.example.com", "example.com"),
        ("https://a.example.com", ".example.com"),
        ("https://a.example.com", "*.example.com"),
        ("https://A.Example.com", "a.eXample.COM"),
        ("https://a.example.com:6443", ".example.com:6443"),
        ("https://example.com", "example.com:443"),
        ("https://xn--bcher-kva.example", "bücher.example"),
        ("https://api.bücher.example", ".xn--bcher-kva.example"),
        ("https://example.com", "other.example , ,  example.com\t"),
        ("https://example.com", "*"),
        ("https://10.1.2.3", "other.example,*"),
    ],
)
def test_what_no_proxy_names_is_reached_directly(url: str, no_proxy: str) -> None:
    assert not proxied(url, no_proxy)


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("https://10.1.2.3", ""),
        ("https://172.31.0.1", OPENSHIFT),
        ("https://svc", ".svc"),
        ("https://example.com", ".example.com"),
        ("https://example.com", "*.example.com"),
        ("https://notexample.com", "example.com"),
        ("https://example.com.evil.test", "example.com"),
        ("https://example.com:6443", "example.com:443"),
        ("https://10.1.2.3:6443", "10.1.2.3:443"),
        ("https://[2001:db8::1]:6443", "[2001:db8::1]:443"),
        ("https://10.1.2.3", "::/0"),
        ("https://[2001:db8::1]", "0.0.0.0/0"),
        ("https://10.1.2.3", "10.0.0.0/255.0.0.0"),
        ("https://10.1.2.3", "10."),
        ("https://10.1.2.3", "10.0.0.0/33,/,:443,*:443,http://10.1.2.3,10.1.2.3:443:443"),
        ("https://10.1.2.3", "1.2.3"),  # a domain is not looked for in an address
        ("https://example.com", "example.com example.org"),  # commas only
        ("https://foo.localhost", ""),
        ("https://localhost.example", ""),
    ],
)
def test_everything_else_goes_through_the_proxy(url: str, no_proxy: str) -> None:
    assert proxied(url, no_proxy)


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "127.0.0.1", "127.3.2.1", "[::1]", "[0:0::0:1]", "[::ffff:127.0.0.1]"]
)
@pytest.mark.parametrize("no_proxy", ["", "example.com"])
def test_loopback_is_never_proxied(host: str, no_proxy: str) -> None:
    assert not proxied(f"http://{host}:4318/v1/traces", no_proxy)
    assert not proxied(f"https://{host}", no_proxy)


ADDRESSES = st.ip_addresses().filter(lambda address: not address.is_loopback and not _mapped(address))


def _mapped(address: IPv4Address | IPv6Address) -> bool:
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


@given(ADDRESSES, ADDRESSES, st.integers(0, 128))
def test_a_network_exempts_its_addresses_and_no_others(
    host: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address, prefix: int
) -> None:
    network = ip_network(f"{other}/{min(prefix, other.max_prefixlen)}", strict=False)
    url = f"https://[{host}]:6443" if isinstance(host, IPv6Address) else f"https://{host}:6443"
    assert proxied(url, str(network)) == (host not in network)
    assert not proxied(url, f"{host}/{min(prefix, host.max_prefixlen)}")
    assert proxied(url, str(other)) == (ip_address(host) != ip_address(other))


@given(st.text())
def test_no_entry_is_an_error(no_proxy: str) -> None:
    assert proxied("https://api.example:6443", no_proxy) in {True, False}
    assert not proxied("https://api.example:6443", f"{no_proxy},api.example")


def test_which_variable_counts() -> None:
    def chosen(url: str, **environ: str) -> str | None:
        proxy = proxy_for(url, environ)
        return proxy.url if proxy else None

    assert chosen("https://a", HTTPS_PROXY="http://up:1", https_proxy="http://low:1") == "http://up:1"
    assert chosen("https://a", HTTPS_PROXY="", https_proxy="http://low:1") == "http://low:1"
    assert chosen("http://a", http_proxy="http://low:1", HTTPS_PROXY="http://up:1") == "http://low:1"
    assert chosen("https://a", HTTP_PROXY="http://up:1", ALL_PROXY="http://all:1") is None
    assert chosen("https://a.b", HTTPS_PROXY="http://up:1", NO_PROXY="c", no_proxy="b") == "http://up:1"
    assert chosen("https://a.b", HTTPS_PROXY="http://up:1", NO_PROXY="", no_proxy="b") is None
    assert chosen("https://a", HTTP_PROXY="socks5://other:1", HTTPS_PROXY="http://up:1") == "http://up:1"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example", "http://proxy.example"),
        ("[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
        ("10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("HTTP://proxy.example:3128/", "http://proxy.example:3128"),
        ("https://proxy.example:3129", "https://proxy.example:3129"),
        (" http://proxy.example:3128\n", "http://proxy.example:3128"),
    ],
)
def test_a_proxy_without_a_scheme_is_an_http_one(text: str, url: str) -> None:
    assert parse_proxy(text, "HTTPS_PROXY") == Proxy(url)


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_credentials_are_percent_decoded_and_never_shown(scheme: str) -> None:
    proxy = parse_proxy(f"{scheme}us%40er:p%C3%A4ss%3A%2F%40w%25rd@proxy.example:3128", "HTTPS_PROXY")
    assert proxy.url == str(proxy) == "http://proxy.example:3128"
    assert proxy.authorization == "Basic " + b64encode("us@er:päss:/@w%rd".encode()).decode()
    assert repr(proxy) == "Proxy(url='http://proxy.example:3128')"


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "ftp"])
def test_a_proxy_of_another_kind_is_refused(scheme: str) -> None:
    environ = {"HTTPS_PROXY": f"{scheme}://user:secret@proxy.example:1080"}
    with pytest.raises(UsageError, match=f"^HTTPS_PROXY: a {scheme} proxy is not supported: name an HTTP") as refused:
        proxy_for("https://api.example", environ)
    assert "secret" not in str(refused.value)
    assert proxy_for("https://127.0.0.1:6443", environ) is None


@pytest.mark.parametrize(
    "text", ["http://", "://", "http://user:sec/ret@proxy:3128", "proxy:port", "http:///path", "http://[::1", "a b:x@"]
)
def test_what_is_no_proxy_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError, match=r"^https_proxy is not the URL of a proxy: write http://user:password@") as no:
        proxy_for("https://api.example", {"https_proxy": text})
    assert "sec" not in str(no.value)
