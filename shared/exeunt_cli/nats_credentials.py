"""`exeunt nats-credentials`: a folder with everything secret that an installation needs, for `kubectl apply -k`.

One nkey for each user of deploy/nats/accounts.conf, a certificate authority, and the certificate of the NATS servers.
Nothing of it is shipped and nothing leaves the folder by itself. Run again, it keeps what may live on (nkeys, the
authority, the kustomization) and issues the servers' certificate anew, for the names it had and those that are new:
that is also how a certificate is renewed. What an older version did not know of is added: a user with its seed, and its
Secret to the kustomization.
"""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import nkeys  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PODS: Final = ("watcher", "terminator", "timeout-scheduler", "livekit-bridge")
"""Users whose seeds become Secrets, each for its own pod."""
PEOPLE: Final = ("topology-signals", "reader", "admin")
"""Users whose seeds stay in the folder, for whoever is to have them."""

_AUTHORITY_LIFETIME: Final = timedelta(days=3650)
_SERVER_LIFETIME: Final = timedelta(days=397)
_CLOCK_SKEW: Final = timedelta(hours=1)


def write_credentials(folder: Path, *, namespace: str | None = None, names: Iterable[str] = ()) -> None:
    """Make what is missing in `folder`, and issue the servers' certificate anew.

    `namespace` is that of the installation: by default that of an earlier run, else "exeunt". `names` are further DNS
    names or addresses under which clients reach the servers. Everything written is readable by its owner only. Raises
    OSError when the folder cannot be written, ValueError when a file in it cannot be used, or is for another namespace.
    """
    kustomization = folder / "kustomization.yaml"
    before = _namespace_of(kustomization)
    if before is not None and namespace not in (None, before):
        raise ValueError(f"{kustomization} is for the namespace {before}: delete it to have it written for {namespace}")
    namespace = namespace or before or "exeunt"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kustomization.exists():  # it may have been edited: who has cert-manager takes the certificate out of it
        _add_secrets(kustomization, [pod for pod in PODS if not (folder / f"{pod}.seed").exists()])
    else:
        _write(kustomization, _kustomization(namespace).encode())
    users = {user: _public_key(folder / f"{user}.seed") for user in (*PODS, *PEOPLE)}
    lines = (f"{user.upper().replace('-', '_')}: {public_key}\n" for user, public_key in users.items())
    _write(folder / "users.conf", "".join(lines).encode())
    authority, authority_key = _authority(folder)
    all_names = [_general_name(name) for name in (*_server_names(namespace), *names)]
    _issue(folder, authority, authority_key, list(dict.fromkeys([*all_names, *_issued_names(folder)])))


def _namespace_of(kustomization: Path) -> str | None:
    if not kustomization.exists():
        return None
    found = re.search(r"^namespace: *(\S+)", kustomization.read_text(), re.MULTILINE)
    return found[1] if found else None


def _public_key(seed_file: Path) -> str:
    """The public key of the seed in that file, which is made if there is none."""
    if not seed_file.exists():
        _write(seed_file, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    try:
        pair = nkeys.from_seed(bytearray(seed_file.read_bytes().strip()))
    except nkeys.NkeysError as error:
        raise ValueError(f"{seed_file} holds no nkey seed: {error!r}") from error
    return str(pair.public_key.decode())


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority of this folder; made once, so that renewing a certificate changes nobody's trust."""
    certificate_file, key_file = folder / "ca.crt", folder / "ca.key"
    if key_file.exists():
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_file} holds no elliptic curve key")
        # A bundle may follow the current authority while an old one is phased out.
        return x509.load_pem_x509_certificates(certificate_file.read_bytes())[0], key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exeunt-nats-ca")])
    certificate = (
        _builder(name, name, key.public_key(), _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _pem(key))
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def _issued_names(folder: Path) -> Iterable[x509.GeneralName]:
    """The names of the certificate that is there. Delete it to have a name left out."""
    if not (folder / "tls.crt").exists():
        return ()
    certificate = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _issue(
    folder: Path, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName]
) -> None:
    """The certificate of the servers: for clients, and for each other (hence both usages)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exeunt-nats")])
    certificate = (
        _builder(subject, authority.subject, key.public_key(), _SERVER_LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(folder / "tls.key", _pem(key))
    _write(folder / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _key_usage(**used: bool) -> x509.KeyUsage:
    usages = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    return x509.KeyUsage(**usages | used)


def _server_names(namespace: str) -> list[str]:
    """Under what names the Services of deploy/nats are reached, from within the namespace and from others."""
    hosts = ["nats", *(f"nats-{ordinal}.nats-headless" for ordinal in range(3))]
    return [name for host in hosts for name in (host, f"{host}.{namespace}", f"{host}.{namespace}.svc")]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _kustomization(namespace: str) -> str:
    """The Secrets that deploy/ mounts. The authority's key and the seeds of people are not among them."""
    secrets = "".join(map(_secret, PODS))
    return f"""\
# Made by `exeunt nats-credentials`. Keep this folder as you keep other secrets, and apply it with `kubectl apply -k`.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {namespace}
generatorOptions:
  disableNameSuffixHash: true
  labels:
    app.kubernetes.io/part-of: exeunt
configMapGenerator:
  - name: exeunt-nats-users
    files: [users.conf]
secretGenerator:
{secrets}\
  - name: exeunt-nats-tls
    type: kubernetes.io/tls
    files: [ca.crt, tls.crt, tls.key]
"""


def _secret(pod: str) -> str:
    return f"  - name: exeunt-nats-{pod}\n    files: [credentials={pod}.seed]\n"


def _add_secrets(kustomization: Path, pods: Iterable[str]) -> None:
    """The Secrets of those pods that it does not name, at the head of its list; without a list it stays as it is."""
    before = kustomization.read_text()
    missing = "".join(_secret(pod) for pod in pods if f"exeunt-nats-{pod}" not in before)
    after = re.sub(r"^secretGenerator:\n", rf"\g<0>{missing}", before, count=1, flags=re.MULTILINE)
    if after != before:
        _write(kustomization, after.encode())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, content: bytes) -> None:
    """As a whole or not at all, and never readable by others, not even for a moment."""
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(content)
    unfinished.replace(file)
