"""Proxies on the way to a real kube-apiserver: which one is taken, what it is reported, and that nobody else is
reported it.
"""

import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from actors.connect_proxy import ConnectProxy
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiUnavailable, ConfigurationError
from exeunt.kube.resources import STORY_RUNS
from exeunt_local.control_plane import ControlPlane

ELSEWHERE = "https://api.cluster.example:6443"  # a name that only the proxy can lead anywhere
BASIC = "Basic " + b64encode("us@er:päss:w/rd".encode()).decode()


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[ConnectProxy]:
    async with ConnectProxy(port_of(control_plane), credentials=BASIC) as proxy:
        yield proxy


def port_of(control_plane: ControlPlane) -> int:
    return int(control_plane.url.rpartition(":")[2])


def kubeconfig(folder: Path, control_plane: ControlPlane, **cluster: Any) -> str:
    config = json.loads(control_plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"] |= {"tls-server-name": "localhost", **cluster}
    (folder / "config").write_text(json.dumps(config))
    return str(folder / "config")


async def listed(path: str) -> None:
    client = await KubeClient.connect(kubeconfig=path, request_timeout=10)
    try:
        await client.list(STORY_RUNS, "default", retry=False)
    finally:
        await client.close()


@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
async def test_the_environment_names_the_proxy(
    control_plane: ControlPlane,
    proxy: ConnectProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, f"{scheme}us%40er:p%C3%A4ss%3Aw%2Frd@127.0.0.1:{proxy.port}")
    await listed(kubeconfig(tmp_path, control_plane, server=ELSEWHERE))
    assert proxy.asked == [("CONNECT", "api.cluster.example:6443", BASIC)]


async def test_loopback_and_what_no_proxy_names_are_reached_directly(
    control_plane: ControlPlane, proxy: ConnectProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    for host in ("127.0.0.1", "localhost"):
        await listed(kubeconfig(tmp_path, control_plane, server=f"https://{host}:{port_of(control_plane)}"))
    monkeypatch.setenv("NO_PROXY", "172.30.0.0/16,.cluster.example")
    with pytest.raises(ApiUnavailable, match=r"no answer from https://api\.cluster\.example:6443: "):
        await listed(kubeconfig(tmp_path, control_plane, server=ELSEWHERE))
    assert proxy.asked == []


async def test_the_kubeconfigs_own_proxy_comes_before_the_environments(
    control_plane: ControlPlane, proxy: ConnectProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    url = f"http://us%40er:p%C3%A4ss%3Aw%2Frd@localhost:{proxy.port}"
    await listed(kubeconfig(tmp_path, control_plane, **{"proxy-url": url}))
    assert proxy.asked == [("CONNECT", control_plane.url.removeprefix("https://"), BASIC)]


async def test_a_proxy_may_want_tls_itself(control_plane: ControlPlane, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    both = control_plane.ca.read_text() + authority.cert_pem.bytes().decode()
    (tmp_path / "both.pem").write_text(both)
    async with ConnectProxy(port_of(control_plane), credentials=BASIC, tls=tls) as proxy:
        url = f"https://us%40er:p%C3%A4ss%3Aw%2Frd@localhost:{proxy.port}"
        ca = {"certificate-authority": str(tmp_path / "both.pem")}
        await listed(kubeconfig(tmp_path, control_plane, server=ELSEWHERE, **ca, **{"proxy-url": url}))
        assert proxy.asked == [("CONNECT", "api.cluster.example:6443", BASIC)]


async def test_a_server_without_tls_is_asked_for_in_plain_and_without_our_credentials(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        heard.append(request)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ConnectProxy(runner.addresses[0][1], credentials=BASIC) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"us%40er:p%C3%A4ss%3Aw%2Frd@127.0.0.1:{proxy.port}")
        server = "http://api.cluster.example:8001/k8s/c-1/"
        await listed(kubeconfig(tmp_path, control_plane, server=server, **{"disable-compression": True}))
    await runner.cleanup()
    (asked,) = proxy.asked
    assert asked.method == "GET"
    assert asked.target.startswith("http://api.cluster.example:8001/k8s/c-1/apis/runs.bubustack.io/")
    assert not {"Authorization", "Accept-Encoding"} & {*heard[0].headers}


async def test_what_a_proxy_was_reported_is_in_no_message(
    control_plane: ControlPlane, proxy: ConnectProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kubeconfig(tmp_path, control_plane, server=ELSEWHERE)
    for url, why in {
        f"http://user:secret@127.0.0.1:{proxy.port}": "through the proxy http://127.0.0.1:.*: the proxy answered 407",
        "http://user:secret@127.0.0.1:9": "through the proxy http://127.0.0.1:9: Connection refused$",
    }.items():
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(ApiUnavailable, match=why) as failed:
            await listed(path)
        secret = b64encode(b"user:secret").decode()
        assert not {word for word in ("secret", secret) if word in f"{failed.value} {failed.value!r}"}


@pytest.mark.parametrize("url", ["socks5://user:secret@127.0.0.1:1080", "socks5h://secret", "http://user:sec/ret@a:1"])
async def test_a_proxy_that_cannot_be_used_is_refused_at_the_start(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY") as refused:
        await listed(kubeconfig(tmp_path, control_plane, server=ELSEWHERE))
    assert "secret" not in str(refused.value)
    await listed(kubeconfig(tmp_path, control_plane))
    with pytest.raises(ConfigurationError, match=r"^proxy-url of cluster exeunt-local in .*config") as refused:
        await listed(kubeconfig(tmp_path, control_plane, **{"proxy-url": url}))
    assert "secret" not in str(refused.value)
