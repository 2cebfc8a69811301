"""`auth-provider: oidc` as kubectl has it: both are given the same kubeconfig, issuer and kube-apiserver."""

import asyncio
import json
import os
import re
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog
import yaml  # type: ignore[import-untyped]

from actors.connect_proxy import ConnectProxy
from actors.oidc_issuer import OidcIssuer
from actors.whoami import agreed, kubectl, ours, who
from exeunt.kube.credentials import Credentials
from exeunt.kube.errors import ConfigurationError, Unauthorized
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane

CLIENT, SECRET = "exeunt & friends", "s3cr:t/+%ü"


class World(NamedTuple):
    plane: ControlPlane
    issuer: OidcIssuer
    ca: Path

    def write(self, path: Path, token: str | None, **more: str | None) -> None:
        """A kubeconfig whose user has that id-token. `more` is of auth-provider, with _ for -; None leaves it out."""
        config = {
            "idp-issuer-url": self.issuer.url,
            "client-id": CLIENT,
            "client-secret": SECRET,
            "idp-certificate-authority": str(self.ca),
            "id-token": token,
            "refresh-token": self.issuer.refresh_token("dora"),
        } | {name.replace("_", "-"): value for name, value in more.items()}
        user = {"auth-provider": {"name": "oidc", "config": {key: value for key, value in config.items() if value}}}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "local", "user": "me", "namespace": "1e3"}}],
            "clusters": [
                {"name": "local", "cluster": {"server": self.plane.url, "certificate-authority": str(self.plane.ca)}}
            ],
            "users": [{"name": "other", "user": {"token": "x"}}, {"name": "me", "user": user}],
        }
        path.write_text(json.dumps(content))

    def expired(self) -> str:
        return self.issuer.id_token("dora", -60)


