"""What whoever runs the services relies on: clear refusals, honest probes, an orderly end, a memory over restarts."""

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import nats
import pytest
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from actors import kubelet
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.recorder import Recorder
from actors.services import QUICK, start_all
from actors.tcp_proxy import TcpProxy
from exeunt.events.event_types import EventType
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port

pytestmark = pytest.mark.usefixtures("operator")


async def run_to_its_end(service: str, **env: str) -> tuple[int | None, str]:
    """The exit code and the stderr of a service that is expected to refuse its start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"exeunt_{service.replace('-', '_')}",
        env={**os.environ, **env},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("EXEUNT_SHUTDOWN_TIMEOUT", "soon", "no Go duration"),
        ("EXEUNT_MAX_IN_FLIGHT", "0", ">= 1"),
        ("EXEUNT_HTTP_ADDR", "nowhere", "cannot be listened on"),
        ("EXEUNT_DRAIN_TIMEOUT", "2m", "no setting of Exeunt"),
    ],
)
async def test_a_wrong_setting_stops_the_start_and_is_named(
    control_plane: ControlPlane, nats_server: NatsServer, service: str, setting: str, value: str, why: str
) -> None:
    settings = {"KUBECONFIG": str(control_plane.kubeconfig), "EXEUNT_NATS_URL": nats_server.url}
    code, stderr = await run_to_its_end(service, **{**settings, setting: value})
    assert code == 2
    assert setting in stderr
    assert why in stderr
    assert "Traceback" not in stderr


async def test_without_a_cluster_the_start_says_where_it_looked() -> None:
    code, stderr = await run_to_its_end("watcher", KUBECONFIG="/nowhere/kubeconfig")
    assert code == 2
    assert "/nowhere/kubeconfig" in stderr
    assert "Traceback" not in stderr


LOSING = {
    "deadlines evicted": (
        StreamConfig("DEADLINES", subjects=["exeunt.deadlines.>"], retention=RetentionPolicy.WORK_QUEUE, max_msgs=100),
        "max_msgs",
        "nats stream edit DEADLINES --max-msgs=-1",
    ),
    "history in memory": (
        StreamConfig("RUNS", subjects=["exeunt.runs.>"], storage=StorageType.MEMORY),
        "storage",
        "nats stream rm RUNS",
    ),
}


@pytest.mark.parametrize(("stream", "setting", "remedy"), LOSING.values(), ids=LOSING.keys())
async def test_a_stream_that_would_lose_data_stops_the_start_with_the_remedy(
    control_plane: ControlPlane, own_nats: NatsServer, stream: StreamConfig, setting: str, remedy: str
) -> None:
    connection = await nats.connect(own_nats.url)
    await connection.jetstream().add_stream(stream)
    await connection.close()
    settings = {"KUBECONFIG": str(control_plane.kubeconfig), "EXEUNT_NATS_URL": own_nats.url}
    code, stderr = await run_to_its_end("timeout-scheduler", **settings, EXEUNT_HTTP_ADDR="127.0.0.1:0")
    assert code == 2
    assert f"stream {stream.name} has {setting}" in stderr
    assert remedy in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("missing", ["nats", "kubernetes"])
async def test_services_that_start_before_a_dependency_wait_for_it(
    control_plane: ControlPlane, servers: Binaries, tmp_path: Path, missing: str
) -> None:
    nats_server = NatsServer(tmp_path / "nats", binary=servers.nats_server)
    missed = asyncio.Barrier(1 + len(SERVICES))

    async def start_early(service: str, proxy: TcpProxy) -> None:
        kubeconfig = await control_plane.kubeconfig_for(f"exeunt-{service}", "exeunt", folder=tmp_path)
        kubeconfig.write_text(kubeconfig.read_text().replace(control_plane.url, f"https://127.0.0.1:{proxy.port}"))
        settings = {"KUBECONFIG": str(kubeconfig), "EXEUNT_NATS_URL": nats_server.url}
        async with kubelet.running(service, tmp_path / f"{service}.log", **settings) as container:
            await kubelet.wait_until_missing(container.url, missing)
            assert await kubelet.attempts(container.url)
            await missed.wait()
            await kubelet.wait_until_ready(container.url, within=30)

    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(int(control_plane.url.rpartition(":")[2])))
        if missing == "kubernetes":
            proxy.cut(refuse=True)
            await stack.enter_async_context(nats_server)
        async with asyncio.TaskGroup() as starting:
            for service in SERVICES:
                starting.create_task(start_early(service, proxy))
            await missed.wait()
            proxy.restore()
            if missing == "nats":
                await stack.enter_async_context(nats_server)


async def test_probes_and_metrics_are_answered_before_nats_is(
    control_plane: ControlPlane, own_nats: NatsServer, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()

    async def first_attempt(proxy: TcpProxy) -> float:
        async with asyncio.timeout(20):
            while not proxy.accepted:  # noqa: ASYNC110 - another process connects
                await asyncio.sleep(0.01)
        return loop.time()

    async def start_early(service: str) -> None:
        kubeconfig = await control_plane.kubeconfig_for(f"exeunt-{service}", "exeunt", folder=tmp_path)
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(TcpProxy(int(own_nats.url.rpartition(":")[2])))
            proxy.go_silent()
            settings = {"KUBECONFIG": str(kubeconfig), "EXEUNT_NATS_URL": f"nats://127.0.0.1:{proxy.port}"}
            starting = kubelet.running(service, tmp_path / f"{service}.log", **settings)
            container, attempted = await asyncio.gather(stack.enter_async_context(starting), first_attempt(proxy))
            assert await kubelet.attempts(container.url)
            assert loop.time() - attempted < 4  # an attempt takes 5 s to fail
            await kubelet.wait_until_missing(container.url, "nats", "not connected to NATS")
            async with aiohttp.ClientSession() as http, http.get(f"{container.url}/metrics") as answer:
                assert 'exeunt_dependency_up{dependency="nats"} 0' in await answer.text()
            proxy.restore()
            await kubelet.wait_until_ready(container.url)

    await asyncio.gather(*map(start_early, SERVICES))


async def test_sigterm_ends_services_that_have_no_dependency_at_all(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    nowhere = f"https://127.0.0.1:{free_port()}"
    kubeconfig.write_text(control_plane.kubeconfig.read_text().replace(control_plane.url, nowhere))
    settings = {"KUBECONFIG": str(kubeconfig), "EXEUNT_NATS_URL": f"nats://127.0.0.1:{free_port()}"}

    async def start_and_end(service: str) -> int:
        async with kubelet.running(service, tmp_path / f"{service}.log", **settings) as container:
            await kubelet.wait_until_missing(container.url, "kubernetes")
            await kubelet.wait_until_missing(container.url, "nats")
            assert await kubelet.attempts(container.url)
            return await container.end(within=10)

    assert await asyncio.gather(*map(start_and_end, SERVICES)) == [0, 0, 0]


async def test_an_outage_is_reported_by_readyz_and_no_reason_for_a_restart(
    control_plane: ControlPlane, own_nats: NatsServer, own_mesh: Mesh
) -> None:
    await start_all(own_mesh)
    urls = [own_mesh.url(service) for service in SERVICES]

    async def all_of_them_miss(dependency: str) -> None:
        await asyncio.gather(*(kubelet.wait_until_missing(url, dependency, within=40) for url in urls))
        assert all(await asyncio.gather(*map(kubelet.attempts, urls)))

    async def all_of_them_are_ready() -> None:
        await asyncio.gather(*(kubelet.wait_until_ready(url, within=40) for url in urls))

    await own_nats.stop()
    await all_of_them_miss("nats")
    await own_nats.start()
    await all_of_them_are_ready()
    await control_plane.kill_apiserver()
    try:
        await all_of_them_miss("kubernetes")
    finally:
        await control_plane.start_apiserver()
    await all_of_them_are_ready()


async def test_sigterm_ends_in_an_orderly_way_and_nothing_is_lost(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, recorder: Recorder
) -> None:
    await start_all(own_mesh)
    await start_all(own_mesh, 1)
    calls = [await Call.start(kubernetes, namespace, f"call-{n}", shutdown_timeout="5s") for n in range(20)]

    async def stop(call: Call) -> None:
        await call.cancel()
        await call.signal_topology_terminated()

    stops = asyncio.gather(*map(stop, calls))
    codes = await asyncio.gather(*(own_mesh.stop(service, 0, within=25) for service in SERVICES))
    assert codes == [0, 0, 0]
    await stops
    for call in calls:
        await call.wait_finished()
        await call.wait_cleaned_up()
    await recorder.wait_for(lambda: all(recorder.terminal_transitions(call.uid) for call in calls))
    assert [len(recorder.terminal_transitions(call.uid)) for call in calls] == [1] * len(calls)


async def test_logs_are_json_lines_that_name_the_run(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, recorder: Recorder
) -> None:
    await start_all(own_mesh)
    call = await Call.start(kubernetes, namespace)
    await call.cancel()
    await call.signal_topology_terminated()
    await recorder.wait_for(lambda: len(recorder.terminal_transitions(call.uid)) == 1)
    await call.wait_cleaned_up()
    await asyncio.gather(*(own_mesh.stop(service) for service in SERVICES))
    lines = [json.loads(line) for line in own_mesh.log("terminator").read_text().splitlines()]
    (decision,) = [line for line in lines if line["event"] == "finalize" and call.uid in line["run"]]
    assert (decision["level"], decision["service"], decision["rule"]) == ("info", "exeunt-terminator", "topology-gone")


async def test_a_watcher_remembers_over_its_restart_that_a_topology_was_there(
    kubernetes: Kubernetes, namespace: str, own_nats: NatsServer, own_mesh: Mesh, recorder: Recorder
) -> None:
    await start_all(own_mesh, 0, EXEUNT_SWEEP_INTERVAL="1h")
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    never_connected = await Call.start(kubernetes, namespace, "alone", shutdown_timeout="60s")
    async with Bystander(own_nats.url) as bystander:
        await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED)
        await own_mesh.kill("watcher")
        await call.lose_bindings()
        await call.cancel()
        await never_connected.cancel()
        await own_mesh.start("watcher", 0, **QUICK)
        await recorder.wait_for(lambda: len(recorder.terminal_transitions(call.uid)) == 1)
        await bystander.wait_until_answered(never_connected.uid, EventType.CANCEL_REQUESTED)
        assert recorder.terminal_transitions(never_connected.uid) == []
