"""Kubeconfig files as client-go reads them: which of several says what, whose paths are whose, what is refused.

Not as kubernetes_asyncio reads them: its last current-context wins, so that another cluster is asked than kubectl asks;
an empty file is a TypeError; `as` is ignored; exec comes before a token; `provideClusterInfo`, the folder of a relative
`command` and what a user may not combine are unknown to it; and keys are left in temporary files. The rules here are
those of client-go's packages tools/clientcmd and rest (v0.35), which a test compares with kubectl's.
"""

import os.path
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec
import yaml  # type: ignore[import-untyped]
from msgspec import Struct, field
from yarl import URL

from exeunt.kube.errors import ConfigurationError

CLUSTER_EXTENSION: Final = "client.authentication.k8s.io/exec"
"""The extension of a cluster that is for exec plugins."""

T = TypeVar("T")


class Extension(Struct):
    name: str | None = None
    extension: Any = None


class Cluster(Struct, rename="kebab"):
    server: str | None = None
    tls_server_name: str | None = None
    insecure_skip_tls_verify: bool | None = None
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    proxy_url: str | None = None
    disable_compression: bool | None = None
    extensions: list[Extension] | None = None


class Variable(Struct):
    name: str | None = None
    value: str | None = None


class Exec(Struct, rename="camel"):
    command: str | None = None
    args: list[str] | None = None
    env: list[Variable] | None = None
    api_version: str | None = None
    install_hint: str | None = None
    provide_cluster_info: bool | None = None
    interactive_mode: str | None = None


class AuthProvider(Struct):
    name: str | None = None
    config: dict[str, str | None] | None = None


class User(Struct, rename="kebab"):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = field(default=None, name="tokenFile")
    username: str | None = None
    password: str | None = None
    as_: str | None = field(default=None, name="as")
    as_uid: str | None = None
    as_groups: list[str] | None = None
    as_user_extra: dict[str, list[str]] | None = None
    auth_provider: AuthProvider | None = None
    exec: Exec | None = None


class Context(Struct):
    cluster: str | None = None
    user: str | None = None


class Named(Struct, Generic[T]):
    """An entry of one of the three lists, and the file in which it stands."""

    value: T
    kind: str
    name: str
    path: str

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.kind} {self.name} in {self.path}"


class Chosen(Struct):
    """What the current context names. `user` is None when it names nobody."""

    cluster: Named[Cluster]
    user: Named[User] | None


class _NamedCluster(Struct):
    name: str | None = None
    cluster: Cluster | None = None


class _NamedUser(Struct):
    name: str | None = None
    user: User | None = None


class _NamedContext(Struct):
    name: str | None = None
    context: Context | None = None


class _File(Struct, rename="kebab"):
    kind: str | None = None
    api_version: str | None = field(default=None, name="apiVersion")
    current_context: str | None = None
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


def choose(files: Sequence[str], context: str | None = None) -> Chosen | None:
    """The cluster and the user of the `context`, else of the current one; None when the files name none.

    The first file that sets a current-context sets it, and the first that has an entry of a name has it; files that are
    missing or empty are skipped. Raises ConfigurationError for a file that cannot be read, and for what it says.
    """
    read = [(path, content) for path in dict.fromkeys(files) if path and (content := _read(path)) is not None]
    name = context or next((content.current_context for _, content in read if content.current_context), None)
    if name is None:
        return None
    contexts, clusters, users = dict[str, Named[Context]](), dict[str, Named[Cluster]](), dict[str, Named[User]]()
    for path, content in reversed(read):
        contexts |= _entries(
            path, "context", ((each.name, each.context or Context()) for each in content.contexts or ())
        )
        clusters |= _entries(
            path, "cluster", ((each.name, each.cluster or Cluster()) for each in content.clusters or ())
        )
        users |= _entries(path, "user", ((each.name, each.user or User()) for each in content.users or ()))
    found = _named(contexts, name, "the context" if context else "the current-context", files)
    cluster = _named(clusters, found.value.cluster or "", f"the cluster of {found.where}", files)
    _check_cluster(cluster)
    if not found.value.user:
        return Chosen(cluster, None)
    user = _named(users, found.value.user, f"the user of {found.where}", files)
    _check_user(user)
    return Chosen(cluster, user)


def decoded(data: str | None, what: str) -> bytes | None:
    """A `-data` field; `what` it is of is for the error. Raises ConfigurationError."""
    if not data:
        return None
    try:
        return b64decode("".join(data.split()), validate=True)
    except ValueError:
        raise ConfigurationError(
            f"{what} is not base64: write it anew with kubectl config set ... --embed-certs"
        ) from None


def parsed(raw: bytes) -> Any:
    """YAML or JSON, of several documents the first. Raises ValueError, which shows nothing of it: it may be secret."""
    if raw.lstrip()[:1] == b"{":  # YAML in Python has no tabs, as JSON and Go's YAML do
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(raw)
    try:
        return next(iter(yaml.load_all(raw, _Yaml)), None)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ValueError("it is not text, or nested without end") from None


