"""The way to the kube-apiserver and the proof of who we are, as kubeconfigs say them.

Loaded only where there is one: in a pod YAML and the rest would take 1 MiB for nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from yarl import URL

from exeunt.kube import exec_plugin
from exeunt.kube.exec_plugin import Issued
from exeunt.kube.kubeconfig import Chosen, Exec, choose
from exeunt.kube.route import Route
from exeunt.kube.token import bearer
from exeunt.kube.user import as_given_to_plugin, authorization, data_or_file, impersonation, proxy_of

_RENEWED_BEFORE: Final = timedelta(minutes=2)  # an exec plugin's credentials, which are looked at once a minute


class ByKubeconfig:
    """The files that may say it, and what they said; `context` is one of theirs, instead of the current one."""

    def __init__(self, files: Sequence[str], context: str | None, *, strict: bool) -> None:
        self._files = files
        self._context = context
        self._strict = strict
        self._chosen: Chosen | None = None
        self._issued: Issued | None = None

    def anew(self) -> "ByKubeconfig":
        """The same, nothing read and no plugin asked yet."""
        return ByKubeconfig(self._files, self._context, strict=self._strict)

    def names_a_context(self) -> bool:
        """Reads the files, once: one may be a pipe. Raises ConfigurationError."""
        self._chosen = self._chosen or choose(self._files, self._context)
        return self._chosen is not None

    async def read(self) -> tuple[Route, tuple[tuple[str, str], ...]] | None:
        """Route and headers, with the files of tokens and certificates as they are now; None where no context is named.

        Raises ConfigurationError.
        """
        return await self._as_chosen(self._chosen) if self.names_a_context() and self._chosen else None

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
