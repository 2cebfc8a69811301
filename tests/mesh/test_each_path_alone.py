"""A stop is learned of in three ways: the watch sees it, a schedule fires, a sweep finds it. Each alone suffices."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging, start_run
from actors.kubernetes import STORY, STORY_RUN, Kubernetes
from actors.names import RUN_FINALIZER
from actors.recorder import Recorder
from actors.services import QUICK, start_all
from exeunt.events.event_types import EventType
from exeunt.run.bobrapet import SHUTDOWN_TIMEOUT
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator")

NO_SWEEP = {**QUICK, "EXEUNT_SWEEP_INTERVAL": "1h"}
SWEEP = {**QUICK, "EXEUNT_SWEEP_INTERVAL": "500ms"}


async def assert_ended_once(call: Call, recorder: Recorder, within: float = 20) -> timedelta:
    """How long after cancel_observed_at it ended."""
    await call.wait_finished(within)
    await call.wait_cleaned_up(within)
    await recorder.wait_for(lambda: len(recorder.terminal_transitions(call.uid)) > 0)
    (end,) = recorder.terminal_transitions(call.uid)
    assert end.written_by == "exeunt-terminator"
    return end.at - end.cancel_observed_at


async def test_the_watch_alone(kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, recorder: Recorder) -> None:
    await asyncio.gather(*(own_mesh.start(service, 0, **NO_SWEEP) for service in ("watcher", "terminator")))
    call = await Call.start(kubernetes, namespace, shutdown_timeout="30s")
    await call.cancel()
    await call.lose_bindings()
    assert await assert_ended_once(call, recorder) < timedelta(seconds=15)


async def test_the_schedule_alone(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder
) -> None:
    await start_all(own_mesh, 0, **NO_SWEEP)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1500ms")
    await call.cancel()
    await listener.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    await listener.wait_until_armed(call.uid)
    await own_mesh.kill("watcher")
    await call.lose_bindings()  # which nobody sees
    after = await assert_ended_once(call, recorder)
    assert timedelta(milliseconds=1500) <= after < timedelta(seconds=10)


async def test_the_sweep_alone(kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, recorder: Recorder) -> None:
    await asyncio.gather(*(own_mesh.start(service, 0, **SWEEP) for service in ("timeout-scheduler", "terminator")))
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1s")
    await call.cancel()
    after = await assert_ended_once(call, recorder)
    assert after >= timedelta(seconds=1)


@pytest.fixture
async def narrow(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> dict[str, str]:
    """The settings of a timeout-scheduler that may look at one namespace only."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "narrow", "namespace": namespace}
    await control_plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    rules = [
        {"apiGroups": ["runs.bubustack.io"], "resources": ["storyruns"], "verbs": ["get", "list"]},
        {"apiGroups": ["bubustack.io"], "resources": ["stories"], "verbs": ["get"]},
    ]
    await control_plane.apply({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
    await control_plane.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "narrow"},
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        }
    )
    kubeconfig = await control_plane.kubeconfig_for("narrow", namespace, folder=tmp_path)
    return {"KUBECONFIG": str(kubeconfig), "EXEUNT_NAMESPACES": namespace}


async def with_a_story_of_others(kubernetes: Kubernetes, namespace: str) -> None:
    reference = {"name": "story", "namespace": "others"}
    run = await kubernetes.create(STORY_RUN, namespace, "odd", {"storyRef": reference}, finalizers=[RUN_FINALIZER])
    await start_run(kubernetes, run, Staging())


async def too_large(kubernetes: Kubernetes, namespace: str) -> None:
    await Call.start(kubernetes, namespace, "odd")
    large = "x" * (2**20 - 50)  # with all the rest it is more than NATS takes
    await kubernetes.patch_status(STORY_RUN, namespace, "odd", {"message": large})


@pytest.fixture(params=[with_a_story_of_others, too_large])
async def odd(request: pytest.FixtureRequest, kubernetes: Kubernetes, namespace: str) -> AsyncIterator[str]:
    """A run that cannot be looked after, once it is canceled."""
    await request.param(kubernetes, namespace)
    yield "odd"
    await kubernetes.delete(STORY_RUN, namespace, "odd")


async def test_a_run_that_cannot_be_looked_after_does_not_keep_the_sweep_from_the_others(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, narrow: dict[str, str], recorder: Recorder, odd: str
) -> None:
    await own_mesh.start("terminator", 0, **SWEEP)
    await own_mesh.start("timeout-scheduler", 0, **SWEEP, **narrow)
    await kubernetes.patch(STORY_RUN, namespace, odd, {"spec": {"cancelRequested": True}})
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1s")
    await call.cancel()
    after = await assert_ended_once(call, recorder)
    assert timedelta(seconds=1) <= after < timedelta(seconds=8)
    assert (await kubernetes.get(STORY_RUN, namespace, odd))["status"]["phase"] == "Running"


async def test_a_stop_whose_story_and_schedule_are_gone(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder
) -> None:
    await start_all(own_mesh, 0, **SWEEP)
    silent = await Call.start(
        kubernetes,
        namespace,
        "silent",
        staging=Staging(connected=False),
        story="no-such-story",
        annotations={SHUTDOWN_TIMEOUT: "1s"},
    )
    call = await Call.start(kubernetes, namespace, shutdown_timeout="3s")
    await silent.cancel()
    await call.cancel()
    await listener.wait_until_armed(call.uid)
    await kubernetes.delete(STORY, namespace, call.story)
    await listener.streams.purge_stream("DEADLINES")
    after = await assert_ended_once(call, recorder)
    assert timedelta(seconds=3) <= after < timedelta(seconds=12)
    # Of that one nobody knows that it streams.
    assert (await silent.get())["status"]["phase"] == "Running"
    assert await listener.history(silent.uid) == []
    assert await listener.armed(silent.uid) == 0


