"""Where the kube-apiserver is and how to prove who we are: what a kubeconfig says, or the service account of the pod.

Credentials age: `refresh` is cheap and meant for every minute, `reload` starts over after a refusal; `connection`
decides when. Reading is blocking file access of a few kilobytes; an exec plugin is a child process, and `oidc` asks an
issuer.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import structlog

from exeunt.errors import UsageError
from exeunt.kube.errors import ConfigurationError
from exeunt.kube.route import Route
from exeunt.kube.token import bearer, read
from exeunt.net.proxies import proxy_for

if TYPE_CHECKING:
    from exeunt.kube.by_kubeconfig import ByKubeconfig

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

log = structlog.get_logger(__name__)


class Credentials:
    """One source of configuration, and what was read from it last.

    Without a `kubeconfig`, the service account in the folder `service_account` is used. `refresh` comes before anything
    else. A session is good for as long as `route` stays the same; `headers` go with every request. `strict` is as in
    `exeunt.net.tls`.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        kubeconfig: "ByKubeconfig | None" = None,
        service_account: Path = _SERVICE_ACCOUNT,
        strict: bool = False,
    ) -> None:
        self.source = os.pathsep.join(files) or f"the service account in {service_account}"
        self.route = Route()
        self.headers: tuple[tuple[str, str], ...] = ()
        self._files = files
        self._kubeconfig = kubeconfig
        self._service_account = service_account
        self._strict = strict

    @classmethod
    def find(cls, kubeconfig: str | None, *, context: str | None = None, strict: bool = False) -> "Credentials":
        """An explicit kubeconfig, else the files of $KUBECONFIG, else ~/.kube/config, else the pod's service account.

        As kubectl has it: the pod's service account is used when the files name no context, or are not there. Raises
        ConfigurationError when there is nothing to use.
        """
        if kubeconfig:
            return cls((kubeconfig,), kubeconfig=_by((kubeconfig,), context, strict=strict), strict=strict)
        named = [path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
        files = named or [os.path.expanduser("~/.kube/config")]  # noqa: PTH111 - a user without a home has none
        # In a pod, the home directory may be somebody else's.
        if named or os.access(files[0], os.R_OK):
            by_kubeconfig = _by(files, context, strict=strict)
            if by_kubeconfig.names_a_context():
                return cls(files, kubeconfig=by_kubeconfig, strict=strict)
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        token = _SERVICE_ACCOUNT / "token"
        if host and port and token.is_file():
            if named:
                log.warning("no kubeconfig names a context: the pod's service account is used", kubeconfig=named)
            return cls((), service_account=_SERVICE_ACCOUNT, strict=strict)
        pod = f"there is no token at {token}" if host else "KUBERNETES_SERVICE_HOST is not set as it is in a pod"
        raise ConfigurationError(
            f"no way to the kube-apiserver: {_nothing_in(files)}, and {pod}; set KUBECONFIG to a kubeconfig with a"
            " current-context"
        )

    async def reload(self) -> None:
        """Read everything anew and run an exec plugin again.

        Raises ConfigurationError and keeps what was read before.
        """
        before = self._kubeconfig
        self._kubeconfig = before.anew() if before else None
        try:
            await self.refresh()
        except ConfigurationError:
            self._kubeconfig = before
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
        if self._kubeconfig is None:
            return self._in_cluster()
        if (found := await self._kubeconfig.read()) is None:
            raise ConfigurationError(f"no way to the kube-apiserver: {_nothing_in(self._files)}")
        return found

    def open_session(self) -> aiohttp.ClientSession:
        """A session for the route; raises ConfigurationError when its certificates are no good."""
        return self.route.open_session(self.source, strict=self._strict)


def _by(files: Sequence[str], context: str | None, *, strict: bool) -> "ByKubeconfig":
    """Loads what reads them, which a pod does without."""
    from exeunt.kube.by_kubeconfig import ByKubeconfig  # noqa: PLC0415

    return ByKubeconfig(files, context, strict=strict)


def _nothing_in(files: Sequence[str]) -> str:
    there = [path for path in files if os.access(path, os.R_OK)]
    if there:
        return f"no current-context is set in {os.pathsep.join(there)}"
    return f"there is no kubeconfig to read at {os.pathsep.join(files)}"
