"""Where the kube-apiserver is and how to prove who we are: what a kubeconfig says, or the service account of the pod.

Credentials age: `refresh` is cheap and meant for every minute, `reload` starts over after a refusal; `connection`
decides when. Reading is blocking file access of a few kilobytes; an exec plugin is a child process.
"""

import os
import re
import ssl
import tempfile
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import structlog
from yarl import URL

from exeunt.errors import UsageError
from exeunt.kube import exec_plugin
from exeunt.kube.errors import ConfigurationError
from exeunt.kube.exec_plugin import Issued
from exeunt.kube.kubeconfig import CLUSTER_EXTENSION, Chosen, Cluster, Exec, Named, User, choose, decoded
from exeunt.proxies import Proxy, parse_proxy, proxy_for
from exeunt.tls import client_context

_KEEPALIVE: Final = 75.0  # seconds; the kube-apiserver closes idle connections after 90
_LONGEST_LINE: Final = 2**21  # bytes; an event of a watch is one line, etcd takes objects of up to 1.5 MiB
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_RENEWED_BEFORE: Final = timedelta(minutes=2)  # an exec plugin's credentials, which are looked at once a minute
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_HEADER_KEY: Final = "!#$&'*+-.^_`|~"  # beside letters and digits; Kubernetes reads the rest percent-encoded

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """All that a session is built from. The server is a URL without a slash at its end."""

    server: str = ""
    server_name: str | None = None
    """The name on the server's certificate, when it is not the host's."""
    verify: bool = True
    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    compressed: bool = True
    proxy: Proxy | None = None


