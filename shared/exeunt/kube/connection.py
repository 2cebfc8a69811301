"""One authenticated connection to the kube-apiserver: a call in, an open response or an error out.

Here credentials are kept fresh: token files are read again every minute, and a 401 or a failed TLS handshake
makes everything be read anew. `credentials` does the reading; `client` makes calls and retries them.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from errno import errorcode
from functools import cache
from importlib.metadata import version
from ssl import SSLError
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote

import aiohttp
import structlog
from multidict import CIMultiDict
from yarl import URL

from exeunt.kube.credentials import Credentials
from exeunt.kube.errors import ApiUnavailable, ConfigurationError, api_error
from exeunt.kube.resources import Resource
from exeunt.kube.route import Route
from exeunt.net.other_clock import OtherClock
from exeunt.net.tls import explain

JSON: Final = "application/json"
_USER_AGENT: Final = f"exeunt/{version('exeunt')}"
_METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "patch": "PATCH",
    "deletecollection": "DELETE",
}
_REFRESH_INTERVAL: Final = 60.0  # seconds; token files are replaced long before the old token expires
_READS: Final = frozenset({"get", "list", "watch"})
_FORBIDDEN_FOR: Final = 60.0  # seconds: what was forbidden comes again within 30

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """One request in Kubernetes' terms; `verb` is the one that RBAC knows."""

    verb: str
    resource: Resource[Any]
    namespace: str | None
    name: str | None = None
    subresource: str | None = None
    query: str = ""
    body: bytes | None = None
    content_type: str = JSON
    optional: bool = False
    """A refusal of it is no sign that we are not served."""
    of: str | None = None
    """The one object that a call on a collection is about, for people."""

    def __str__(self) -> str:
        target = "/".join(part for part in (self.namespace, self.name or self.of) if part) or "all namespaces"
        return f"{self.verb} {self._rbac_resource} {target}"

    @property
    def method(self) -> str:
        return _METHODS[self.verb]

    @property
    def template(self) -> str:
        """The path without the names in it."""
        return _template(self.resource, self.subresource, namespaced=bool(self.namespace), named=bool(self.name))

    @property
    def permission(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        return f"verb {self.verb} on {self._rbac_resource} of API group {self.resource.group} in {where}"

    @property
    def _rbac_resource(self) -> str:
        return "/".join(part for part in (self.resource.plural, self.subresource) if part)


@cache
def _template(resource: Resource[Any], subresource: str | None, *, namespaced: bool, named: bool) -> str:
    path = resource.path("{namespace}" if namespaced else None, "{name}" if named else None, subresource)
    return unquote(path)


class Connection:
    """The session in use; `unavailable_reason` is None, or why the latest call shows that we are not served. `clock` is
    the kube-apiserver's.
    """

    def __init__(self, credentials: Credentials) -> None:
        """The credentials must have been loaded."""
        self.unavailable_reason: str | None = None
        self.clock = OtherClock("the kube-apiserver", resolution=1.0)
        self._forbidden: tuple[str, float] | None = None
        """The verb of a write that was refused with 403, and when."""
        self._credentials = credentials
        self._access = _Access.of(credentials)
        self._renewing = asyncio.Lock()
        self._refresh_at = asyncio.get_running_loop().time() + _REFRESH_INTERVAL

    @property
    def server(self) -> str:
        """Its host, without scheme and port."""
        return self._access.server

    async def close(self) -> None:
        await self._access.session.close()

    async def open(self, call: Call, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send once, or twice if the first answer shows that our credentials are out of date.

        The response is a success, open, and the caller's to close. Raises ApiError and ApiUnavailable.
        """
        if asyncio.get_running_loop().time() >= self._refresh_at:
            await self._refresh()
        access = self._access
        try:
            response = await self._send(access, call, limits)
            if response.status == 401:
                response.close()
                await self._reload(access)
                response = await self._send(self._access, call, limits)
            if response.status < 300:
                self._served(call)
                return response
            async with response:
                refusal = api_error(
                    await response.read(),
                    action=str(call),
                    status=response.status,
                    retry_after=response.headers.get("Retry-After"),
                    hint=self._hint(call, response.status),
                )
        except aiohttp.ClientSSLError as error:
            await self._reload(access)  # the CA may have changed: the next attempt will tell
            raise self.unavailable(call, error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self.unavailable(call, error) from error
        if refusal.status not in {401, 403, 429} and refusal.status < 500:
            self._served(call)
        elif not call.optional:
            self.unavailable_reason = str(refusal)
            denied = refusal.status == 403 and call.verb not in _READS
            self._forbidden = (call.verb, asyncio.get_running_loop().time()) if denied else None
        raise refusal

    async def _send(self, access: "_Access", call: Call, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        sent = monotonic()
        response = await access.send(call, limits)
        if self.clock.listens():
            with suppress(ValueError):  # something on the way has no clock, or answers for the kube-apiserver
                reported = parsedate_to_datetime(response.headers.get("Date", ""))
                self.clock.tells(reported.replace(tzinfo=reported.tzinfo or UTC), round_trip=monotonic() - sent)
        return response

    def _served(self, call: Call) -> None:
        """No trouble any more; but that a write is forbidden, a read does not disprove."""
        if self._forbidden is not None:
            verb, since = self._forbidden
            if verb != call.verb and asyncio.get_running_loop().time() < since + _FORBIDDEN_FOR:
                return
        self.unavailable_reason, self._forbidden = None, None

    def unavailable(self, call: Call, error: Exception) -> ApiUnavailable:
        """The error for a call that got no answer, or only a part of it."""
        self.unavailable_reason = f"{call}: no answer from {self._access.where}: {_why(error)}"
        return ApiUnavailable(self.unavailable_reason)

    def _hint(self, call: Call, status: int) -> str:
        if status == 401:
            return f"; the credentials are from {self._credentials.source}, read again just now"
        if status == 403:
            return f"; needed is an RBAC rule for {call.permission}"
        return ""

    async def _refresh(self) -> None:
        """Once a minute, on the way of one call: the others go on with what we have."""
        self._refresh_at = asyncio.get_running_loop().time() + _REFRESH_INTERVAL
        async with self._renewing:
            await self._renew(self._credentials.refresh)

    async def _reload(self, refused: "_Access") -> None:
        """After a refusal, by the first call that met it: the others wait and use the outcome."""
        async with self._renewing:
            if self._access is refused:
                await self._renew(self._credentials.reload)

    async def _renew(self, read: Callable[[], Awaitable[None]]) -> None:
        before = self._access
        try:
            await read()
            self._access = _Access.of(self._credentials, before)
        except ConfigurationError as error:  # what we have may still do; if not, calls will say so
            log.warning("credentials not renewed", error=str(error))
        if self._access.session is not before.session:
            await before.session.close()  # calls on it end as on a broken connection


@dataclass(frozen=True, slots=True)
class _Access:
    """A session and what all calls on it have in common; replaced as a whole when credentials change."""

    session: aiohttp.ClientSession
    route: Route
    headers: CIMultiDict[str]
    options: dict[str, Any]

    @classmethod
    def of(cls, credentials: Credentials, before: "_Access | None" = None) -> "_Access":
        """With the session that there was before, unless what it was built from has changed."""
        route, proxy = credentials.route, credentials.route.proxy
        session = before.session if before is not None and before.route == route else credentials.open_session()
        headers = CIMultiDict({"Accept": JSON, "User-Agent": _USER_AGENT})
        headers.extend(credentials.headers)
        options: dict[str, Any] = {"server_hostname": route.server_name}
        if proxy is not None:
            options["proxy"] = proxy.url
            to_proxy = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
            if route.server.startswith("https:"):
                options["proxy_headers"] = to_proxy
            else:  # there is no CONNECT, so what the proxy is to know stands in the request itself
                headers.extend(to_proxy)
        return cls(session, route, headers, options)

    @property
    def server(self) -> str:
        return URL(self.route.server).host or ""

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.route.server} through the proxy {self.route.proxy}" if self.route.proxy else self.route.server

    async def send(self, call: Call, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        path = call.resource.path(call.namespace, call.name, call.subresource)
        headers = self.headers
        if call.body is not None:
            headers = headers.copy()
            headers["Content-Type"] = call.content_type
        return await self.session.request(
            call.method,
            URL(f"{self.route.server}{path}?{call.query}", encoded=True),
            data=call.body,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            **self.options,
        )


def _why(error: Exception) -> str:
    """What is wrong, for people. What aiohttp says of a proxy's refusal has in it what we have told the proxy."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status} {error.message}"
        case aiohttp.ClientConnectorCertificateError(certificate_error=OSError() as flaw):
            return explain(flaw, ca="certificate-authority")
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number)) as flaw) if not isinstance(
            flaw, SSLError
        ):
            return os.strerror(number) if number in errorcode else str(flaw.strerror)
        case _:
            return str(error) or type(error).__name__
