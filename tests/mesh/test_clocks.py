"""No run ends before its deadline because the clock of one machine is wrong, and such a clock is reported."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.services import QUICK
from actors.shifted_clock import clock_ahead
from exeunt.events.event_types import EventType
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator")

AHEAD = timedelta(seconds=60)


async def ask(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == 200
        return await answer.text()


async def offsets(mesh: Mesh, service: str) -> dict[str, float]:
    """What a service says of its clock, once it has heard of both others."""
    async with asyncio.timeout(30):
        while True:
            metrics = await ask(f"{mesh.url(service)}/metrics")
            found = re.findall(r'^exeunt_clock_offset_seconds\{clock="([a-z-]+)"\} (\S+)$', metrics, re.MULTILINE)
            if len(found) == 2:
                return {clock: float(ahead) for clock, ahead in found}
            await asyncio.sleep(0.1)


async def test_a_deadline_that_is_published_by_a_clock_ahead_is_waited_for(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, tmp_path: Path
) -> None:
    wrong = clock_ahead(tmp_path, AHEAD)
    await asyncio.gather(
        own_mesh.start("watcher", 0, **QUICK),
        own_mesh.start("terminator", 0, **QUICK),
        own_mesh.start("timeout-scheduler", 0, **QUICK, **wrong),
    )
    call = await Call.start(kubernetes, namespace, shutdown_timeout="8s")
    await call.cancel()
    await listener.wait_for_event(call.uid, EventType.DEADLINE_REACHED, within=30)
    await call.wait_finished(within=30)
    answer = await listener.wait_for_outcome(call.uid, EventType.DEADLINE_REACHED, within=30)
    assert answer.outcome is not None
    assert answer.outcome.rule == "deadline"
    assert answer.outcome.stop_latency_ms is not None
    assert answer.outcome.stop_latency_ms >= 7000
    reported = await asyncio.gather(*(offsets(own_mesh, service) for service in ("timeout-scheduler", "terminator")))
    assert reported[0] == pytest.approx({"kube-apiserver": 59.5, "nats": 60}, abs=0.6)
    assert reported[1] == pytest.approx({"kube-apiserver": 0, "nats": 0}, abs=0.5)
    assert "clocks differ" in own_mesh.log("timeout-scheduler").read_text()


async def test_a_terminator_whose_clock_is_wrong_ends_no_run_by_its_deadline_and_says_so(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, tmp_path: Path
) -> None:
    wrong = clock_ahead(tmp_path, AHEAD)
    await asyncio.gather(
        own_mesh.start("watcher", 0, **QUICK),
        own_mesh.start("terminator", 0, **QUICK, **wrong),
        own_mesh.start("timeout-scheduler", 0, **QUICK),
    )
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1s")
    other = await Call.start(kubernetes, namespace, "other", shutdown_timeout="10m")
    await call.cancel()
    await listener.wait_for_event(call.uid, EventType.DEADLINE_REACHED, within=30)
    async with asyncio.timeout(30):
        while not (await listener.streams.consumer_info("RUNS", "terminator")).num_redelivered:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await call.get())["status"]["phase"] == "Running"
    ready = await ask(f"{own_mesh.url('terminator')}/readyz")
    assert re.search(r"clock of this machine is (59|60)\.\d s ahead of that of the kube-apiserver", ready)
    await other.cancel()
    await other.signal_topology_terminated()
    await other.wait_finished(within=30)
    assert (await call.get())["status"]["phase"] == "Running"

    await own_mesh.stop("terminator")
    await own_mesh.start("terminator", 1, **QUICK)
    await call.wait_finished(within=60)
    answer = await listener.wait_for_outcome(call.uid, EventType.DEADLINE_REACHED, within=30)
    assert answer.outcome is not None
    assert answer.outcome.rule == "deadline"
