"""Traces through restarts and of late stops; stops while the collector is in trouble.

Each test starts its own services.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.collector import Collector, Manner
from actors.kubernetes import Kubernetes
from actors.services import QUICK, start_all, without
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType
from exeunt_local.mesh import SERVICES, Mesh
from mesh.observing import DELETE, PATCH, ROOT

pytestmark = pytest.mark.usefixtures("operator")

AT_ONCE = timedelta(seconds=4)
"""Milliseconds in truth; an export that a stop waits for takes 10 s to give up."""
WHOLE_STOP = 10
"""Spans, as `test_observed` draws them."""


async def test_a_restart_of_all_services_in_the_middle_leaves_it_one_trace(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, mesh: Mesh
) -> None:
    canceled = [ROOT, "  terminator: process cancel-requested", "  timeout-scheduler: process cancel-requested"]
    async with Collector() as collector:
        await start_all(mesh, 0, **collector.env)
        call = await Call.start(kubernetes, namespace)
        await call.cancel()
        await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
        await collector.wait_for_tree(call.uid, canceled)
        for service in SERVICES:
            await mesh.kill(service)
        await start_all(mesh, 0, **collector.env)
        await everyone_leaves(bystander.streams, call)
        await call.wait_finished()
        spans = await collector.wait_for_tree(
            call.uid,
            [
                *canceled,
                "  watcher: send run-terminal",
                "    timeout-scheduler: process run-terminal",
                "  watcher: send topology-terminated",
                "    terminator: process topology-terminated",
                f"      {DELETE}",
                f"      {DELETE}",
                f"      {PATCH}",
            ],
        )
        assert len({span.trace_id for span in spans}) == 1


async def test_a_terminator_that_is_killed_at_work_is_followed_by_another_in_the_same_trace(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, mesh: Mesh
) -> None:
    async with Collector() as collector:
        await start_all(mesh, 0, **collector.env)
        call = await Call.start(kubernetes, namespace)
        await mesh.kill("terminator")
        await call.cancel()
        await everyone_leaves(bystander.streams, call)
        gone = await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        await mesh.start("terminator", 0, **QUICK, **collector.env)
        await call.wait_finished()
        await collector.wait_for(
            lambda: any(span.attributes.get("exeunt.verdict") == "finalize" for span in collector.of_run(call.uid))
        )
        spans = collector.of_run(call.uid)
        ended = next(span for span in spans if span.attributes.get("exeunt.verdict") == "finalize")
        recorded = next(span for span in spans if span.name == ended.name.replace("process", "send"))
        assert ended.parent_id == recorded.span_id
        assert len({span.trace_id for span in spans}) == 1
        assert gone.snapshot is not None


async def test_a_late_stop_is_marked_for_collectors_that_keep_only_such(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, mesh: Mesh
) -> None:
    async with Collector() as collector:
        await start_all(mesh, 0, **collector.env)
        late = await Call.start(kubernetes, namespace, "late")
        async with without(mesh, "terminator", **collector.env):
            await late.cancel()
            await bystander.wait_for_event(late.uid, EventType.CANCEL_REQUESTED)
            await everyone_leaves(bystander.streams, late)
            recorded = await bystander.wait_for_event(late.uid, EventType.TOPOLOGY_TERMINATED)
            assert recorded.snapshot is not None
            await asyncio.sleep(1)  # what makes it late
        await late.wait_finished()
        await collector.wait_for(lambda: any(span.attributes.get("exeunt.late") for span in collector.of_run(late.uid)))
        (ended,) = [span for span in collector.of_run(late.uid) if span.attributes.get("exeunt.late")]
        assert ended.attributes["exeunt.verdict"] == "finalize"
        assert ended.attributes["exeunt.stop.latency"] > 1


async def test_what_is_not_exported_yet_is_flushed_at_the_end(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, mesh: Mesh
) -> None:
    async with Collector() as collector:
        env = {**collector.env, "OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        await start_all(mesh, 0, **env)
        call = await Call.start(kubernetes, namespace)
        await call.cancel()
        await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
        await everyone_leaves(bystander.streams, call)
        await call.wait_finished()
        await bystander.wait_for_event(call.uid, EventType.RUN_TERMINAL)
        await bystander.wait_until_idle()
        assert collector.requests == 0
        assert await asyncio.gather(*map(mesh.stop, SERVICES)) == [0, 0, 0]
        assert len(collector.of_run(call.uid)) == WHOLE_STOP
        assert {service for service, _ in collector.metrics} == {f"exeunt-{service}" for service in SERVICES}


@pytest.mark.parametrize("manner", ["refuses", "hangs", "dies", "was never there"])
async def test_stops_go_on_whatever_becomes_of_the_collector(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, mesh: Mesh, manner: str
) -> None:
    manners: dict[str, Manner] = {"refuses": "refuses", "hangs": "hangs"}
    collector = Collector(manners.get(manner, "takes"))
    if manner != "was never there":
        await collector.open()
    await start_all(mesh, 0, **collector.env)
    for number in range(4):
        call = await Call.start(kubernetes, namespace, f"call-{number}")
        await call.cancel()
        await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
        await everyone_leaves(bystander.streams, call)
        left = datetime.now(UTC)
        await call.wait_finished()
        assert datetime.now(UTC) - left < AT_ONCE
        await call.wait_cleaned_up()
        if number == 0 and manner != "was never there":
            await collector.wait_for(lambda: collector.requests > len(SERVICES))
        if number == 1 and manner == "dies":
            await collector.close()
    asked_to_end = datetime.now(UTC)
    assert await asyncio.gather(*map(mesh.stop, SERVICES)) == [0, 0, 0]
    # The budget for what could not be exported, and the ordinary end.
    assert datetime.now(UTC) - asked_to_end < timedelta(seconds=3 + 5)
    await collector.close()