class _Yaml(yaml.SafeLoader):  # type: ignore[misc]
    """Without dates: Go takes them for strings."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _read(path: str) -> _File | None:
    try:
        raw = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read the kubeconfig {path}: {error.strerror}") from None
    try:
        found = msgspec.convert(parsed(raw), _File | None)
    except ValueError as error:
        raise ConfigurationError(f"{path} is not a kubeconfig: {error}") from None
    if found is not None and ((found.kind or "Config") != "Config" or (found.api_version or "v1") != "v1"):
        raise ConfigurationError(
            f"{path} is not a kubeconfig: it is of kind {found.kind} and apiVersion {found.api_version},"
            " not of kind Config and apiVersion v1"
        )
    if found is not None:
        _take_paths_as_beside(path, found)
    return found


def _take_paths_as_beside(path: str, found: _File) -> None:
    """Relative paths belong to the file in which they stand; a command without a slash is looked for in $PATH."""
    folder = os.path.abspath(os.path.dirname(path))  # noqa: PTH100, PTH120 - like Go, without following links

    def beside(value: str | None) -> str | None:
        return os.path.normpath(os.path.join(folder, value)) if value else None  # noqa: PTH118

    for cluster in (each.cluster for each in found.clusters or () if each.cluster):
        cluster.certificate_authority = beside(cluster.certificate_authority)
    for user in (each.user for each in found.users or () if each.user):
        user.client_certificate = beside(user.client_certificate)
        user.client_key = beside(user.client_key)
        user.token_file = beside(user.token_file)
        if user.exec and "/" in (user.exec.command or ""):
            user.exec.command = beside(user.exec.command)


def _entries(path: str, kind: str, found: Iterable[tuple[str | None, T]]) -> dict[str, Named[T]]:
    entries = dict[str, Named[T]]()
    for name, value in found:
        if (name or "") in entries:
            raise ConfigurationError(f"{path} has two entries for the {kind} {name}: remove one")
        entries[name or ""] = Named(value, kind, name or "", path)
    return entries


def _named(entries: dict[str, Named[T]], name: str, what: str, files: Sequence[str]) -> Named[T]:
    if name not in entries:
        raise ConfigurationError(f"{what} is {name or 'not set'}, which is not in {os.pathsep.join(files)}")
    return entries[name]


def _check_cluster(cluster: Named[Cluster]) -> None:
    configured, where = cluster.value, cluster.where
    try:
        server = URL(configured.server or "")
        usable = server.scheme in {"https", "http"} and bool(server.host) and bool(server.port) and server.user is None
    except ValueError:
        usable = False
    if not usable:  # client-go takes host:port for HTTP, and sends no credentials
        raise ConfigurationError(f"{where}: server is not set, or no URL without a user in it: write https://host:port")
    if configured.insecure_skip_tls_verify and (
        configured.certificate_authority or configured.certificate_authority_data
    ):
        raise ConfigurationError(
            f"{where}: insecure-skip-tls-verify and a certificate-authority exclude each other: remove one"
        )


def _check_user(user: Named[User]) -> None:
    for problem in _problems(user.value):
        raise ConfigurationError(f"{user.where}: {problem}")


def _problems(user: User) -> Iterator[str]:
    plugin = user.exec
    if (user.token or user.token_file) and (user.username or user.password):
        yield "a token and a username exclude each other: remove one"
    if (user.client_certificate or user.client_certificate_data) and not (user.client_key or user.client_key_data):
        yield "client-certificate needs client-key or client-key-data"
    if (user.as_uid or user.as_groups or user.as_user_extra) and not user.as_:
        yield "as-uid, as-groups and as-user-extra say more of who is impersonated: set `as`, or remove them"
    if plugin and user.auth_provider:
        yield "exec and auth-provider exclude each other: remove one"
    if plugin and not plugin.command:
        yield "exec has no command"
    if plugin and any(not variable.name for variable in plugin.env or ()):
        yield "a variable in exec.env has no name"
    if user.auth_provider and not (user.token or user.token_file or user.username or user.password):
        yield from _problems_of(user.auth_provider)


def _problems_of(provider: AuthProvider) -> Iterator[str]:
    if provider.name != "oidc":
        yield (
            f"auth-provider {provider.name} is not supported: take an exec plugin that does the same"
            " (gke-gcloud-auth-plugin, kubelogin for Azure)"
        )
        return
    config = provider.config or {}
    for setting in ("idp-issuer-url", "client-id"):
        if not config.get(setting):
            yield f"auth-provider oidc needs {setting} in its config"
    if not (config.get("idp-issuer-url") or "").startswith("https://"):  # others than the kube-apiserver will take
        yield "idp-issuer-url of auth-provider oidc must begin with https://"
