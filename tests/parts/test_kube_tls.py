"""Certificates as the CAs of many clusters are: good enough for kubectl, not for Python's strict rules."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable
from exeunt.kube.resources import STORY_RUNS
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane


@pytest.fixture(scope="module")
async def lenient(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """A control plane whose certificates have no key identifiers."""
    folder = tmp_path_factory.mktemp("lenient")
    authority = ec.generate_private_key(ec.SECP256R1())
    ca = issue("old CA", authority, authority, x509.BasicConstraints(ca=True, path_length=None))
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    (folder / "ca.pem").write_bytes(ca)
    (folder / "server.pem").write_bytes(issue("server", key, authority, names))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    async with ControlPlane(folder, binaries=servers) as plane:
        yield plane


def issue(
    name: str, key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
) -> bytes:
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old CA")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=name == "old CA")
        .sign(authority, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


async def ask(kubeconfig: Path, *, strict: bool) -> None:
    client = await KubeClient.connect(kubeconfig=str(kubeconfig), strict=strict)
    try:
        await client.list(STORY_RUNS, "default", retry=False)
    finally:
        await client.close()


async def test_they_are_taken_unless_the_strict_rules_are_asked_for(lenient: ControlPlane) -> None:
    with pytest.raises(ApiError, match="404"):  # no CRDs are installed there, but it has answered
        await ask(lenient.kubeconfig, strict=False)
    with pytest.raises(ApiUnavailable, match=r"refused: .*Key Identifier.*EXEUNT_TLS_STRICT"):
        await ask(lenient.kubeconfig, strict=True)