class Credentials:
    """One source of configuration, and what was read from it last.

    `files` are kubeconfigs; without any, the service account in the folder `service_account` is used. Nothing is read
    before `reload`. A session is good for as long as `route` stays the same; `headers` go with every request.
    `strict`: certificates are verified as `exeunt.tls` says.
    """

    def __init__(self, files: Sequence[str], *, service_account: Path = _SERVICE_ACCOUNT, strict: bool = False) -> None:
        self.source = os.pathsep.join(files) or f"the service account in {service_account}"
        self.route = Route()
        self.headers: tuple[tuple[str, str], ...] = ()
        self._files = files
        self._service_account = service_account
        self._strict = strict
        self._chosen: Chosen | None = None
        self._issued: Issued | None = None

    @classmethod
    def find(cls, kubeconfig: str | None, *, strict: bool = False) -> "Credentials":
        """An explicit kubeconfig, else the files of $KUBECONFIG, else ~/.kube/config, else the pod's service account.

        As kubectl has it: the pod's service account is used when the files name no context, or are not there. Raises
        ConfigurationError when there is nothing to use.
        """
        if kubeconfig:
            return cls((kubeconfig,), strict=strict)
        named = [path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
        files = named or [os.path.expanduser("~/.kube/config")]  # noqa: PTH111 - a user without a home has none
        if choose(files) is not None:
            return cls(files, strict=strict)
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        token = _SERVICE_ACCOUNT / "token"
        if host and port and token.is_file():
            if named:
                log.warning("no kubeconfig names a context: the pod's service account is used", kubeconfig=named)
            return cls((), strict=strict)
        pod = f"there is no token at {token}" if host else "KUBERNETES_SERVICE_HOST is not set as it is in a pod"
        raise ConfigurationError(
            f"no way to the kube-apiserver: {_nothing_in(files)}, and {pod}; set KUBECONFIG to a kubeconfig with a"
            " current-context"
        )

    async def reload(self) -> None:
        """Read everything anew and run an exec plugin again.

        Raises ConfigurationError and keeps what was read before.
        """
        chosen, issued = self._chosen, self._issued
        self._chosen = self._issued = None
        try:
            await self.refresh()
        except ConfigurationError:
            self._chosen, self._issued = chosen, issued
            raise

    async def refresh(self) -> None:
        """Read files of tokens and certificates again and renew what is about to expire; errors as for `reload`."""
        route, headers = await self._read()
        try:
            route = replace(route, proxy=route.proxy or proxy_for(route.server, os.environ))
        except UsageError as error:
            raise ConfigurationError(str(error)) from None
        if self.route.server not in {"", route.server}:
            raise ConfigurationError(
                f"{self.source} now leads to {route.server}, and this process follows {self.route.server}: restart it"
            )
        self.route, self.headers = route, headers

    def open_session(self) -> aiohttp.ClientSession:
        """A session for the route; raises ConfigurationError when its certificates are no good.

        It looks up no proxy and no .netrc by itself, which would be a job for a thread with every request.
        """
        return aiohttp.ClientSession(
            # Each watch holds a connection, so a limit (aiohttp's is 100) would starve the requests of whoever watches
            # many namespaces. Watches, lists and messages in flight are bounded where they are made.
            connector=aiohttp.TCPConnector(ssl=self._tls(), keepalive_timeout=_KEEPALIVE, limit=0),
            read_bufsize=_LONGEST_LINE,
            skip_auto_headers=() if self.route.compressed else ("Accept-Encoding",),
        )

    def _tls(self) -> ssl.SSLContext:
        route = self.route
        found = _CERTIFICATE.findall(route.ca) if route.ca is not None else None
        if found == []:
            raise ConfigurationError(f"certificate-authority of {self.source} holds no PEM certificate")
        try:
            # Comments beside the certificates may be in any language.
            pem = b"\n".join(found).decode("ascii") if found else None
            context = client_context(pem=pem, strict=self._strict)
            if route.certificate:
                _load_key_pair(context, route.certificate, route.key or b"")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigurationError(f"cannot use the certificates of {self.source}: {error}") from None
        if not route.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _in_cluster(self) -> tuple[Route, tuple[tuple[str, str], ...]]:
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
        if not host or not port:
            raise ConfigurationError(f"cannot use {self.source}: KUBERNETES_SERVICE_HOST and _PORT are not set")
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        token = _bearer(_read(self._service_account / "token", self.source), self.source)
        return Route(server, ca=_read(self._service_account / "ca.crt", self.source)), (token,)

    async def _read(self) -> tuple[Route, tuple[tuple[str, str], ...]]:
        if not self._files:
            return self._in_cluster()
        self._chosen = self._chosen or choose(self._files)
        if self._chosen is None:
            raise ConfigurationError(f"no way to the kube-apiserver: {_nothing_in(self._files)}")
        return await self._as_chosen(self._chosen)

    async def _as_chosen(self, chosen: Chosen) -> tuple[Route, tuple[tuple[str, str], ...]]:
        cluster, user = chosen.cluster.value, chosen.user
        url = URL(str(cluster.server))
        route = Route(
            str(url.with_query(None).with_fragment(None)).rstrip("/"),
            compressed=not cluster.disable_compression,
            proxy=_proxy(chosen.cluster),
        )
        impersonation = _impersonation(user) if user else ()
        if url.scheme == "http":  # client-go, too, shows nobody its credentials without TLS
            return route, impersonation
        route = replace(
            route,
            server_name=cluster.tls_server_name or None,
            verify=not cluster.insecure_skip_tls_verify,
            ca=_data_or_file(chosen.cluster, "certificate-authority"),
        )
        if user is None:
            return route, ()
        certificate = _data_or_file(user, "client-certificate")
        route = replace(route, certificate=certificate, key=_data_or_file(user, "client-key") if certificate else None)
        authorization = _authorization(user)
        plugin = user.value.exec
        if plugin is not None and authorization is None and not route.certificate:
            issued = await self._asked(plugin, user.where, _told(cluster, route))
            route = replace(route, certificate=issued.certificate, key=issued.key)
            authorization = _bearer(issued.token.encode(), f"the exec plugin of {user.where}") if issued.token else None
        return route, (*([authorization] if authorization else []), *impersonation)

    async def _asked(self, plugin: Exec, where: str, cluster: dict[str, Any]) -> Issued:
        issued = self._issued
        if issued is None or (issued.expires and issued.expires - _RENEWED_BEFORE <= datetime.now(UTC)):
            issued = self._issued = await exec_plugin.ask(plugin, where, cluster)
        return issued


def _nothing_in(files: Sequence[str]) -> str:
    there = [path for path in files if Path(path).exists()]
    return (
        f"no current-context is set in {os.pathsep.join(there)}"
        if there
        else (f"there is no kubeconfig at {os.pathsep.join(files)}")
    )


def _read(path: str | Path, where: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot use {where}: {path}: {error.strerror}") from None


def _data_or_file(named: Named[Cluster] | Named[User], what: str) -> bytes | None:
    """The data when there is some, else what the file holds now. Raises ConfigurationError."""
    attribute = what.replace("-", "_")
    data = decoded(getattr(named.value, f"{attribute}_data"), f"{what}-data of {named.where}")
    file = getattr(named.value, attribute)
    return data or (_read(file, f"{what} of {named.where}") if file else None)


def _authorization(user: Named[User]) -> tuple[str, str] | None:
    """The last token that could be read of a file comes before one that is written down, and that before a password."""
    told, where = user.value, user.where
    if told.token_file:
        try:
            return _bearer(_read(told.token_file, f"tokenFile of {where}"), f"tokenFile {told.token_file} of {where}")
        except ConfigurationError:
            if not told.token:
                raise
    if told.token:
        return _bearer(told.token.encode(), f"token of {where}")
    if told.username or told.password:
        credentials = b64encode(f"{told.username or ''}:{told.password or ''}".encode())
        return ("Authorization", f"Basic {credentials.decode()}")
    return None


def _bearer(token: bytes, where: str) -> tuple[str, str]:
    text = token.decode(errors="replace").strip()  # files tend to end in a newline
    if not text:
        raise ConfigurationError(f"cannot use {where}: the token is empty")
    return ("Authorization", f"Bearer {_header(text, where)}")


def _impersonation(user: Named[User]) -> tuple[tuple[str, str], ...]:
    told, where = user.value, user.where
    if not told.as_:
        return ()
    headers = [("Impersonate-User", told.as_)]
    headers += [("Impersonate-Uid", told.as_uid)] if told.as_uid else []
    headers += [("Impersonate-Group", group) for group in told.as_groups or ()]
    extra = told.as_user_extra or {}
    headers += [(f"Impersonate-Extra-{quote(key, _HEADER_KEY)}", value) for key in extra for value in extra[key]]
    return tuple((name, _header(value, f"`as` of {where}")) for name, value in headers)


def _header(value: str, where: str) -> str:
    if not value.isprintable():
        raise ConfigurationError(f"{where} has a character in it that no HTTP header can have, such as a line break")
    return value


def _proxy(cluster: Named[Cluster]) -> Proxy | None:
    text, where = cluster.value.proxy_url, f"proxy-url of {cluster.where}"
    if not text:
        return None
    if "://" not in text:
        raise ConfigurationError(f"{where} has no scheme: write http://host:port")
    try:
        return parse_proxy(text, where)
    except UsageError as error:
        raise ConfigurationError(str(error)) from None


def _told(cluster: Cluster, route: Route) -> dict[str, Any]:
    """The cluster as an exec plugin is told of it."""
    told: Mapping[str, Any] = {
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "certificate-authority-data": b64encode(route.ca).decode() if route.ca else None,
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disable_compression,
    }
    config = next((each.extension for each in cluster.extensions or () if each.name == CLUSTER_EXTENSION), None)
    return {"server": cluster.server} | {key: value for key, value in told.items() if value} | {"config": config}


def _load_key_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL wants a file: one that only we can read, and only for as long as it takes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name, password=_no_passphrase)


def _no_passphrase() -> str:
    """Else OpenSSL would ask for one at the terminal, and wait."""
    raise ValueError("the key of the client certificate has a passphrase: write it without one (openssl pkey)")
