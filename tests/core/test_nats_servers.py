import pytest

from exeunt.bus.servers import Login, NatsServer, read_servers
from exeunt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nats://a:4222", ["nats://a:4222"]),
        ("a", ["nats://a:4222"]),
        ("a:", ["nats://a:4222"]),
        ("a:5222", ["nats://a:5222"]),
        ("tls://a.example.com", ["tls://a.example.com:4222"]),
        ("TLS://A.example.com", ["tls://A.example.com:4222"]),
        ("nats://a/, nats://b:5222/ ,\n tls://c,", ["nats://a:4222", "nats://b:5222", "tls://c:4222"]),
        (",a,,b,", ["nats://a:4222", "nats://b:4222"]),
        ("a,a:4222,b", ["nats://a:4222", "nats://b:4222"]),
        ("[::1]", ["nats://[::1]:4222"]),
        ("tls://[2001:db8::1]:5222", ["tls://[2001:db8::1]:5222"]),
        ("nats://user:pass@[fe80::1%25eth0]:4222", ["nats://[fe80::1%eth0]:4222"]),
        ("nats://a_b-c.d:4222/path?query#fragment", ["nats://a_b-c.d:4222"]),
        ("nats://bücher.example", ["nats://bücher.example:4222"]),
    ],
)
def test_servers_are_read_as_the_nats_command_line_reads_them(text: str, servers: list[str]) -> None:
    assert [server.url for server in read_servers(text)] == servers


@pytest.mark.parametrize(
    ("who", "login"),
    [
        ("user:pass@", Login("user", "pass")),
        ("us%40er:p%2Fa%3As%25s%2Cw%23@", Login("us@er", "p/a:s%s,w#")),
        ("user:a+b%20c@", Login("user", "a+b c")),
        ("user:p@ss:word@", Login("user", "p@ss:word")),
        ("user:%C3%A4@", Login("user", "ä")),
        ("user:@", Login("user", "")),
        (":pass@", Login("", "pass")),
        ("t%3Dok%3A@", Login("t=ok:")),
        ("@", None),
        ("", None),
    ],
)
def test_who_we_are_is_percent_decoded_and_kept_apart(who: str, login: Login | None) -> None:
    for prefix in ("", "nats://"):
        assert read_servers(f"{prefix}{who}a") == (NatsServer("a:4222", login=login),)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("", "names no server"),
        (" , ", "names no server"),
        ("ws://user:secret@a:80", "ws://a:80: Exeunt speaks no WebSocket"),
        ("wss://a", "wss://a: Exeunt speaks no WebSocket"),
        ("http://user:secret@a:4222", "http://a:4222: the scheme must be"),
        ("nats://", "it names no host"),
        ("nats://:4222", "it names no host"),
        ("nats://user:secret@", "it names no host"),
        ("nats://user:secret@a:0", "nats://a:0: a port is a number"),
        ("nats://a:65536", "nats://a:65536: a port is a number"),
        ("nats://user:secret", r"nats://user:\.\.\.: a port is a number"),
        ("user:secret,b@a", r"nats://user:\.\.\.: a port is a number"),
        ("nats://user:sec#ret@a:4222", "nats://a:4222: write .* percent-encoded"),
        ("nats://user:sec?ret@a", "nats://a: write .* percent-encoded"),
        ("nats://user:secret/@a", "nats://a: write .* percent-encoded"),
        ("nats://user:sec%ret@a", "nats://a:4222: write .* percent-encoded"),
        ("nats://user:secret%@a", "nats://a:4222: write .* percent-encoded"),
        ("nats://user:secret%FF@a", "nats://a:4222: write .* percent-encoded"),
        ("2001:db8::1", "in brackets"),
        ("nats://[::1", "in the brackets"),
        ("nats://user:secret:4222", r"nats://user:\.\.\.: write an IPv6 address in brackets"),
        ("nats://[a]:4222", "no IPv6 address is in the brackets"),
        ("nats://a nats://b", "a host has letters"),
        ("a b", "separate servers by commas"),
        ("tls://a:4222 nats://b:4222", "separate servers by commas"),
        ("a:4222\nb:4222", "separate servers by commas"),
        ("nats://a:4222;nats://b:4222", "separate servers by commas"),
        ('"nats://a:4222"', "a host has letters|a port is a number"),
    ],
)
def test_what_cannot_be_used_is_reported_without_its_password(text: str, reported: str) -> None:
    with pytest.raises(UsageError, match=rf"^EXEUNT_NATS_URL.*({reported})") as refused:
        read_servers(text)
    assert "sec" not in str(refused.value).replace("second", "")
    assert "\n" not in str(refused.value)
