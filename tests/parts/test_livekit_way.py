"""The way to LiveKit's API: its URL as people write it, proxies, certificates."""

import ssl
from base64 import b64encode
from pathlib import Path

import pytest

from actors.connect_proxy import ConnectProxy
from actors.livekit_api import LiveKitApi
from actors.plain_authority import issue_plainly
from exeunt.errors import UsageError
from exeunt_livekit_bridge.keys import Keys
from exeunt_livekit_bridge.livekit import LiveKit, LiveKitUnavailable


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    (tmp_path / "keys").write_text("devkey: a secret of at least thirty-two characters\n")
    return Keys(tmp_path / "keys")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("url", ["http://{}/", " HTTP://{}\n", "Ws://{}", "ws://{}/?access_token=x"])
async def test_a_url_as_people_write_it(keys: Keys, url: str) -> None:
    async with LiveKitApi() as api, LiveKit(url.format(f"127.0.0.1:{api.port}"), keys) as livekit:
        assert await livekit.rooms() == ()


@pytest.mark.parametrize(
    "url",
    [
        "livekit:7880", "https://", "http://:7880", "http://livekit:port", "http://livekit:70000", "http://[::1",
        "http://a b:7880", "http://user:secret@livekit:7880", "grpc://livekit:7880",
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_refused_at_the_start(keys: Keys, url: str) -> None:
    with pytest.raises(UsageError, match=r"^EXEUNT_LIVEKIT_URL.* has to be like http://livekit:7880") as refused:
        LiveKit(url, keys)
    assert "secret" not in str(refused.value)


async def test_proxies_are_those_of_the_environment(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    who = "Basic " + b64encode(b"us@er:p\xc3\xa4ss").decode()
    async with LiveKitApi() as api, ConnectProxy(api.port, credentials=who) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"us%40er:p%C3%A4ss@127.0.0.1:{proxy.port}")
        async with LiveKit("ws://livekit.example", keys) as livekit:
            assert await livekit.rooms() == ()
        assert [asked.target for asked in proxy.asked] == ["http://livekit.example/twirp/livekit.RoomService/ListRooms"]
        monkeypatch.setenv("HTTP_PROXY", f"us%40er:wrong@127.0.0.1:{proxy.port}")
        async with LiveKit("http://livekit.example", keys) as livekit:
            with pytest.raises(LiveKitUnavailable, match="407") as refused:
                await livekit.rooms()
            assert "wrong" not in str(refused.value)
        proxy.asked.clear()
        async with LiveKit(api.url, keys) as livekit:  # loopback never goes to a proxy
            assert await livekit.rooms() == ()
        assert not proxy.asked
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(UsageError, match="HTTPS_PROXY: a socks5 proxy is not supported"):
        LiveKit("wss://livekit.example", keys)


async def test_an_authority_without_key_identifiers_is_taken_unless_strictness_is_asked_for(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue_plainly(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "plain.pem", tmp_path / "plain.key")
    async with LiveKitApi(tls) as api, ConnectProxy(api.port) as proxy:
        url = f"https://localhost:{api.port}"
        async with LiveKit(url, keys) as livekit:
            with pytest.raises(LiveKitUnavailable, match="SSL_CERT_FILE names must hold the authority"):
                await livekit.rooms()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "plain-ca.pem"))
        async with LiveKit(url, keys) as livekit:
            assert await livekit.rooms() == ()
        async with LiveKit(url, keys, strict=True) as livekit:
            with pytest.raises(LiveKitUnavailable, match=r"Key Identifier.*EXEUNT_TLS_STRICT=false"):
                await livekit.rooms()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with LiveKit(f"https://livekit.example:{api.port}", keys) as livekit:
            with pytest.raises(LiveKitUnavailable, match="ostname mismatch"):  # the proxy vouches for nobody
                await livekit.rooms()
        assert [asked.method for asked in proxy.asked] == ["CONNECT"]
