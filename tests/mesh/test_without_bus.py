"""NATS is away: runs end all the same, by the same rules, and the history is complete once it is back."""

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import pytest
from aiohttp import ClientSession

from actors.bystander import Bystander, Recorded
from actors.call import Call
from actors.kubernetes import STORY, Kubernetes
from actors.recorder import Recorder
from actors.services import QUICK, start_all
from exeunt.events.event_types import EventType, Verdict
from exeunt.run import bobrapet
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

PATIENCE: Final = "300ms"


async def wait_until_told(mesh: Mesh, words: str, instance: int = 0, within: float = 30) -> None:
    """Until /readyz of a terminator has these words."""
    text = ""
    async with asyncio.timeout(within), ClientSession() as http:
        while words not in text:
            async with http.get(f"{mesh.url('terminator', instance)}/readyz") as answer:
                text = await answer.text()
            await asyncio.sleep(0.05)


async def exeunt(nats_server: NatsServer, *arguments: str) -> str:
    """What a command that succeeds prints, in one line of words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "EXEUNT_NATS_URL": nats_server.url},
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    reported = " ".join(out.decode().split())
    assert process.returncode == 0, reported
    return reported


async def wait_for_outcome(
    listener: Bystander, uid: str, holds: Callable[[Recorded], bool], within: float = 30
) -> Recorded:
    """The first outcome of which it holds."""
    async with asyncio.timeout(within):
        while True:
            for recorded in await listener.history(uid):
                if recorded.outcome is not None and holds(recorded):
                    return recorded
            await asyncio.sleep(0.05)


async def test_every_kind_of_stop_ends_as_with_the_bus_and_the_history_is_complete_afterwards(
    kubernetes: Kubernetes,
    namespace: str,
    own_nats: NatsServer,
    own_mesh: Mesh,
    recorder: Recorder,
) -> None:
    """By two terminators at once."""
    await start_all(own_mesh, EXEUNT_BUS_PATIENCE=PATIENCE)
    await own_mesh.start("terminator", 1, **QUICK, EXEUNT_BUS_PATIENCE=PATIENCE)
    opted_out = {bobrapet.ENABLED: "false"}
    gone, hub, up, out, batch, calm = await asyncio.gather(
        Call.start(kubernetes, namespace, "gone", shutdown_timeout="120s"),
        Call.start(kubernetes, namespace, "hub", shutdown_timeout="120s"),
        Call.start(kubernetes, namespace, "up", shutdown_timeout="5s"),
        Call.start(kubernetes, namespace, "out", shutdown_timeout="1s", annotations=opted_out),
        Call.start(kubernetes, namespace, "batch", shutdown_timeout="1s", pattern="batch"),
        Call.start(kubernetes, namespace, "calm", shutdown_timeout="1s"),
    )
    await own_nats.kill()
    for instance in (0, 1):
        await wait_until_told(own_mesh, "runs are ended from here", instance)
    await asyncio.gather(*(call.cancel() for call in (gone, hub, up, out, batch)))
    for call in (gone, hub, up, out):
        await call.wait_observed(30)
    await gone.lose_bindings()
    await hub.signal_topology_terminated()
    await asyncio.gather(gone.wait_finished(30), hub.wait_finished(30), up.wait_finished(30))
    for call in (gone, hub, up):
        await call.wait_cleaned_up(30)
        await recorder.wait_until_seen(await call.get())
        assert [end.written_by for end in recorder.terminal_transitions(call.uid)] == ["exeunt-terminator"]
    end = recorder.terminal_transitions(up.uid)[0]
    assert end.at >= end.cancel_observed_at + timedelta(seconds=5)
    await asyncio.sleep(1.5)  # what must not end has its deadline behind it
    for call in (out, batch, calm):  # bobrapet itself ends the batch
        ends = [end.written_by for end in recorder.terminal_transitions(call.uid)]
        assert ends in ([], ["bobrapet"]), call.name

    await own_nats.start()
    async with Bystander(own_nats.url) as listener:
        for call, cause, rule in (
            (gone, EventType.TOPOLOGY_TERMINATED, "topology-gone"),
            (hub, EventType.TOPOLOGY_TERMINATED, "topology-gone"),
            (up, EventType.DEADLINE_REACHED, "deadline"),
        ):
            event = await wait_for_outcome(
                listener,
                call.uid,
                lambda event: event.outcome is not None and event.outcome.verdict is Verdict.FINALIZE,
            )
            assert event.outcome is not None
            assert (event.event_type, event.outcome.rule, event.outcome.without_bus) == (cause, rule, True)
            assert event.outcome.cause_sequence == (await listener.wait_for_event(call.uid, cause)).sequence
            await listener.wait_for_event(call.uid, EventType.RUN_TERMINAL, 30)
        await listener.wait_until_idle(30)
        for call in (gone, hub, up):
            assert len(recorder.terminal_transitions(call.uid)) == 1
            checked = await exeunt(own_nats, "replay", f"{namespace}/{call.name}", "--check")
            assert "come out as they were recorded" in checked
            assert "without the bus" in await exeunt(own_nats, "explain", f"{namespace}/{call.name}")
            ended = [
                event
                for event in await listener.history(call.uid)
                if event.outcome is not None and event.outcome.verdict is Verdict.FINALIZE
            ]
            assert len(ended) == 1
        for instance in (0, 1):
            await wait_until_told(own_mesh, '"ok"', instance)
        again = await Call.start(kubernetes, namespace, "again", shutdown_timeout="120s")
        await again.cancel()
        await again.wait_observed(30)
        await again.lose_bindings()
        await again.wait_finished(30)
        decided = await listener.wait_for_outcome(again.uid, EventType.TOPOLOGY_TERMINATED, 30)
        assert decided.outcome is not None
        assert not decided.outcome.without_bus


async def test_the_deadline_that_was_fixed_at_the_cancel_counts_without_the_bus_too(
    kubernetes: Kubernetes,
    namespace: str,
    own_nats: NatsServer,
    own_mesh: Mesh,
    recorder: Recorder,
) -> None:
    await start_all(own_mesh, EXEUNT_BUS_PATIENCE=PATIENCE)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="8s")
    await call.cancel()
    async with Bystander(own_nats.url) as listener:
        await listener.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED, 30)
    await own_nats.kill()
    shorter = {"spec": {"policy": {"timeouts": {"gracefulShutdownTimeout": "1s"}}}}
    await kubernetes.patch(STORY, namespace, call.story, shorter)
    await call.wait_finished(30)
    await recorder.wait_until_seen(await call.get())
    [end] = recorder.terminal_transitions(call.uid)
    assert end.written_by == "exeunt-terminator"
    assert end.at >= end.cancel_observed_at + timedelta(seconds=8)
    # NATS is still dead: what was begun is brought to its end all the same.
    assert await own_mesh.stop("terminator") == 0
    assert all("deletionTimestamp" in step_run["metadata"] for step_run in await call.step_runs())


async def test_a_terminator_that_starts_without_nats_ends_runs_too(
    kubernetes: Kubernetes, namespace: str, own_nats: NatsServer, own_mesh: Mesh
) -> None:
    await own_nats.stop()
    own_mesh.ready_within = 90.0  # which it is not before NATS is there
    starting = asyncio.create_task(own_mesh.start("terminator", 0, **QUICK, EXEUNT_BUS_PATIENCE=PATIENCE))
    call = await Call.start(kubernetes, namespace, shutdown_timeout="2s")
    await call.cancel()
    await call.wait_finished(60)
    await own_nats.start()
    await starting


async def test_a_run_that_is_opted_in_again_ends_without_the_bus_too(
    kubernetes: Kubernetes, namespace: str, own_nats: NatsServer, own_mesh: Mesh
) -> None:
    """Nobody arms the deadline of a run that is opted out at its cancel: sweeps find it."""
    await start_all(own_mesh, EXEUNT_BUS_PATIENCE=PATIENCE, EXEUNT_SWEEP_INTERVAL="500ms")
    out = {bobrapet.ENABLED: "false"}
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1s", annotations=out)
    await own_nats.kill()
    await wait_until_told(own_mesh, "runs are ended from here")
    await call.cancel()
    await call.wait_observed(30)
    await asyncio.sleep(2)
    assert (await call.get())["status"]["phase"] == "Running"
    await call.annotate({bobrapet.ENABLED: None})
    await call.wait_finished(30)
