"""The files by which NATS knows us: TLS certificates, an nkey seed or user credentials. All may rotate while we run."""

import codecs
import re
import ssl
from base64 import b64encode
from pathlib import Path
from typing import NoReturn

import nkeys  # type: ignore[import-untyped]
import structlog
from msgspec import Struct

from exeunt.errors import UsageError, said_by
from exeunt.net.tls import client_context

log = structlog.get_logger(__name__)


class Tls(Struct, frozen=True, kw_only=True):
    """How to speak TLS with NATS: paths of files, each "" for none, and whether the handshake comes first."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    first: bool = False
    strict: bool = False

    @property
    def asked_for(self) -> bool:
        return bool(self.ca or self.cert or self.key or self.first)

    def context(self) -> ssl.SSLContext:
        """Made from what the files hold now. Raises UsageError that names the setting, the file and the remedy."""
        if bool(self.cert) != bool(self.key):
            raise UsageError(
                "EXEUNT_NATS_TLS_CERT needs its key, and EXEUNT_NATS_TLS_KEY its certificate: set both or neither"
            )
        try:
            context = client_context(self.ca or None, strict=self.strict)
        except OSError as error:  # ssl.SSLError too
            raise UsageError(
                f"EXEUNT_NATS_TLS_CA={self.ca!r} cannot be used: {said_by(error)};"
                " name a file with CA certificates in PEM"
            ) from error
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"EXEUNT_NATS_TLS_CERT={self.cert!r} and EXEUNT_NATS_TLS_KEY={self.key!r} cannot be used:"
                    f" {said_by(error)}; name a certificate and its own key, both in PEM"
                ) from error
        return context


def _no_passphrase() -> NoReturn:
    """Without this OpenSSL would ask for one on the terminal and wait."""
    raise ValueError("the key has a passphrase, which nobody can be asked for here: store it without")


class NatsUser(Struct, frozen=True):
    """Who we are at NATS: the seed signs what the server asks, in the name of a JWT or of the seed's own public key."""

    seed: bytes
    jwt: bytes = b""

    @property
    def public_key(self) -> str:
        key: bytes = nkeys.from_seed(bytearray(self.seed)).public_key
        return key.decode()

    def sign(self, nonce: str) -> bytes:
        """The signature that the server asks for, in base64."""
        return b64encode(nkeys.from_seed(bytearray(self.seed)).sign(nonce.encode()))


def read_user(path: str) -> NatsUser:
    """What a credentials file or an nkey seed file holds, taken as widely as the nats command line does: blocks in any
    order, blanks, empty lines, line ends and byte order marks of Windows, and text around all of it.

    Raises OSError when the file cannot be read and UsageError, which tells nothing of it, when it is of no use.
    """
    lines = [line.strip() for line in _text(path).splitlines()]
    seeds = [line for line in lines if re.fullmatch(r"S[A-Z][A-Z2-7]{56}", line)]
    jwts = [line for line in lines if re.fullmatch(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", line)]
    seed = next((seed for seed in seeds if seed.startswith("SU")), None)
    if seed is None:
        if seeds:
            why = f"its seed is not that of a user: it begins with {seeds[0][:2]}, not with SU"
        elif any(line.startswith("SU") for line in lines):
            why = "its seed is cut or has a character too many: it is SU and 56 more of A to Z and 2 to 7, on one line"
        elif jwts:
            why = "it has a JWT and no seed: both are needed, as `nsc generate creds` writes them"
        elif any(re.fullmatch(r"U[A-Z2-7]{55}", line) for line in lines):
            why = "it has a public key (U...), which is for the server: name the file with its seed (SU...)"
        else:
            why = "it holds neither an nkey seed nor the credentials of a NATS user"
        raise _unusable(path, why)
    if not jwts and any("BEGIN NATS USER JWT" in line for line in lines):
        raise _unusable(path, "the JWT in it is cut or broken over lines: it is one line of three parts")
    if not _checks_out(seed.encode()):
        raise _unusable(path, "its seed is mistyped: the checksum is wrong")
    return NatsUser(seed.encode(), jwts[0].encode() if jwts else b"")


def _checks_out(seed: bytes) -> bool:
    """Checked here, because nkeys takes a mistyped seed for that of another user."""
    try:
        prefix, raw = nkeys.decode_seed(bytearray(seed))
    except nkeys.NkeysError:
        return False
    return bool(nkeys.encode_seed(bytes(raw), prefix) == seed)


def _unusable(path: str, why: str) -> UsageError:
    return UsageError(f"EXEUNT_NATS_CREDENTIALS={path!r} cannot be used: {why}")


def _text(path: str) -> str:
    raw = Path(path).read_bytes()
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise _unusable(path, "it is no text") from None
