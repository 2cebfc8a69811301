"""The files by which NATS knows us: TLS certificates, an nkey seed or user credentials. All may rotate while we run."""

import ssl
from pathlib import Path

import structlog

from exeunt.errors import UsageError

log = structlog.get_logger(__name__)


class Tls:
    """A TLS context whose certificates can be read again: a mounted secret rotates while we run."""

    def __init__(self, ca: str | None, cert: str | None, key: str | None) -> None:
        if cert and not key:
            raise UsageError("a TLS client certificate needs its key: set both or neither")
        self._ca, self._cert, self._key = ca, cert, key
        self.context = ssl.create_default_context()
        try:
            self._load()
        except OSError as error:  # ssl.SSLError too
            raise UsageError(f"cannot use the TLS files for NATS ({ca}, {cert}, {key}): {error}") from error

    def reload(self) -> None:
        try:
            self._load()
        except OSError as error:  # half-written: the old certificates may still do
            log.warning("nats.tls_reload_failed", error=str(error))

    def _load(self) -> None:
        if self._ca:
            self.context.load_verify_locations(self._ca)
        if self._cert:
            self.context.load_cert_chain(self._cert, self._key)


def is_nkey_seed(credentials: str) -> bool:
    """An nkey seed file holds one line that starts with SU; a credentials file has a JWT and a seed in blocks.

    Raises UsageError for what is neither: nats-py would look for the blocks for ever.
    """
    try:
        text = Path(credentials).read_text()
    except (OSError, UnicodeDecodeError):
        return False  # it may come yet; what is wrong with it shows when it is used
    if text.startswith("SU"):
        return True
    if not all(f"BEGIN {block}" in text for block in ("NATS USER JWT", "USER NKEY SEED")):
        raise UsageError(f"{credentials} holds neither an nkey seed nor the credentials of a NATS user")
    return False