@pytest.mark.parametrize("watching", [True, False], ids=["with-watcher", "without-watcher"])
async def test_the_streams_are_deleted_while_a_stop_is_pending(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder, *, watching: bool
) -> None:
    await start_all(own_mesh, 0, **SWEEP)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="3s")
    await call.cancel()
    await listener.wait_until_armed(call.uid)
    if not watching:
        await own_mesh.kill("watcher")
    for stream in ("RUNS", "DEADLINES"):
        await listener.streams.delete_stream(stream)
    after = await assert_ended_once(call, recorder)
    assert timedelta(seconds=3) <= after < timedelta(seconds=15)


async def test_the_streams_are_deleted_and_then_everyone_leaves(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder
) -> None:
    await start_all(own_mesh, 0, **SWEEP)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    await call.cancel()
    await listener.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    for stream in ("RUNS", "DEADLINES", "DEADLETTERS", "SIGNALS"):
        await listener.streams.delete_stream(stream)
    await call.lose_bindings()
    assert await assert_ended_once(call, recorder) < timedelta(seconds=15)


@pytest.mark.parametrize("restarted", ["watcher", "timeout-scheduler"])
async def test_the_deadline_is_the_one_of_the_cancel_whatever_is_restarted_and_lost(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder, restarted: str
) -> None:
    await start_all(own_mesh, 0, **SWEEP)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="6s")
    await call.cancel()
    await listener.wait_until_armed(call.uid)
    await own_mesh.stop(restarted)
    sooner = {"spec": {"policy": {"timeouts": {"gracefulShutdownTimeout": "0s"}}}}
    await kubernetes.patch(STORY, namespace, call.story, sooner)
    if restarted == "timeout-scheduler":
        await listener.streams.purge_stream("DEADLINES")
    await own_mesh.start(restarted, 0, **SWEEP)
    assert await assert_ended_once(call, recorder) >= timedelta(seconds=6)
    message = [each.snapshot for each in await listener.history(call.uid) if each.snapshot and each.snapshot.deadline]
    assert {snapshot.shutdown.timeout for snapshot in message} == {"6s"}


@pytest.mark.parametrize("story", ["there", "deleted"])
async def test_the_stop_that_follows_a_dry_run_is_recorded(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder, story: str
) -> None:
    overdue = {**SWEEP, "EXEUNT_OVERDUE_AFTER": "1s"}
    await start_all(own_mesh, 0, **overdue, EXEUNT_DRY_RUN="true")
    call = await Call.start(kubernetes, namespace, shutdown_timeout="500ms")
    await call.cancel()
    dry = await listener.wait_for_outcome(call.uid, EventType.DEADLINE_REACHED)
    assert dry.outcome is not None
    assert dry.outcome.dry_run
    assert recorder.terminal_transitions(call.uid) == []
    if story == "deleted":
        await kubernetes.delete(STORY, namespace, call.story)
    await own_mesh.stop("terminator")
    await own_mesh.start("terminator", 0, **overdue)
    await assert_ended_once(call, recorder)
    await listener.wait_until_idle()
    outcomes = [recorded.outcome for recorded in await listener.history(call.uid) if recorded.outcome]
    assert [one.dry_run for one in outcomes if one.rule == "deadline"] == [True, False]


async def test_an_overdue_run_is_stopped_although_its_deadline_was_published_and_lost(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder
) -> None:
    overdue = {**SWEEP, "EXEUNT_OVERDUE_AFTER": "1s"}
    await asyncio.gather(*(own_mesh.start(service, 0, **overdue) for service in ("watcher", "timeout-scheduler")))
    call = await Call.start(kubernetes, namespace, shutdown_timeout="500ms")
    await call.cancel()
    recorded = await listener.wait_for_event(call.uid, EventType.DEADLINE_REACHED)
    # Nobody has answered it yet, and now it is gone: as when it was acknowledged by a bug, or never restored.
    await listener.streams.delete_msg("RUNS", recorded.sequence)
    await own_mesh.start("terminator", 0, **overdue)
    await assert_ended_once(call, recorder)


async def test_what_no_terminator_has_answered_yet_is_not_published_again(
    kubernetes: Kubernetes, namespace: str, own_mesh: Mesh, listener: Bystander, recorder: Recorder
) -> None:
    overdue = {**SWEEP, "EXEUNT_OVERDUE_AFTER": "1s"}
    await asyncio.gather(*(own_mesh.start(service, 0, **overdue) for service in ("watcher", "timeout-scheduler")))
    call = await Call.start(kubernetes, namespace, shutdown_timeout="500ms")
    await call.cancel()
    await listener.wait_for_event(call.uid, EventType.DEADLINE_REACHED)
    await asyncio.sleep(5)  # ten sweeps, to which it is overdue from the third on
    await own_mesh.start("terminator", 0, **overdue)
    await assert_ended_once(call, recorder)
    assert (await listener.event_types(call.uid)).count(EventType.DEADLINE_REACHED) == 1
