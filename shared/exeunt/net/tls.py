"""TLS as a client, towards NATS and the kube-apiserver alike: whom it trusts, how strictly, and what was wrong.

Python 3.13 verifies certificates as RFC 5280 has them (X509_STRICT) and refuses a CA without an Authority Key
Identifier, as many a private one is. kubectl and the nats command line take it, so Exeunt does, on every version of
Python, unless EXEUNT_TLS_STRICT says otherwise.
"""

import ssl
from typing import Final

_STRICTNESS: Final = (
    "Key Identifier",  # missing, or marked critical
    "Basic Constraints of CA cert not marked critical",
    "CA cert does not include key usage extension",
    "Empty Subject Alternative Name",
    "Subject empty",
    "Issuer name empty",
    "keyCertSign",
    "Path length",
)
"""Words of OpenSSL's that only strict verification finds."""


def client_context(ca: str | None = None, *, pem: str | None = None, strict: bool = False) -> ssl.SSLContext:
    """Verifies servers by the CA certificates in the file `ca`, or in `pem`, and no others; without, by the system's.

    Raises OSError (ssl.SSLError is one) when the file cannot be read or holds no PEM certificate.
    """
    context = ssl.create_default_context(cafile=ca, cadata=pem)
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def explain(error: OSError, *, ca: str = "the CA certificates") -> str:
    """Why a handshake failed, and what to do; `ca` is what the reader calls the file or setting of CA certificates."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return str(error) or type(error).__name__
    flaw = error.verify_message.rstrip(".")
    if any(words in flaw for words in _STRICTNESS):
        remedy = "issue it anew with that, or verify as kubectl and nats do (EXEUNT_TLS_STRICT=false)"
    elif "ostname mismatch" in flaw or "IP address mismatch" in flaw:
        remedy = "use a name that the certificate has, or issue one with this name"
    elif "expired" in flaw or "not yet valid" in flaw:
        remedy = "renew it, or set the clock right"
    else:
        remedy = f"{ca} must hold the authority that signed it, in PEM"
    return f"CERTIFICATE_VERIFY_FAILED: the server's certificate, or one that signed it, is refused: {flaw}; {remedy}"
