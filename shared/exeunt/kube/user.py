"""What the user and the cluster of a kubeconfig come to: headers, the contents of files, a proxy.

All of it is read when it is asked for, since files are replaced.
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from exeunt.errors import UsageError
from exeunt.kube.errors import ConfigurationError
from exeunt.kube.kubeconfig import CLUSTER_EXTENSION, Cluster, Named, User, decoded
from exeunt.kube.route import Route
from exeunt.kube.token import as_header, bearer, read
from exeunt.net.proxies import Proxy, parse_proxy

_HEADER_KEY: Final = "!#$&'*+-.^_`|~"  # beside letters and digits; Kubernetes reads the rest percent-encoded


def authorization(user: Named[User]) -> tuple[str, str] | None:
    """The header. A token that can be read of a file comes before one that is written down, and that before a password.

    Raises ConfigurationError.
    """
    configured, where = user.value, user.where
    if configured.token_file:
        try:
            return bearer(
                read(configured.token_file, f"tokenFile of {where}"), f"tokenFile {configured.token_file} of {where}"
            )
        except ConfigurationError:
            if not configured.token:
                raise
    if configured.token:
        return bearer(configured.token.encode(), f"token of {where}")
    if configured.username or configured.password:
        credentials = b64encode(f"{configured.username or ''}:{configured.password or ''}".encode())
        return ("Authorization", f"Basic {credentials.decode()}")
    return None


def impersonation(user: Named[User]) -> tuple[tuple[str, str], ...]:
    """The headers that make the server take us for `as`. Raises ConfigurationError."""
    configured, where = user.value, user.where
    if not configured.as_:
        return ()
    headers = [("Impersonate-User", configured.as_)]
    headers += [("Impersonate-Uid", configured.as_uid)] if configured.as_uid else []
    headers += [("Impersonate-Group", group) for group in configured.as_groups or ()]
    extra = configured.as_user_extra or {}
    headers += [(f"Impersonate-Extra-{quote(key, _HEADER_KEY)}", value) for key in extra for value in extra[key]]
    return tuple((name, as_header(value, f"`as` of {where}")) for name, value in headers)


def data_or_file(named: Named[Cluster] | Named[User], what: str) -> bytes | None:
    """The data when there is some, else what the file holds now. Raises ConfigurationError."""
    attribute = what.replace("-", "_")
    data = decoded(getattr(named.value, f"{attribute}_data"), f"{what}-data of {named.where}")
    file = getattr(named.value, attribute)
    return data or (read(file, f"{what} of {named.where}") if file else None)


def proxy_of(cluster: Named[Cluster]) -> Proxy | None:
    """Its own, which comes before the environment's. Raises ConfigurationError."""
    text, where = cluster.value.proxy_url, f"proxy-url of {cluster.where}"
    if not text:
        return None
    if "://" not in text:
        raise ConfigurationError(f"{where} has no scheme: write http://host:port")
    try:
        return parse_proxy(text, where)
    except UsageError as error:
        raise ConfigurationError(str(error)) from None


def as_given_to_plugin(cluster: Cluster, route: Route) -> dict[str, Any]:
    """The cluster as an exec plugin is told of it."""
    configured: Mapping[str, Any] = {
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "certificate-authority-data": b64encode(route.ca).decode() if route.ca else None,
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disable_compression,
    }
    config = next((each.extension for each in cluster.extensions or () if each.name == CLUSTER_EXTENSION), None)
    return {"server": cluster.server} | {key: value for key, value in configured.items() if value} | {"config": config}
