"""What a service loads, as a Pod: every package costs memory in each of them, for as long as it runs.

No figure of memory is asserted, which would be one of this machine; docs/operations.md has those.
"""

import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import Process, free_port

TESTS = Path(__file__).parents[1]
FOR_PEOPLE = {"exeunt_cli", "cyclopts", "rich", "pygments", "docutils"}
"""The command, and what it draws with."""
FOR_DEVELOPERS = {"exeunt_local", "unittest", "doctest", "pdb", "pydoc", "setuptools", "pkg_resources"}
NOWHERE = FOR_PEOPLE | FOR_DEVELOPERS | {"kubernetes_asyncio", "grpc", "cryptography", "opentelemetry.sdk.metrics"}
FOR_KUBECONFIGS = {"yaml", "exeunt.kube.by_kubeconfig", "exeunt.kube.kubeconfig", "exeunt.kube.exec_plugin"}
FOR_LIVEKIT = {"livekit", "jwt", "aiohttp.web"}
FOR_TRACES = {"opentelemetry", "opentelemetry.exporter", "requests", "google.protobuf"}

Run = Callable[..., Awaitable[frozenset[str]]]


def parts_of(modules: frozenset[str]) -> set[str]:
    """The modules, and the packages that they are in."""
    names = [module.split(".") for module in modules]
    return {".".join(parts[:length]) for parts in names for length in range(1, len(parts) + 1)}


@pytest.fixture
def run(tmp_path: Path, control_plane: ControlPlane, nats_server: NatsServer) -> Run:
    """Runs a service until it is ready, ends it in order, and returns all modules that it has loaded."""

    async def run(service: str, **env: str) -> frozenset[str]:
        folder = tmp_path / service
        folder.mkdir()
        if service in SERVICES:
            await control_plane.kubeconfig_for(f"exeunt-{service}", "exeunt", folder=folder)
            (folder / f"exeunt-{service}.token").rename(folder / "token")
            shutil.copy(control_plane.ca, folder / "ca.crt")
        else:
            (folder / "keys").write_text("devkey: a secret of at least thirty-two characters")
        host, _, port = control_plane.url.removeprefix("https://").partition(":")
        address = f"127.0.0.1:{free_port()}"
        process = Process(
            [sys.executable, "-m", "actors.pod", folder, f"exeunt_{service.replace('-', '_')}"],
            log=folder / "log",
            ready_url=f"http://{address}/{'readyz' if service in SERVICES else 'livez'}",  # no LiveKit is there
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(TESTS),
                "HOME": str(folder / "nobody"),
                "KUBERNETES_SERVICE_HOST": host,
                "KUBERNETES_SERVICE_PORT": port,
                "EXEUNT_NATS_URL": nats_server.url,
                "EXEUNT_HTTP_ADDR": address,
                "EXEUNT_LIVEKIT_URL": f"http://127.0.0.1:{free_port()}",
                "EXEUNT_LIVEKIT_KEYS": str(folder / "keys"),
                "EXEUNT_LIVEKIT_WEBHOOK_ADDR": f"127.0.0.1:{free_port()}",
                **env,
            },
        )
        async with process:
            assert await process.stop(within=30) == 0
        return frozenset((folder / "modules").read_text().split())

    return run


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_loads_what_it_uses(run: Run, service: str) -> None:
    unused = NOWHERE | FOR_KUBECONFIGS | FOR_LIVEKIT | FOR_TRACES
    modules = await run(service)
    assert {"nats", "exeunt.kube.credentials", "exeunt.telemetry.prometheus"} <= modules
    assert parts_of(modules) & unused == set()


async def test_the_livekit_bridge_does_so_too(run: Run) -> None:
    assert parts_of(await run("livekit-bridge")) & (NOWHERE | (FOR_TRACES - {"google.protobuf"})) == set()


async def test_what_exports_traces_is_loaded_where_they_are_exported(run: Run) -> None:
    modules = parts_of(await run("watcher", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://127.0.0.1:9/v1/traces"))
    assert modules & NOWHERE == set()
    assert modules & FOR_TRACES == FOR_TRACES
