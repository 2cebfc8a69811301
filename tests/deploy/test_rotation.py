"""Tokens, certificates and their authority are replaced while the services run: no restart, nothing lost."""

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from actors.call import Call
from actors.installation import DEPLOY, NAMESPACE, Install, Installation
from actors.kubernetes import Kubernetes
from actors.operator import Operator
from actors.services import QUICK
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture(scope="module")
async def operator(kubernetes: Kubernetes) -> AsyncIterator[Operator]:
    async with Operator(kubernetes, requeue=0.2) as operator:
        yield operator


@pytest.fixture(scope="module")
async def installation(install: Install) -> AsyncIterator[Installation]:
    async with install(DEPLOY / "overlays" / "evaluation") as installation:
        await installation.start_all(0, **QUICK)
        yield installation


async def stop_both_ways(kubernetes: Kubernetes, name: str) -> None:
    """One call that everybody leaves, and one that ends at its deadline: between them they need every service."""
    left = await Call.start(kubernetes, "livekit-voice", f"{name}-left", shutdown_timeout="60s")
    up = await Call.start(kubernetes, "livekit-voice", f"{name}-up", shutdown_timeout="1s")
    for call in (left, up):
        await call.cancel()
    await left.signal_topology_terminated()
    for call in (left, up):
        await call.wait_finished(within=30)
        await call.wait_cleaned_up()


def processes(installation: Installation) -> list[str]:
    """The first line of each service's log that tells of a start, by which a second start would show."""
    logs = [installation.mesh.log(service).read_text() for service in SERVICES]
    return [line for log in logs for line in log.splitlines() if '"event":"started"' in line]


async def test_a_token_that_is_no_longer_accepted_is_read_anew(
    installation: Installation, cluster: ControlPlane, kubernetes: Kubernetes
) -> None:
    started = processes(installation)
    assert len(started) == len(SERVICES)
    tokens = {service: installation.mesh.folder / f"exeunt-{service}.token" for service in SERVICES}
    old = {service: token.read_text() for service, token in tokens.items()}
    # A token dies with its ServiceAccount; the new one of the same name is another.
    await installation.kubectl("delete", "serviceaccounts", "--all", "-n", NAMESPACE)
    await installation.apply()
    for service in SERVICES:
        await cluster.kubeconfig_for(f"exeunt-{service}", NAMESPACE, folder=installation.mesh.folder)
        assert tokens[service].read_text() != old[service]
        await until_refused(cluster, old[service])
    await stop_both_ways(kubernetes, "token")
    assert processes(installation) == started


async def until_refused(cluster: ControlPlane, token: str) -> None:
    """The kube-apiserver remembers for some seconds that a token was good."""
    tls = ssl.create_default_context(cafile=cluster.ca)
    url, headers = f"{cluster.url}/api", {"Authorization": f"Bearer {token}"}
    async with asyncio.timeout(30), aiohttp.ClientSession(headers=headers) as http:
        while True:
            async with http.get(url, ssl=tls) as answer:
                if answer.status == 401:
                    return
            await asyncio.sleep(0.1)


async def test_the_certificate_of_the_servers_and_its_authority_are_replaced(
    installation: Installation, kubernetes: Kubernetes
) -> None:
    started, before = processes(installation), await served_certificate(installation)
    authority = installation.credentials / "ca.crt"
    old = authority.read_bytes()

    # First everybody trusts both authorities, as docs/operations.md says it ...
    for name in ("ca.crt", "ca.key"):
        (installation.credentials / name).unlink()
    await installation.renew_credentials(apply=False)
    authority.write_bytes(authority.read_bytes() + old)
    await installation.apply_credentials()
    await installation.refresh_mounts()
    # ... and the server is reported, which is the reloader's work. Whoever connects from now on sees the new one.
    assert installation.nats[0].pid is not None
    os.kill(installation.nats[0].pid, signal.SIGHUP)
    async with asyncio.timeout(20):
        while (after := await served_certificate(installation)) == before:  # noqa: ASYNC110 - a reload sends no event
            await asyncio.sleep(0.05)
    assert after.issuer == before.issuer  # by name; by key it is another
    after.verify_directly_issued_by(x509.load_pem_x509_certificates(authority.read_bytes())[0])
    with pytest.raises(InvalidSignature):
        after.verify_directly_issued_by(x509.load_pem_x509_certificate(old))

    await stop_both_ways(kubernetes, "served-before")
    await installation.nats[0].stop()  # so that every service has to connect anew
    await installation.nats[0].start()
    await stop_both_ways(kubernetes, "served-after")
    assert processes(installation) == started


async def test_an_nkey_is_replaced(installation: Installation, kubernetes: Kubernetes) -> None:
    started = processes(installation)
    for service in SERVICES:
        (installation.credentials / f"{service}.seed").unlink()
    await installation.renew_credentials()
    await installation.refresh_mounts()
    assert installation.nats[0].pid is not None
    os.kill(installation.nats[0].pid, signal.SIGHUP)  # the server sends away whoever came with the old ones
    await stop_both_ways(kubernetes, "nkey")
    log = (installation.folder / "nats-0.log").read_text()
    assert "Reloaded server configuration" in log
    assert processes(installation) == started


async def served_certificate(installation: Installation) -> x509.Certificate:
    """What the server shows to a client that trusts whatever is in the folder."""
    host, port = installation.nats_urls[0].removeprefix("tls://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()  # INFO comes before TLS
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    await writer.start_tls(tls)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(certificate)
