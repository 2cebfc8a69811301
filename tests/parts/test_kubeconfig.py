"""Kubeconfigs as kubectl reads them: each is given to kubectl too, and a real kube-apiserver says who has come."""

import asyncio
import json
import os
import re
import stat
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from actors.whoami import agreed, kubectl, ours, who
from exeunt.kube.credentials import Credentials
from exeunt.kube.errors import ConfigurationError, Unauthorized
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.processes import free_port

EXEC = "client.authentication.k8s.io/v1"
Files = dict[str, Any]


class Cluster(NamedTuple):
    """A control plane that knows alice and bob by token, and whom `authority` certifies."""

    plane: ControlPlane
    authority: trustme.CA

    def certify(self, folder: Path, name: str) -> None:
        """Writes NAME.pem and NAME.key."""
        leaf = self.authority.issue_cert(f"{name}.example", common_name=name)
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")

    def config(self, user: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
        reported = {"server": self.plane.url, "certificate-authority": str(self.plane.ca), **cluster}
        return {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "local", "user": "me"}}],
            "clusters": [
                {"name": "local", "cluster": {key: value for key, value in reported.items() if value is not None}}
            ],
            "users": [{"name": "me", "user": user or {"token": "alice-token"}}],
        }


@pytest.fixture(scope="module")
async def cluster(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "clients.pem")
    tokens = "local-admin,admin,1,system:masters\nalice-token,alice,2,people\nbob-token,bob,3,people\n"
    (folder / "people.csv").write_text(tokens)
    flags = [f"--client-ca-file={folder / 'clients.pem'}", f"--token-auth-file={folder / 'people.csv'}"]
    async with ControlPlane(folder / "plane", binaries=servers, apiserver_flags=flags) as plane:
        yield Cluster(plane, authority)


@pytest.fixture(autouse=True)
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the kubeconfig of whoever runs the tests, nor a proxy, nor a pod."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        if name.endswith("plugin"):
            path.chmod(path.stat().st_mode | stat.S_IXUSR)


async def refusal(*, by_kubectl: bool = True) -> str:
    """Why we refuse at the start what kubectl refuses, too."""
    with pytest.raises(ConfigurationError) as refused:
        await ours()
    if by_kubectl:
        assert await kubectl() is None
    assert "\n" not in str(refused.value)
    return str(refused.value)


def use(monkeypatch: pytest.MonkeyPatch, *paths: Path | str) -> None:
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, paths)))


def plugin(*, token: str = "bob-token", more: str = "") -> str:
    """A program that notes how it was asked and gives a token."""
    return f"""#!/bin/sh
echo "$KUBERNETES_EXEC_INFO" >> "$(dirname "$0")/asked"
{more}
echo '{{"apiVersion": "{EXEC}", "kind": "ExecCredential", "status": {{"token": "{token}"}}}}'
"""


def asked(folder: Path) -> list[dict[str, Any]]:
    """How the plugin of that folder was asked, each time."""
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines() if line]


def executed(command: str, **more: Any) -> dict[str, Any]:
    return {"exec": {"apiVersion": EXEC, "command": command, "interactiveMode": "Never", **more}}


async def test_the_first_file_that_says_something_says_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cluster.config({"token": "alice-token"})
    second = cluster.config({"token": "bob-token"})
    second["current-context"] = "there"
    second["contexts"].append({"name": "there", "context": {"cluster": "local", "user": "bob"}})
    second["users"].append({"name": "bob", "user": {"token": "bob-token"}})
    files = {"first": first, "second": second, "none": "", "comment": "# nothing\n", "null": "null", "no": "---\n"}
    write(tmp_path, files)
    (first_path, second_path), empty = (tmp_path / name for name in ("first", "second")), tmp_path / "none"
    use(monkeypatch, first_path, second_path)
    assert (await agreed())["username"] == "alice"
    use(monkeypatch, second_path, first_path)
    assert (await agreed())["username"] == "bob"
    use(
        monkeypatch,
        "",
        tmp_path / "missing",
        empty,
        tmp_path / "comment",
        tmp_path / "null",
        tmp_path / "no",
        first_path,
    )
    assert (await agreed())["username"] == "alice"
    write(tmp_path, {"blank": {**first, "current-context": "", "users": None}})
    use(monkeypatch, tmp_path / "blank", second_path)  # a context that is not named there, but by name here
    assert (await agreed())["username"] == "bob"


