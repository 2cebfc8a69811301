"""The token of a user with `auth-provider: oidc`, renewed at its issuer and written back, as client-go does it.

kubernetes_asyncio (36.1) asks the issuer: OpenIDRequestor knows the two requests. We go round

- its KubeConfigLoader, whose every renewal ends in an error: a KeyError without a refresh token in the answer (issuers
  may leave it out), a ConfigException without `client-secret` (public clients have none), else a TypeError when it
  writes back. It also reads claims as base64, not base64url, and takes a token without `exp` for one that lasts;
- its TLS: no certificate is verified, but with idp-certificate-authority-data there is a TypeError, since aiohttp wants
  an SSLContext and gets the name of a file; idp-certificate-authority is not known to it;
- its one way to be known, HTTP Basic without the escapes of OAuth (RFC 6749, 2.3.1), in a form that aiohttp gives up;
  Go tries the body, too;
- its proxies, which are as Python reads them (`exeunt.net.proxies`), and its five minutes of patience.

It is loaded only for a kubeconfig that has such a user, never in a pod: it costs 35 MiB.
"""

import asyncio
import os
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_plus

import aiohttp
import jwt
import msgspec
import structlog
from kubernetes_asyncio.config import ConfigException
from kubernetes_asyncio.config.openid import OpenIDRequestor

from exeunt.errors import UsageError
from exeunt.kube.errors import ConfigurationError
from exeunt.kube.kubeconfig import AuthProvider, Named, User, decoded
from exeunt.kube.route import Route
from exeunt.kube.token import read
from exeunt.kube.write_back import read_again, write_back
from exeunt.net.proxies import proxy_for
from exeunt.net.tls import explain

_RENEWED_BEFORE: Final = 120.0  # seconds before it expires; it is looked at once a minute
_SPENT: Final = 10.0  # seconds before it expires: client-go's margin for clocks that differ
_DEADLINE: Final = 30.0  # seconds for both requests

_Config = dict[str, str | None]


class _Answer(msgspec.Struct):
    id_token: str | None = None
    refresh_token: str | None = None


log = structlog.get_logger(__name__)


async def id_token(user: Named[User], *, strict: bool) -> str:
    """The one that the kubeconfig has, or a new one when that is about to expire; then `user` is brought up to date.

    Raises ConfigurationError when there is none that is valid, and none to be had.
    """
    token = _config(user).get("id-token") or ""
    left = _left(token, user.where)
    if left > _RENEWED_BEFORE:
        return token
    try:
        return await _renewed(user, strict=strict)
    except ConfigurationError as error:
        if left <= _SPENT:
            raise
        log.warning("an id-token that expires soon is not renewed", expires_in_s=round(left), error=str(error))
        return token


async def _renewed(user: Named[User], *, strict: bool) -> str:
    config = read_again(user) or _config(user)
    token = config.get("id-token") or ""
    if _left(token, user.where) > _RENEWED_BEFORE:  # kubectl, or another of us, was here meanwhile
        user.value.auth_provider = AuthProvider("oidc", config)
        return token
    if not config.get("refresh-token"):
        raise ConfigurationError(f"{user.where}: its id-token has expired and it has no refresh-token: log in again")
    answer = await _ask(config, user.where, strict=strict)
    if not answer.id_token:
        raise ConfigurationError(f"{user.where}: its issuer gives no id_token when it renews: log in with scope openid")
    _left(answer.id_token, user.where)
    renewed = {"id-token": answer.id_token} | ({"refresh-token": answer.refresh_token} if answer.refresh_token else {})
    user.value.auth_provider = AuthProvider("oidc", {**config, **renewed})
    await write_back(user, renewed)
    return answer.id_token


def _config(user: Named[User]) -> _Config:
    provider = user.value.auth_provider
    return (provider.config if provider else None) or {}


def _left(token: str, where: str) -> float:
    """The seconds until it expires. Who has signed it is for the kube-apiserver to say. Raises ConfigurationError."""
    if not token:
        return 0.0
    try:
        return float(jwt.decode(token, options={"verify_signature": False}).get("exp", 0)) - time.time()
    except (jwt.InvalidTokenError, TypeError, ValueError):
        raise ConfigurationError(f"{where}: its id-token is no JSON Web Token: log in again") from None


async def _ask(config: _Config, where: str, *, strict: bool) -> _Answer:
    """What the issuer says to the refresh token. Raises ConfigurationError."""
    issuer, refresh_token = str(config["idp-issuer-url"]), str(config["refresh-token"])
    ca = decoded(config.get("idp-certificate-authority-data"), f"idp-certificate-authority-data of {where}")
    if ca is None and (file := config.get("idp-certificate-authority")):
        ca = read(file, f"idp-certificate-authority of {where}")  # from the working directory, as client-go has it
    tls = Route(ca=ca).tls(f"the issuer of {where}", strict=strict)
    refused: Exception | None = None
    try:
        async with asyncio.timeout(_DEADLINE):
            for in_body in (False, True) if config.get("client-secret") else (True,):
                try:
                    answer = await _Requestor(config, tls, in_body=in_body).refresh_token(refresh_token)
                    return msgspec.convert(answer, _Answer)
                except ConfigException as error:
                    refused = refused or error
    except TimeoutError:
        why = f"no answer within {_DEADLINE:g} s"
    except aiohttp.ClientConnectorCertificateError as error:
        flaw = error.certificate_error
        why = explain(flaw, ca="idp-certificate-authority") if isinstance(flaw, OSError) else str(flaw)
    except (aiohttp.ClientError, OSError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    else:
        cause = refused.__cause__ if refused else None
        why = f"{refused} ({cause.status} {cause.message})" if isinstance(cause, aiohttp.ClientResponseError) else ""
        why += ": log in again" if "refresh" in why else ""
    raise ConfigurationError(f"{where}: its id-token cannot be renewed at {issuer}: {why}")


class _Requestor(OpenIDRequestor):
    """Known by Basic authorization, or by its id and secret in the body; each to the token endpoint alone."""

    def __init__(self, config: _Config, tls: ssl.SSLContext, *, in_body: bool) -> None:
        client_id, secret = str(config["client-id"]), config.get("client-secret") or ""
        super().__init__(client_id, secret, str(config["idp-issuer-url"]))
        self._tls = tls
        basic = b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()
        self._headers = {} if in_body else {"Authorization": f"Basic {basic}"}
        self._fields = {"client_id": client_id} | ({"client_secret": secret} if secret else {}) if in_body else {}

    def _client_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self._default_headers, connector=aiohttp.TCPConnector(ssl=self._tls), raise_for_status=True
        )

    async def _get(self, client: aiohttp.ClientSession, url: str, **options: Any) -> Any:
        return await super()._get(client, url, **_through(url), **options)

    async def _post(self, client: aiohttp.ClientSession, url: str, *, data: Mapping[str, str], **options: Any) -> Any:
        data = {**data, **self._fields}
        return await super()._post(client, url, data=data, headers=self._headers, **_through(url), **options)


def _through(url: str) -> dict[str, Any]:
    """The proxy, if any. Raises ValueError for what is not encrypted, and ConfigurationError for what is no proxy."""
    if not url.startswith("https://"):
        raise ValueError(f"it names {url}, which must begin with https://")
    try:
        proxy = proxy_for(url, os.environ)
    except UsageError as error:
        raise ConfigurationError(str(error)) from None
    if proxy is None:
        return {}
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    return {"proxy": proxy.url, "proxy_headers": headers}
