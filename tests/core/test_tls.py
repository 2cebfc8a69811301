import ssl

import pytest

from exeunt.net.tls import client_context, explain


@pytest.mark.parametrize("strict", [False, True])
def test_every_python_is_as_strict_as_it_is_reported(*, strict: bool) -> None:
    assert bool(client_context(strict=strict).verify_flags & ssl.VERIFY_X509_STRICT) is strict
    assert client_context(strict=strict).verify_mode is ssl.CERT_REQUIRED
    assert client_context(strict=strict).check_hostname


@pytest.mark.parametrize(
    ("flaw", "remedy"),
    [
        ("Missing Authority Key Identifier", "EXEUNT_TLS_STRICT=false"),
        ("Hostname mismatch, certificate is not valid for 'nats'", "a name that the certificate has"),
        ("certificate has expired", "renew it"),
        ("unable to get local issuer certificate", "EXEUNT_NATS_TLS_CA must hold the authority"),
    ],
)
def test_a_refused_certificate_is_reported_with_its_flaw_and_the_remedy(flaw: str, remedy: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = flaw
    reported = explain(error, ca="EXEUNT_NATS_TLS_CA")
    assert flaw.rstrip(".") in reported
    assert remedy in reported


def test_other_failures_are_reported_as_they_are() -> None:
    assert explain(ConnectionResetError("reset by peer")) == "reset by peer"
    assert explain(ConnectionAbortedError()) == "ConnectionAbortedError"
