"""Plays an issuer of OpenID Connect: it is discovered, its keys are public, and it renews tokens.

kube-apiserver verifies what it signs. It is reached as localhost, and as issuer.example through a proxy.
"""

import secrets
import ssl
import time
from base64 import b64decode
from typing import Any, Final, Self
from urllib.parse import unquote_plus

import jwt
import trustme
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

_KEY_ID: Final = "the-key"


class OidcIssuer:
    """Entered as an async context manager; `authority` has signed its certificate."""

    def __init__(self, *, client_id: str, secret: str) -> None:
        self.port = 0
        self.authority = trustme.CA()
        self.asked: list[str] = []
        """How each request for a token was authenticated: basic, body or not at all."""
        self.takes = "basic"
        self.rotates = True
        """A refresh token is good for one time, and there is a new one in the answer."""
        self.gives_id_token = True
        self.lifetime = 3600.0
        """Of new tokens, in seconds."""
        self._client = (client_id, secret)
        self._audience = client_id
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._refreshing: dict[str, str] = {}
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost", "issuer.example").configure_cert(tls)
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discover)
        app.router.add_get("/keys", self._keys)
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "localhost", 0, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def id_token(self, name: str, seconds: float) -> str:
        """Good for so many seconds from now."""
        now = time.time()
        claims = {"iss": self.url, "aud": self._audience, "sub": name, "iat": int(now), "exp": int(now + seconds)}
        # Such as have bytes that base64 and base64url write differently.
        claims["more"] = "ÿ?>~" * 8
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": _KEY_ID})

    def refresh_token(self, name: str) -> str:
        token = secrets.token_urlsafe()
        self._refreshing[token] = name
        return token

    def knows(self, refresh_token: str) -> bool:
        """Whether it would still take that one."""
        return refresh_token in self._refreshing

    async def _discover(self, request: web.Request) -> web.Response:
        here = f"https://{request.host}"
        found: dict[str, Any] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", "token_endpoint": f"{here}/token"}
        return web.json_response(found)

    async def _keys(self, _: web.Request) -> web.Response:
        key = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return web.json_response({"keys": [{**key, "kid": _KEY_ID, "use": "sig", "alg": "RS256"}]})

    async def _token(self, request: web.Request) -> web.Response:
        message = await request.post()
        way, known_by = "body", (str(message.get("client_id", "")), str(message.get("client_secret", "")))
        if (header := request.headers.get("Authorization", "")).startswith("Basic "):
            client_id, _, secret = b64decode(header.removeprefix("Basic ")).decode().partition(":")
            way, known_by = "basic", (unquote_plus(client_id), unquote_plus(secret))
        self.asked.append(way)
        client_id, secret = self._client
        public = self.takes == "public" and way == "body" and known_by == (client_id, "")
        if not public and (way != self.takes or known_by != (client_id, secret)):
            return web.json_response({"error": "invalid_client"}, status=401)
        used = str(message.get("refresh_token"))
        name = self._refreshing.get(used)
        if message.get("grant_type") != "refresh_token" or name is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        answer = {"access_token": secrets.token_urlsafe(), "token_type": "Bearer", "expires_in": int(self.lifetime)}
        if self.gives_id_token:
            answer["id_token"] = self.id_token(name, self.lifetime)
        if self.rotates:
            del self._refreshing[used]
            answer["refresh_token"] = self.refresh_token(name)
        return web.json_response(answer)