@pytest.fixture(scope="module")
async def started(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("oidc")
    async with OidcIssuer(client_id=CLIENT, secret=SECRET) as issuer:
        ca = folder / "issuer.pem"
        issuer.authority.cert_pem.write_to_path(ca)
        flags = [
            f"--oidc-issuer-url={issuer.url}",
            f"--oidc-client-id={CLIENT}",
            f"--oidc-ca-file={ca}",
            "--oidc-username-prefix=-",
        ]
        async with ControlPlane(folder / "plane", binaries=servers, apiserver_flags=flags) as plane:
            yield World(plane, issuer, ca)


@pytest.fixture
async def world(started: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """With an issuer as it is by default, and a kube-apiserver that has found it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    issuer = started.issuer
    issuer.takes, issuer.rotates, issuer.gives_id_token, issuer.lifetime = "basic", True, True, 3600.0
    started.write(tmp_path / "config", issuer.id_token("dora", 3600))
    async with asyncio.timeout(60):
        while True:
            try:
                await ours()
                break
            except Unauthorized:
                await asyncio.sleep(0.2)
    issuer.asked.clear()
    return started


def stored(path: Path) -> dict[str, str]:
    """What the kubeconfig says of the auth-provider."""
    user = next(entry["user"] for entry in yaml.safe_load(path.read_text())["users"] if entry["name"] == "me")
    return user["auth-provider"]["config"]  # type: ignore[no-any-return]


async def test_a_valid_token_is_taken_as_it_is(world: World) -> None:
    assert (await agreed())["username"] == "dora"
    assert world.issuer.asked == []


async def test_an_expired_token_is_renewed_and_written_back_for_kubectl(world: World, tmp_path: Path) -> None:
    config = tmp_path / "config"
    world.write(config, world.expired(), client_id=CLIENT)
    config.chmod(0o640)
    before, everything = stored(config), yaml.safe_load(config.read_text())
    assert (await ours())["username"] == "dora"
    after = stored(config)
    assert after["refresh-token"] != before["refresh-token"]
    assert world.issuer.knows(after["refresh-token"])
    assert not world.issuer.knows(before["refresh-token"])
    assert (await agreed())["username"] == "dora"
    assert world.issuer.asked == ["basic"]
    everything["users"][1]["user"]["auth-provider"]["config"] = after
    assert yaml.safe_load(config.read_text()) == everything
    assert 'namespace: "1e3"' in config.read_text()  # else a number in Go
    assert config.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["config"]  # noqa: PTH208


async def test_what_kubectl_has_renewed_meanwhile_is_used(world: World, tmp_path: Path) -> None:
    config = tmp_path / "config"
    world.write(config, world.issuer.id_token("dora", 60))
    credentials = Credentials.find(None)
    world.write(config, world.expired())
    assert await kubectl()
    assert world.issuer.asked == ["basic"]
    await credentials.refresh()
    assert (await who(credentials))["username"] == "dora"
    assert world.issuer.asked == ["basic"]
    assert credentials.headers == (("Authorization", f"Bearer {stored(config)['id-token']}"),)


async def test_a_process_that_stays_renews_in_time(world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "config", world.issuer.id_token("dora", 3600))
    credentials = Credentials.find(None)
    await credentials.refresh()
    world.write(tmp_path / "config", world.issuer.id_token("dora", 60))
    await credentials.reload()
    before = credentials.headers
    assert world.issuer.asked == ["basic"]
    await credentials.refresh()
    assert credentials.headers == before
    assert world.issuer.asked == ["basic"]


WAYS: dict[str, tuple[str, dict[str, str | None], list[str]]] = {
    "basic": ("basic", {}, ["basic"]),
    "body": ("body", {}, ["basic", "body"]),
    "public": ("public", {"client_secret": None}, ["body"]),
    "slash": ("basic", {"idp_issuer_url": "{url}/"}, ["basic"]),
    "data": ("basic", {"idp_certificate_authority": None, "idp_certificate_authority_data": "{ca}"}, ["basic"]),
    "no id-token": ("basic", {"id_token": None}, ["basic"]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rotates", [True, False], ids=["rotating", "lasting"])
async def test_issuers_and_clients_of_every_kind(world: World, tmp_path: Path, way: str, *, rotates: bool) -> None:
    takes, more, asked = WAYS[way]
    ca = b64encode(world.ca.read_bytes()).decode()
    given = {name: value and value.format(url=world.issuer.url, ca=ca) for name, value in more.items()}
    world.issuer.takes, world.issuer.rotates = takes, rotates
    for ask in (kubectl, ours):
        world.write(tmp_path / "config", given.pop("id_token", world.expired()), **given)
        before = stored(tmp_path / "config")["refresh-token"]
        world.issuer.asked.clear()
        found = await ask()
        assert found is not None, ask
        assert found["username"] == "dora"
        assert (stored(tmp_path / "config")["refresh-token"] != before) is rotates
    assert world.issuer.asked == asked


REFUSED: dict[str, tuple[dict[str, str | None], str]] = {
    "no refresh-token": ({"refresh_token": None}, "user me in .*config: its id-token has expired and it has no refr"),
    "revoked": ({"refresh_token": "revoked"}, r"cannot be renewed at https://localhost.* \(400 Bad Request\): log in"),
    "wrong secret": ({"client_secret": "wrong"}, r"failed to refresh access token \(401 Unauthorized\): log in again"),
    "no issuer": ({"idp_issuer_url": None}, "user me in .*config: auth-provider oidc needs idp-issuer-url in its conf"),
    "no client": ({"client_id": None}, "auth-provider oidc needs client-id"),
    "no CA": ({"idp_certificate_authority": None}, "FAILED: .*; idp-certificate-authority must hold the authority"),
    "no CA file": ({"idp_certificate_authority": "none"}, "idp-certificate-authority of user me .*none: No such file"),
    "no base64": ({"idp_certificate_authority_data": "%"}, "idp-certificate-authority-data of user me .* not base64"),
    "no token": ({"id_token": "abc"}, "user me in .*: its id-token is no JSON Web Token"),
    "away": ({"idp_issuer_url": "https://localhost:1"}, "cannot be renewed at https://localhost:1: ClientConnectorErr"),
    "other path": ({"idp_issuer_url": "{url}/x"}, r"failed to query well-known metadata endpoint \(404 Not Found\)$"),
    "plaintext": ({"idp_issuer_url": "http://localhost:1"}, "idp-issuer-url of .* must begin with https://"),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_what_kubectl_refuses_is_refused_with_the_reason(world: World, tmp_path: Path, why: str) -> None:
    more, message = REFUSED[why]
    given = {name: value and value.format(url=world.issuer.url) for name, value in more.items()}
    world.write(tmp_path / "config", given.pop("id_token", world.expired()), **given)
    assert await kubectl() is None
    with pytest.raises(ConfigurationError) as refused:
        await ours()
    answer = str(refused.value)
    assert re.search(message, answer), answer
    assert SECRET not in answer


async def test_an_issuer_that_gives_no_id_token_is_no_use(world: World, tmp_path: Path) -> None:
    world.issuer.gives_id_token = False
    world.write(tmp_path / "config", world.expired())
    with pytest.raises(ConfigurationError, match="gives no id_token when it renews"):
        await ours()


async def test_what_is_left_of_a_token_that_cannot_be_renewed_is_used(world: World, tmp_path: Path) -> None:
    for more in ({"refresh_token": None}, {"idp_issuer_url": "https://localhost:1"}):
        world.write(tmp_path / "config", world.issuer.id_token("dora", 90), **more)
        with structlog.testing.capture_logs() as logs:
            assert (await agreed())["username"] == "dora"
        assert [entry["event"] for entry in logs] == ["an id-token that expires soon is not renewed"]


async def test_a_kubeconfig_that_cannot_be_written_is_no_obstacle(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exeunt.kube.write_back._LOCKED_FOR", 0.2)
    config = tmp_path / "config"
    world.write(config, world.expired())
    before = config.read_text()
    (tmp_path / "config.lock").touch()  # as kubectl leaves it when it is killed
    credentials = Credentials.find(None)
    with structlog.testing.capture_logs() as logs:
        await credentials.refresh()
        await credentials.refresh()
    assert (await who(credentials))["username"] == "dora"
    assert world.issuer.asked == ["basic"]
    assert config.read_text() == before
    assert [entry["event"].partition(":")[0] for entry in logs] == ["renewed tokens are not written back"]
    assert "config.lock" in logs[0]["error"]

    out, into = os.pipe()
    (tmp_path / "config.lock").unlink()
    world.write(config, world.expired())
    os.write(into, config.read_bytes())
    os.close(into)
    monkeypatch.setenv("KUBECONFIG", f"/dev/fd/{out}")
    assert (await ours())["username"] == "dora"
    os.close(out)


async def test_a_kubeconfig_behind_a_link_stays_behind_it(world: World, tmp_path: Path) -> None:
    config, target = tmp_path / "config", tmp_path / "elsewhere" / "kubeconfig"
    target.parent.mkdir()
    world.write(target, world.expired())
    config.unlink()
    config.symlink_to(target)
    assert (await agreed())["username"] == "dora"
    assert world.issuer.asked == ["basic"]
    assert config.is_symlink()


async def test_an_issuer_is_asked_through_the_proxy_unless_it_is_here(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ConnectProxy(world.issuer.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        world.write(tmp_path / "config", world.expired())
        assert (await agreed())["username"] == "dora"
        assert proxy.asked == []
        there = f"issuer.example:{world.issuer.port}"
        for ask in (kubectl, ours):
            world.write(tmp_path / "config", world.expired(), idp_issuer_url=f"https://{there}")
            found = await ask()
            assert found is not None
            assert found["username"] == "dora"
            assert {(asked.method, asked.target) for asked in proxy.asked} == {("CONNECT", there)}
            proxy.asked.clear()


@pytest.mark.usefixtures("world")
async def test_kubernetes_asyncio_is_loaded_only_for_such_a_user(tmp_path: Path) -> None:
    script = """
import asyncio, sys
import exeunt.kube.client
from exeunt.kube.credentials import Credentials
asyncio.run(Credentials.find(None).refresh())
print("kubernetes_asyncio" in sys.modules)
"""
    for token_file, loaded in ((None, b"True"), ("token", b"False")):
        content = yaml.safe_load((tmp_path / "config").read_text())
        if token_file:
            (tmp_path / token_file).write_text("x")
            content["users"][1]["user"] = {"tokenFile": token_file}
        (tmp_path / "config").write_text(json.dumps(content))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert output.strip() == loaded