async def test_an_entry_is_taken_whole_from_the_first_file_that_has_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        {
            "users": {"users": [{"name": "me", "user": {"token": "bob-token"}}]},
            "rest": cluster.config({"token": "alice-token", "as": "nobody"}),
        },
    )
    use(monkeypatch, tmp_path / "users", tmp_path / "rest", tmp_path / "rest")
    assert (await agreed())["username"] == "bob"


async def test_relative_paths_belong_to_the_file_in_which_they_stand(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a/config": cluster.config(None, **{"certificate-authority": "keys/ca.pem"}) | {"users": []}})
    for name, user in {
        "token": {"tokenFile": "keys/token"},
        "cert": {"client-certificate": "keys/carol.pem", "client-key": "./keys/carol.key"},
        "exec": executed("./plugin"),
        "up": executed("../b/keys/plugin"),
    }.items():
        write(tmp_path, {f"b/{name}": {"users": [{"name": "me", "user": user}]}})
    write(tmp_path, {"a/keys/ca.pem": cluster.plane.ca.read_text(), "b/keys/token": "alice-token\n"})
    write(tmp_path, {"b/plugin": plugin(), "b/keys/plugin": plugin()})
    cluster.certify(tmp_path / "b/keys", "carol")
    monkeypatch.chdir(tmp_path)
    for name, person in {"token": "alice", "cert": "carol", "exec": "bob", "up": "bob"}.items():
        use(monkeypatch, f"b/{name}", "a/config")
        assert (await agreed())["username"] == person, name


async def test_json_and_yaml_as_people_write_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cluster.config()
    date = cluster.config({"as": "2026-11-30", "token": "local-admin"})
    write(
        tmp_path,
        {
            "tabs": json.dumps(config, indent="\t"),
            "documents": json.dumps(config) + "\n---\nanother: document\n",
            "bom": "\ufeff" + json.dumps(config),
            "typed": {"apiVersion": "v1", "kind": "Config", "preferences": {}, **config},
            "date": json.dumps(date, indent=1).replace('"2026-11-30"', "2026-11-30"),
        },
    )
    for name in ("tabs", "documents", "typed"):
        use(monkeypatch, tmp_path / name)
        assert (await agreed())["username"] == "alice", name
    use(monkeypatch, tmp_path / "date")
    assert (await agreed())["username"] == "2026-11-30"


CAROL = {"client-certificate": "carol.pem", "client-key": "carol.key"}
ALPHA, BETA = (f"client.authentication.k8s.io/{version}" for version in ("v1alpha1", "v1beta1"))
OIDC = {"name": "oidc", "config": {"idp-issuer-url": "https://issuer.example", "client-id": "x"}}
PRECEDENCE: list[tuple[str, dict[str, Any], str]] = [
    ("token", {"token": "alice-token", **executed("./plugin")}, "alice"),
    ("tokenFile", {"tokenFile": "bob", "token": "alice-token"}, "bob"),
    ("tokenFile over exec", {"tokenFile": "alice", **executed("./plugin")}, "alice"),
    ("token for a file that is away", {"tokenFile": "none", "token": "alice-token"}, "alice"),
    ("token for a file that is empty", {"tokenFile": "empty", "token": "alice-token"}, "alice"),
    ("token over certificate", {"token": "alice-token", **CAROL}, ""),
    ("certificate over exec", {**CAROL, **executed("./plugin")}, "carol"),
    ("exec", executed("./plugin"), "bob"),
    ("a key alone is nothing", {"client-key": "none", "token": "alice-token"}, "alice"),
    ("nulls are nothing", {"token": None, "tokenFile": None, "as": None, **executed("./plugin")}, "bob"),
    ("token over auth-provider", {"token": "alice-token", "auth-provider": OIDC}, "alice"),
]  # fmt: skip


@pytest.mark.parametrize(("user", "name"), [case[1:] for case in PRECEDENCE], ids=[case[0] for case in PRECEDENCE])
async def test_which_of_several_credentials_counts(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: dict[str, Any], name: str
) -> None:
    write(tmp_path, {"config": cluster.config(user), "plugin": plugin(), "alice": "alice-token", "bob": "bob-token\n"})
    write(tmp_path, {"empty": "\n"})
    cluster.certify(tmp_path, "carol")
    use(monkeypatch, tmp_path / "config")
    found = await agreed()  # the server asks for a certificate before a token, so there it is its choice
    assert found["username"] == name or not name


async def test_data_is_taken_instead_of_a_file(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.certify(tmp_path, "carol")

    def data(path: Path) -> str:
        text = b64encode(path.read_bytes()).decode()
        return "\n".join(text[start : start + 64] for start in range(0, len(text), 64))

    pair = {"client-certificate-data": data(tmp_path / "carol.pem"), "client-key-data": data(tmp_path / "carol.key")}
    authority = {"certificate-authority": None, "certificate-authority-data": data(cluster.plane.ca)}
    write(tmp_path, {"config": cluster.config(pair, **authority)})
    use(monkeypatch, tmp_path / "config")
    assert (await agreed())["username"] == "carol"
    mixed = {**pair, "client-key-data": None, "client-key": "carol.key"}
    write(tmp_path, {"config": cluster.config(mixed, **authority)})
    assert (await agreed())["username"] == "carol"
    write(
        tmp_path, {"other.pem": "", "config": cluster.config({**pair, "client-certificate": "other.pem"}, **authority)}
    )
    assert (await ours())["username"] == "carol"  # kubectl says that the data will override, and stops


async def test_somebody_else_is_played_when_the_user_says_so(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = {
        "token": "local-admin",
        "as": "Zoë",
        "as-uid": "u-1",
        "as-groups": ["developers", "system:authenticated", "on call"],
        "as-user-extra": {"example.com/scope": ["a", "b"], "reason": ["größer"]},
    }
    write(tmp_path, {"config": cluster.config(user)})
    use(monkeypatch, tmp_path / "config")
    found = await agreed()
    assert found == {
        "username": "Zoë",
        "uid": "u-1",
        "groups": ["developers", "system:authenticated", "on call"],
        "extra": {"example.com/scope": ["a", "b"], "reason": ["größer"]},
    }
    write(
        tmp_path,
        {"plugin": plugin(token="local-admin"), "config": cluster.config({**executed("./plugin"), "as": "eve"})},
    )
    assert (await agreed())["username"] == "eve"


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("as-groups alone", {"token": "alice-token", "as-groups": ["x"]}, {}, "user me in .*config: as-uid, as-groups"),
    ("as-uid alone", {"token": "alice-token", "as-uid": "x"}, {}, "set `as`, or remove"),
    ("extra alone", {"token": "alice-token", "as-user-extra": {"a": ["b"]}}, {}, "set `as`, or remove"),
    ("line break", {"token": "local-admin", "as": "a\nImpersonate-Group: b"}, {}, "`as` of user me .* line break"),
    ("two ways", {"token": "alice-token", "username": "a", "password": "b"}, {}, "a token and a username exclude"),
    ("file and password", {"tokenFile": "token", "username": "a"}, {}, "a token and a username exclude"),
    ("no key", {"client-certificate": "carol.pem"}, {}, "client-certificate needs client-key"),
    ("no file", {"tokenFile": "none"}, {}, "tokenFile of user me in .*config: .*none: No such file"),
    ("empty file", {"tokenFile": "empty"}, {}, "tokenFile .*empty of user me .* is empty"),
    ("bad token", {"token": "a\nb"}, {}, "token of user me in .* line break"),
    ("number", {"token": 17}, {}, r"config is not a kubeconfig: Expected `str \| null`, got `int`.*users.*token"),
    ("auth-provider and exec", {"auth-provider": {"name": "oidc"}, **executed("./plugin")}, {}, "exclude each other"),
    ("azure", {"auth-provider": {"name": "azure"}}, {}, "user me in .*: auth-provider azure is not supported"),
    ("no base64", {"client-certificate-data": "%", "client-key-data": "%"}, {}, "certificate-data of user me .*base64"),
    ("no PEM", {"client-certificate-data": "YQ==", "client-key-data": "YQ=="}, {}, "the certificates of .*config"),
    ("no certificate", {"client-certificate": "none", "client-key": "none"}, {}, "certificate of user me .*No such"),
    ("insecure with CA", {}, {"insecure-skip-tls-verify": True}, "cluster local in .*: insecure-skip-tls-verify and"),
    ("no CA file", {}, {"certificate-authority": "none"}, "certificate-authority of cluster local .*No such file"),
    ("no CA", {}, {"certificate-authority": "alice"}, "certificate-authority of .*config holds no PEM"),
    ("no server", {}, {"server": None}, "cluster local in .*: server is not set"),
    ("string for a truth", {}, {"insecure-skip-tls-verify": "true"}, "got `str`.*clusters.*insecure-skip-tls-verify"),
    ("proxy", {}, {"proxy-url": "proxy.example:3128"}, "proxy-url of cluster local in .* has no scheme"),
    ("proxy of another kind", {}, {"proxy-url": "ftp://proxy.example"}, "proxy-url of .*: a ftp proxy is not"),
    ("old exec", executed("./plugin", apiVersion=ALPHA), {}, "exec.apiVersion .*v1alpha1"),
    ("no mode", executed("./plugin", interactiveMode=None), {}, "exec.interactiveMode is not set: write Never, If"),
    ("wrong mode", executed("./plugin", interactiveMode="never"), {}, "exec.interactiveMode is never: write Never, If"),
    ("always", executed("./plugin", interactiveMode="Always"), {}, "Always, and standard input is no terminal"),
    ("no command", executed(""), {}, "user me in .*config: exec has no command"),
    ("no name", executed("./plugin", env=[{"value": "x"}]), {}, "a variable in exec.env has no name"),
    ("no program", executed("./none"), {}, "/none of user me in .* is not an executable file here: install it"),
    ("hint", executed("no-such-program", installHint="run\n\x1b[1mbrew"), {}, r"executable file here: run \[1mbrew$"),
    ("not executable", executed("./alice"), {}, "alice of user me in .* is not an executable"),
    ("fails", executed("./failing.plugin"), {}, "failed with exit code 3: not logged in: run login"),
    ("no JSON", executed("echo", args=["token"]), {}, "the exec plugin echo of user me .* printed no ExecCredential"),
    ("other version", executed("./plugin", apiVersion=BETA), {}, "not an ExecCredential of"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("user", "of_cluster", "why"), [case[1:] for case in REFUSED], ids=[case[0].replace(" ", "-") for case in REFUSED]
)
async def test_what_kubectl_refuses_is_refused_with_the_file_and_the_field(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: dict[str, Any],
    of_cluster: dict[str, Any],
    why: str,
) -> None:
    failing = "#!/bin/sh\necho 'not logged in:' >&2\necho 'run login' >&2\nexit 3\n"
    write(tmp_path, {"config": cluster.config(user, **of_cluster), "alice": "alice-token", "token": "x", "empty": ""})
    write(tmp_path, {"plugin": plugin(), "failing.plugin": failing})
    cluster.certify(tmp_path, "carol")
    use(monkeypatch, tmp_path / "config")
    monkeypatch.setattr("sys.stdin", None)
    message = await refusal()
    assert re.search(why, message), message
    assert "alice-token" not in message


async def test_a_file_that_is_no_kubeconfig_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = cluster.config()
    twice["users"] *= 2
    lost = cluster.config()
    lost["current-context"] = "elsewhere"
    for name, content, why in [
        ("yaml", "token: secret\n\tusers: [", r"yaml is not a kubeconfig: line 2: "),
        ("pod", {"apiVersion": "v1", "kind": "Pod"}, r"pod is not a kubeconfig: it is of kind Pod"),
        ("old", {**cluster.config(), "apiVersion": "v2"}, r"old is not a kubeconfig: .* apiVersion v2"),
        ("list", "[]", r"list is not a kubeconfig: Expected `object"),
        ("text", "secret", r"text is not a kubeconfig: Expected `object"),
        ("twice", twice, r"twice has two entries for the user me: remove one"),
        ("lost", lost, r"the current-context is elsewhere, which is not in .*lost"),
    ]:
        write(tmp_path, {name: content, "good": cluster.config()})
        use(monkeypatch, tmp_path / name, tmp_path / "good")
        message = await refusal()
        assert re.search(why, message), message
        assert "secret" not in message
    (tmp_path / "folder").mkdir()
    use(monkeypatch, tmp_path / "folder", tmp_path / "good")
    assert "cannot read the kubeconfig" in await refusal()


async def test_a_plugin_is_reported_what_it_may_know(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = '[ "$GREETING" = "hello" ] && [ -z "$EMPTY" ] && [ "$1" = "two words" ] || exit 1'
    variables = [{"name": "GREETING", "value": "hello"}, {"name": "EMPTY", "value": None}]
    extension = {"name": EXEC.rpartition("/")[0] + "/exec", "extension": {"audience": "x", "since": "2026-11-30"}}
    write(tmp_path, {"plugin": plugin(more=more)})
    user = executed("./plugin", provideClusterInfo=True, env=variables, args=["two words"])
    write(tmp_path, {"config": cluster.config(user, extensions=[extension], **{"tls-server-name": "localhost"})})
    use(monkeypatch, tmp_path / "config")
    assert (await agreed())["username"] == "bob"
    to_us, to_kubectl = asked(tmp_path)
    assert to_us == to_kubectl
    assert to_us["spec"]["cluster"]["config"] == {"audience": "x", "since": "2026-11-30"}

    (tmp_path / "asked").unlink()
    write(tmp_path, {"plugin": plugin(), "config": cluster.config(executed("./plugin", env=None, args=None))})
    assert (await agreed())["username"] == "bob"
    to_us, to_kubectl = asked(tmp_path)
    assert to_us == to_kubectl == {"apiVersion": EXEC, "kind": "ExecCredential", "spec": {"interactive": False}}

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    write(tmp_path, {"found-plugin": plugin(), "config": cluster.config(executed("found-plugin"))})
    assert (await agreed())["username"] == "bob"


async def test_a_plugin_of_the_older_version_needs_no_mode(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"plugin": plugin().replace(EXEC, BETA)})
    write(tmp_path, {"config": cluster.config({"exec": {"apiVersion": BETA, "command": "./plugin"}})})
    use(monkeypatch, tmp_path / "config")
    assert (await agreed())["username"] == "bob"


async def test_a_plugin_may_give_a_certificate(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.certify(tmp_path, "carol")
    status = {
        "clientCertificateData": (tmp_path / "carol.pem").read_text(),
        "clientKeyData": (tmp_path / "carol.key").read_text(),
        "expirationTimestamp": "2999-01-01T00:00:00Z",
    }
    answer = json.dumps({"apiVersion": EXEC, "kind": "ExecCredential", "status": status})
    write(tmp_path, {"answer": answer, "config": cluster.config(executed("cat", args=[str(tmp_path / "answer")]))})
    use(monkeypatch, tmp_path / "config")
    assert (await agreed())["username"] == "carol"
    lines = [f"apiVersion: {EXEC}", "kind: ExecCredential", "status:", "  token: alice-token"]  # YAML is taken, too
    write(tmp_path, {"answer": "\n".join([*lines, "  expirationTimestamp: 2999-01-01T00:00:00Z"])})
    assert (await agreed())["username"] == "alice"
    del status["clientKeyData"]
    write(tmp_path, {"answer": json.dumps({"apiVersion": EXEC, "kind": "ExecCredential", "status": status})})
    assert "printed a certificate or a key, but not both" in await refusal()


async def test_what_a_plugin_gave_is_kept_until_it_is_about_to_expire(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config": cluster.config(executed("./plugin"))})
    use(monkeypatch, tmp_path / "config")
    for expires, times in {'"2999-01-01T00:00:00Z"': 1, "null": 1, '"2001-01-01T00:00:00Z"': 3}.items():
        (tmp_path / "asked").unlink(missing_ok=True)
        given = plugin().replace('"bob-token"', f'"bob-token", "expirationTimestamp": {expires}')
        write(tmp_path, {"plugin": given})
        credentials = Credentials.find(None)
        await credentials.reload()
        await credentials.refresh()
        await credentials.refresh()
        assert len(asked(tmp_path)) == times, expires


async def test_a_plugin_that_hangs_is_ended(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exeunt.kube.exec_plugin._DEADLINE", 0.5)
    write(tmp_path, {"plugin": f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n"})
    write(tmp_path, {"config": cluster.config(executed("./plugin"))})
    use(monkeypatch, tmp_path / "config")
    assert "did not end within 0.5 s" in await refusal(by_kubectl=False)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_how_the_server_is_reached(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = cluster.plane.url.rpartition(":")[2]
    ways: list[dict[str, Any]] = [
        {"server": f"https://localhost:{port}/"},
        {"server": f"HTTPS://127.0.0.1:{port}//"},
        {"insecure-skip-tls-verify": True, "certificate-authority": None},
        {"tls-server-name": "localhost"},
        {"disable-compression": True},
        {"insecure-skip-tls-verify": None, "proxy-url": None, "extensions": None},
    ]
    for reported in ways:
        write(tmp_path, {"config": cluster.config(None, **reported)})
        use(monkeypatch, tmp_path / "config")
        assert (await ours())["username"] == "alice", reported
    write(tmp_path, {"config": cluster.config(None, **{"tls-server-name": "other.example"})})
    assert await kubectl() is None
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        await ours()


async def test_a_bundle_with_comments_in_any_language_is_a_bundle(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trustme.CA().cert_pem.bytes().decode()
    write(tmp_path, {"ca.pem": f"# Autorité de Genève\n{other}\n# Ülemiste\n{cluster.plane.ca.read_text()}"})
    write(tmp_path, {"config": cluster.config(None, **{"certificate-authority": "ca.pem"})})
    use(monkeypatch, tmp_path / "config")
    assert (await agreed())["username"] == "alice"


async def test_a_key_with_a_passphrase_asks_nobody(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.certify(tmp_path, "carol")
    key = serialization.load_pem_private_key((tmp_path / "carol.key").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "carol.key").write_bytes(locked)
    write(tmp_path, {"config": cluster.config(CAROL)})
    use(monkeypatch, tmp_path / "config")
    assert "has a passphrase: write it without one" in await refusal()


async def test_the_home_directory_comes_before_the_pod(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = tmp_path / "serviceaccount"
    write(pod, {"token": "bob-token", "ca.crt": cluster.plane.ca.read_text()})
    monkeypatch.setattr("exeunt.kube.credentials._SERVICE_ACCOUNT", pod)
    assert "there is no kubeconfig to read at " in await refusal()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", cluster.plane.url.rpartition(":")[2])
    assert (await in_pod(pod))["username"] == "bob"
    use(monkeypatch, tmp_path / "none")
    assert Credentials.find(None).source.startswith("the service account")
    write(tmp_path, {"home/.kube/config": cluster.config()})
    monkeypatch.delenv("KUBECONFIG")
    assert (await agreed())["username"] == "alice"
    write(tmp_path, {"home/.kube/config": {**cluster.config(), "current-context": ""}})
    assert Credentials.find(None).source.startswith("the service account")
    (pod / "token").unlink()
    assert "no current-context is set in" in await refusal(by_kubectl=False)


async def in_pod(pod: Path) -> dict[str, Any]:
    credentials = Credentials((), service_account=pod)
    await credentials.reload()
    assert credentials.headers == (("Authorization", "Bearer bob-token"),)
    return await who(credentials)


async def test_a_pod_with_ipv6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    write(tmp_path, {"token": "bob-token", "ca.crt": cluster.plane.ca.read_text()})
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00:10:96::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    credentials = Credentials((), service_account=tmp_path)
    await credentials.reload()
    assert credentials.route.server == "https://[fd00:10:96::1]:443"


async def test_a_process_does_not_change_over_to_another_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config": cluster.config()})
    use(monkeypatch, tmp_path / "config")
    credentials = Credentials.find(None)
    await credentials.reload()
    write(tmp_path, {"config": cluster.config({"token": "bob-token"})})
    await credentials.reload()
    assert credentials.headers == (("Authorization", "Bearer bob-token"),)
    write(tmp_path, {"config": cluster.config(None, server=f"https://127.0.0.1:{free_port()}")})
    with pytest.raises(ConfigurationError, match=r"now leads to https://127.* follows https://127.*: restart it"):
        await credentials.reload()
    assert credentials.route.server == cluster.plane.url


async def run(*command: str, stdin: int = asyncio.subprocess.DEVNULL, **environ: str) -> tuple[int | None, str]:
    """The exit code, and what was published on stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        stdin=stdin,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "EXEUNT_NATS_URL": "nats://127.0.0.1:9", **environ},
    )
    async with asyncio.timeout(60):
        _, message = await process.communicate()
    return process.returncode, message.decode()


async def test_services_and_people_are_reported_in_one_line_and_by_exit_code_2(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config": cluster.config({"as-groups": ["x"]}), "good": cluster.config()})
    use(monkeypatch, tmp_path / "config")
    for command, name in {"exeunt_watcher": "exeunt-watcher", "exeunt_cli plan": "exeunt"}.items():
        code, message = await run(*command.split())
        assert code == 2
        assert re.fullmatch(rf"{name}: user me in {tmp_path}/config: as-uid, .*\n", message), message
    use(monkeypatch, tmp_path / "good")
    config = cluster.config(None, **{"proxy-url": "socks5://user:secret@proxy.example:1080"})
    write(tmp_path, {"good": config})
    for command, name in {"exeunt_terminator": "exeunt-terminator", "exeunt_cli plan": "exeunt"}.items():
        code, message = await run(*command.split())
        assert code == 2
        assert re.fullmatch(rf"{name}: proxy-url of cluster local in .*/good: a socks5 proxy is not .*\n", message), (
            message
        )
        assert "secret" not in message


async def test_a_plugin_may_ask_somebody_at_the_terminal(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config": cluster.config(executed("./plugin", interactiveMode="Always"))})
    answer = json.dumps({"apiVersion": EXEC, "kind": "ExecCredential", "status": {"token": "TOKEN"}})
    script = '#!/bin/sh\necho "$KUBERNETES_EXEC_INFO" > "$(dirname "$0")/asked"\necho "Token?" >&2\nread token\n'
    write(tmp_path, {"plugin": f"{script}sed s/TOKEN/$token/ {tmp_path}/answer\n", "answer": answer})
    use(monkeypatch, tmp_path / "config")
    ours_end, theirs = os.openpty()
    os.write(ours_end, b"bob-token\n")
    code, message = await run("exeunt_cli", "plan", stdin=theirs)
    assert code == 1
    assert message.startswith("Token?\n")
    assert 'User "bob" cannot list resource' in message
    assert asked(tmp_path)[0]["spec"]["interactive"] is True
    os.close(ours_end)
    os.close(theirs)


async def test_a_kubeconfig_may_come_through_a_pipe(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    out, into = os.pipe()
    os.write(into, json.dumps(cluster.config()).encode())
    os.close(into)
    use(monkeypatch, f"/dev/fd/{out}")
    assert (await ours())["username"] == "alice"
    os.close(out)


async def test_who_is_not_known_is_reported_so(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config": cluster.config({"token": "stranger"})})
    use(monkeypatch, tmp_path / "config")
    with pytest.raises(Unauthorized, match=r"credentials are from .*config"):
        await ours()
