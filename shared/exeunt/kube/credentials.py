"""Where the kube-apiserver is and how to prove who we are: what a kubeconfig says, or the service account of the pod.

Credentials age: `refresh` is cheap and meant for every minute, `reload` starts over after a refusal; `connection`
decides when. Reading is blocking file access of a few kilobytes; an exec plugin is a child process, and `oidc` asks an
issuer.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog
from yarl import URL

from exeunt.errors import UsageError
from exeunt.kube import exec_plugin
from exeunt.kube.errors import ConfigurationError
from exeunt.kube.exec_plugin import Issued
from exeunt.kube.kubeconfig import Chosen, Exec, choose
from exeunt.kube.route import Route
from exeunt.kube.user import as_given_to_plugin, authorization, bearer, data_or_file, impersonation, proxy_of, read
from exeunt.net.proxies import proxy_for

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_RENEWED_BEFORE: Final = timedelta(minutes=2)  # an exec plugin's credentials, which are looked at once a minute

log = structlog.get_logger(__name__)


class Credentials:
    """One source of configuration, and what was read from it last.

    `files` are kubeconfigs, and `chosen` is what they say when that was read already (one may be a pipe); without any,
    the service account in the folder `service_account` is used. `context` is one of theirs, instead of the current one.
    `refresh` comes before anything else. A session is good for as long as `route` stays the same; `headers` go with
    every request. `strict` is as in `exeunt.net.tls`.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        chosen: Chosen | None = None,
        context: str | None = None,
        service_account: Path = _SERVICE_ACCOUNT,
        strict: bool = False,
    ) -> None:
        self.source = os.pathsep.join(files) or f"the service account in {service_account}"
        self.route = Route()
        self.headers: tuple[tuple[str, str], ...] = ()
        self._files = files
        self._service_account = service_account
        self._strict = strict
        self._chosen = chosen
        self._context = context
        self._issued: Issued | None = None

    @classmethod
    def find(cls, kubeconfig: str | None, *, context: str | None = None, strict: bool = False) -> "Credentials":
        """An explicit kubeconfig, else the files of $KUBECONFIG, else ~/.kube/config, else the pod's service account.

        As kubectl has it: the pod's service account is used when the files name no context, or are not there. Raises
        ConfigurationError when there is nothing to use.
        """
        if kubeconfig:
            return cls((kubeconfig,), context=context, strict=strict)
        named = [path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
        files = named or [os.path.expanduser("~/.kube/config")]  # noqa: PTH111 - a user without a home has none
        # In a pod, the home directory may be somebody else's.
        chosen = choose(files, context) if named or os.access(files[0], os.R_OK) else None
        if chosen is not None:
            return cls(files, chosen=chosen, context=context, strict=strict)
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

    def _in_cluster(self) -> tuple[Route, tuple[tuple[str, str], ...]]:
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
        if not host or not port:
            raise ConfigurationError(f"cannot use {self.source}: KUBERNETES_SERVICE_HOST and _PORT are not set")
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        token = bearer(read(self._service_account / "token", self.source), self.source)
        return Route(server, ca=read(self._service_account / "ca.crt", self.source)), (token,)

    async def _read(self) -> tuple[Route, tuple[tuple[str, str], ...]]:
        if not self._files:
            return self._in_cluster()
        self._chosen = self._chosen or choose(self._files, self._context)
        if self._chosen is None:
            raise ConfigurationError(f"no way to the kube-apiserver: {_nothing_in(self._files)}")
        return await self._as_chosen(self._chosen)

    def open_session(self) -> aiohttp.ClientSession:
        """A session for the route; raises ConfigurationError when its certificates are no good."""
        return self.route.open_session(self.source, strict=self._strict)

    async def _as_chosen(self, chosen: Chosen) -> tuple[Route, tuple[tuple[str, str], ...]]:
        cluster, user = chosen.cluster.value, chosen.user
        url = URL(str(cluster.server))
        route = Route(
            str(url.with_query(None).with_fragment(None)).rstrip("/"),
            compressed=not cluster.disable_compression,
            proxy=proxy_of(chosen.cluster),
        )
        acting_as = impersonation(user) if user else ()
        if url.scheme == "http":  # client-go, too, shows nobody its credentials without TLS
            return route, acting_as
        route = replace(
            route,
            server_name=cluster.tls_server_name or None,
            verify=not cluster.insecure_skip_tls_verify,
            ca=data_or_file(chosen.cluster, "certificate-authority"),
        )
        if user is None:
            return route, ()
        certificate = data_or_file(user, "client-certificate")
        route = replace(route, certificate=certificate, key=data_or_file(user, "client-key") if certificate else None)
        known_by = authorization(user)
        if known_by is None and user.value.auth_provider is not None:
            # kubernetes_asyncio, by which it is renewed, costs 35 MiB: not for those who have no such user.
            from exeunt.kube import oidc  # noqa: PLC0415

            token = await oidc.id_token(user, strict=self._strict)
            known_by = bearer(token.encode(), f"the id-token of {user.where}")
        plugin = user.value.exec
        if plugin is not None and known_by is None and not route.certificate:
            issued = await self._asked(plugin, user.where, as_given_to_plugin(cluster, route))
            route = replace(route, certificate=issued.certificate, key=issued.key)
            known_by = bearer(issued.token.encode(), f"the exec plugin of {user.where}") if issued.token else None
        return route, ((known_by, *acting_as) if known_by else acting_as)

    async def _asked(self, plugin: Exec, where: str, cluster: dict[str, Any]) -> Issued:
        issued = self._issued
        if issued is None or (issued.expires and issued.expires - _RENEWED_BEFORE <= datetime.now(UTC)):
            issued = self._issued = await exec_plugin.ask(plugin, where, cluster)
        return issued


def _nothing_in(files: Sequence[str]) -> str:
    there = [path for path in files if os.access(path, os.R_OK)]
    if there:
        return f"no current-context is set in {os.pathsep.join(there)}"
    return f"there is no kubeconfig to read at {os.pathsep.join(files)}"
