"""What the mesh would do, without doing it: `exeunt plan`, and the terminator under EXEUNT_DRY_RUN."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from actors.bystander import Bystander
from actors.call import Call
from actors.command import Ran, exeunt, state_of
from actors.kubernetes import BINDING, STEP_RUN, STORY, STORY_RUN, Kubernetes
from actors.services import QUICK, start_all
from exeunt.bus.connection import Bus, connect
from exeunt.events.event_types import EventType
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

SETTINGS: Final = {**QUICK, "EXEUNT_SWEEP_INTERVAL": "1h"}
NOWHERE: Final = "nats://127.0.0.1:9"


@pytest.fixture
async def bus(own_nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await connect(own_nats.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
    yield bus
    await bus.close(5)


async def objects(kubernetes: Kubernetes, namespace: str) -> dict[str, Any]:
    return {
        kind.plural: [
            (item["metadata"]["uid"], item["metadata"]["resourceVersion"])
            for item in await kubernetes.list(kind, namespace)
        ]
        for kind in (STORY, STORY_RUN, STEP_RUN, BINDING)
    }


async def test_a_plan_says_what_would_be_done_and_does_nothing(
    kubernetes: Kubernetes,
    control_plane: ControlPlane,
    namespace: str,
    own_nats: NatsServer,
    bus: Bus,
    own_mesh: Mesh,
    listener: Bystander,
) -> None:
    await own_mesh.start("watcher", 0, **SETTINGS)

    async def call(name: str, shutdown_timeout: str = "1m", **options: Any) -> Call:
        return await Call.start(kubernetes, namespace, name, shutdown_timeout=shutdown_timeout, **options)

    reported, gone, late, up, batch, _running = await asyncio.gather(
        *(call("told"), call("gone"), call("late", "10ms"), call("up"), call("batch", pattern="batch"), call("running"))
    )
    for each in (reported, gone, late, up):
        await listener.wait_for_event(each.uid, EventType.TOPOLOGY_ESTABLISHED)
    await asyncio.gather(*(each.cancel() for each in (reported, gone, late, up, batch)))
    for each in (reported, gone, late, up):
        await listener.wait_for_event(each.uid, EventType.CANCEL_REQUESTED)
    await reported.signal_topology_terminated()
    await gone.lose_bindings()
    for each in (reported, gone):
        await listener.wait_for_event(each.uid, EventType.TOPOLOGY_TERMINATED)
    # What is edited after the cancel does not move a deadline that was captured at it.
    await up.annotate({"exeunt.bubustack.io/shutdown-timeout": "1ms"})
    # Nobody else changes anything from here on: neither the watcher nor the operator, which waits for the drain.
    await own_mesh.stop("watcher")
    for each in (reported, gone, late, up, batch):
        await each.wait_draining()
    step_runs = {item["metadata"]["name"] for item in await reported.step_runs()}

    async def plan(*arguments: str, url: str = own_nats.url) -> Ran:
        kubeconfig = str(control_plane.kubeconfig)
        return await exeunt(own_nats, "plan", "-n", namespace, *arguments, KUBECONFIG=kubeconfig, EXEUNT_NATS_URL=url)

    before = await objects(kubernetes, namespace), await state_of(bus.nc)
    ran, table, wide, forgetful = await asyncio.gather(
        plan("-o", "json"), plan(), plan("-o", "wide"), plan("-o", "json", url=NOWHERE)
    )
    assert (await objects(kubernetes, namespace), await state_of(bus.nc)) == before

    planned = {each["name"]: each for each in json.loads(ran.out)}
    assert {name: (each["verdict"], each["rule"]) for name, each in planned.items()} == {
        "told": ("finalize", "topology-gone"),
        "gone": ("finalize", "topology-gone"),
        "late": ("finalize", "deadline"),
        "up": ("wait", "topology-up"),
        "batch": ("leave", "not-realtime"),
    }
    assert planned["told"]["evidence"].startswith("hub-condition: ")
    assert planned["gone"]["evidence"].startswith("bindings-gone: ")
    assert set(planned["told"]["step_runs"]) == step_runs != set()
    assert planned["up"]["step_runs"] == []
    assert (planned["up"]["shutdown_timeout"], planned["up"]["shutdown_rule"]) == ("1m", "Story policy")
    assert [line.split()[1] for line in table.out.splitlines()[1:]] == sorted(planned)
    assert reported.uid in wide.out
    # Without its memory, that no binding is left is no evidence.
    assert "planned without what NATS knows: not connected to NATS" in forgetful.err
    rules = {each["name"]: each["rule"] for each in json.loads(forgetful.out)}
    assert (rules["told"], rules["gone"]) == ("topology-gone", "topology-up")


async def test_a_dry_run_records_what_it_would_have_done_and_writes_nothing(
    kubernetes: Kubernetes, namespace: str, own_nats: NatsServer, own_mesh: Mesh, listener: Bystander
) -> None:
    impatient = {**QUICK, "EXEUNT_SWEEP_INTERVAL": "300ms", "EXEUNT_OVERDUE_AFTER": "300ms"}
    await start_all(own_mesh, 0, **impatient, EXEUNT_DRY_RUN="true", EXEUNT_KUBERNETES_EVENTS="true")
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1s")
    await call.cancel()
    await listener.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await call.signal_topology_terminated()
    await call.wait_draining()
    before = await objects(kubernetes, namespace)
    for event_type, rule in (
        (EventType.TOPOLOGY_TERMINATED, "topology-gone"),
        (EventType.DEADLINE_REACHED, "deadline"),
    ):
        recorded = await listener.wait_for_outcome(call.uid, event_type)
        assert recorded.outcome is not None
        assert (recorded.outcome.verdict, recorded.outcome.rule, recorded.outcome.dry_run) == ("finalize", rule, True)
        assert (recorded.outcome.finished_at, recorded.outcome.stop_latency_ms) == (None, None)
        assert recorded.outcome.deleted_step_runs == ()
    assert await objects(kubernetes, namespace) == before
    assert "Kubernetes Event" not in own_mesh.log("terminator").read_text()  # not even tried: it has no right to
    assert await counted_as(own_mesh) == {"dry run"}

    run = f"{namespace}/{call.name}"
    timeline, explained, checked = await asyncio.gather(
        exeunt(own_nats, "timeline", run, "-o", "json"),
        exeunt(own_nats, "explain", run),
        exeunt(own_nats, "replay", run, "--check"),
    )
    (stop,) = json.loads(timeline.out)
    assert (stop["ending"], stop["cause"], stop["ended_at"]) == ("stopping", "deadline (dry run)", None)
    assert "finalize (dry run)" in [event["what"] for event in stop["events"]]
    assert "Nothing was written: that was a dry run (EXEUNT_DRY_RUN)." in " ".join(explained.out.split())
    assert checked.code == 0, checked.out

    # Switched off, the sweep brings it up again.
    await own_mesh.stop("terminator")
    await own_mesh.start("terminator", 0, **impatient)
    assert (await call.wait_finished())["status"]["phase"] == "Finished"


async def counted_as(mesh: Mesh) -> set[str]:
    """The verdicts under which the terminator has counted stops that were done, or would have been."""
    async with ClientSession() as http, http.get(f"{mesh.url('terminator')}/metrics") as answer:
        counts = re.findall(r'exeunt_outcomes_total\{.*verdict="(finalize|dry run)"\} (\d+)', await answer.text())
    return {verdict for verdict, count in counts if int(count)}
