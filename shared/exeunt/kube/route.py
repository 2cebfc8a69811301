"""The way to the kube-apiserver (its address, certificates, a proxy), and the session that is built from it."""

import re
import ssl
import tempfile
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from exeunt.kube.errors import ConfigurationError
from exeunt.net.keepalive import kept_alive
from exeunt.net.proxies import Proxy
from exeunt.net.tls import client_context

_KEEPALIVE: Final = 75.0  # seconds; the kube-apiserver closes idle connections after 90
_LONGEST_LINE: Final = 2**21  # bytes; an event of a watch is one line, etcd takes objects of up to 1.5 MiB
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


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

    def open_session(self, source: str, *, strict: bool) -> aiohttp.ClientSession:
        """Raises ConfigurationError when the certificates, `source`'s, are no good; `strict` is as in `exeunt.net.tls`.

        The session looks up no proxy and no .netrc by itself, which would be a job for a thread with every request.
        """
        return aiohttp.ClientSession(
            # Each watch holds a connection, so a limit (aiohttp's is 100) would starve the requests of whoever watches
            # many namespaces. Watches, lists and messages in flight are bounded where they are made.
            connector=aiohttp.TCPConnector(
                ssl=self.tls(source, strict=strict), keepalive_timeout=_KEEPALIVE, limit=0, socket_factory=kept_alive
            ),
            read_bufsize=_LONGEST_LINE,
            skip_auto_headers=() if self.compressed else ("Accept-Encoding",),
        )

    def tls(self, source: str, *, strict: bool) -> ssl.SSLContext:
        """Raises as `open_session` does."""
        found = _CERTIFICATE.findall(self.ca) if self.ca is not None else None
        if found == []:
            raise ConfigurationError(f"certificate-authority of {source} holds no PEM certificate")
        try:
            # Comments beside the certificates may be in any language.
            pem = b"\n".join(found).decode("ascii") if found else None
            context = client_context(pem=pem, strict=strict)
            if self.certificate:
                _load_key_pair(context, self.certificate, self.key or b"")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigurationError(f"cannot use the certificates of {source}: {error}") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _load_key_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL wants a file: one that only we can read, and only for as long as it takes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name, password=_no_passphrase)


def _no_passphrase() -> str:
    """Else OpenSSL would ask for one at the terminal, and wait."""
    raise ValueError("the key of the client certificate has a passphrase: write it without one (openssl pkey)")
