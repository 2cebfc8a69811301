"""The played operator, engine and hub write what the contract says that the real ones do."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actors import hub
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import STEP_RUN, STORY_RUN, Kubernetes, Object, key_of
from actors.names import CANCEL_OBSERVED_AT, STEP_CANCEL_REQUESTED, label_value
from actors.operator import CANCELED, Operator
from actors.recorder import Recorder
from exeunt.clock import parse_duration
from exeunt_local.control_plane import ControlPlane

A_BUSY_MACHINE = timedelta(seconds=5)
"""What it may add to anything that is done at once."""


@pytest.fixture
async def operator(kubernetes: Kubernetes) -> AsyncIterator[Operator]:
    async with Operator(kubernetes, requeue=0.2) as operator:
        yield operator


@pytest.fixture
async def recorder(kubernetes: Kubernetes, namespace: str) -> AsyncIterator[Recorder]:
    async with Recorder(kubernetes, namespace) as recorder:
        yield recorder


def cancel_observed_at_of(run: Object) -> datetime:
    return datetime.fromisoformat(run["metadata"]["annotations"][CANCEL_OBSERVED_AT])


async def wait_observed(call: Call) -> Object:
    return await call.wait_until(lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {}))


def conditions_of(run: Object) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in run["status"]["conditions"]}


async def test_a_call_is_staged_as_the_engine_leaves_it(kubernetes: Kubernetes, namespace: str) -> None:
    call = await Call.start(kubernetes, namespace)
    run = await call.get()
    assert run["status"]["phase"] == "Running"
    assert {kind: (c["status"], c["reason"]) for kind, c in conditions_of(run).items()} == {
        "Ready": ("False", "Running"),
        "Progressing": ("True", "Running"),
    }
    step_runs, bindings = await call.step_runs(), await call.bindings()
    assert [step_run["metadata"]["name"] for step_run in step_runs] == ["call-listen", "call-speak"]
    assert {step_run["metadata"]["ownerReferences"][0]["uid"] for step_run in step_runs} == {call.uid}
    assert [binding["spec"]["engramName"] for binding in bindings] == ["call-listen", "call-speak"]
    assert {binding["status"]["conditions"][0]["reason"] for binding in bindings} == {"TransportReady"}


@pytest.mark.usefixtures("operator")
async def test_the_operator_alone_takes_the_drain_window(
    kubernetes: Kubernetes, namespace: str, recorder: Recorder
) -> None:
    call = await Call.start(kubernetes, namespace, drain=1, staging=Staging(started_ago=timedelta(seconds=132)))
    before = await call.get()
    canceled = await call.cancel()
    await call.signal_topology_terminated()
    run = await call.wait_finished()
    await call.wait_cleaned_up()
    await recorder.wait_for(lambda: recorder.terminal_transitions(call.uid) != [])
    (end,) = recorder.terminal_transitions(call.uid)
    assert timedelta(milliseconds=-50) < cancel_observed_at_of(run) - canceled < A_BUSY_MACHINE
    assert timedelta(seconds=1) <= end.at - cancel_observed_at_of(run) < timedelta(seconds=1) + A_BUSY_MACHINE
    assert end.written_by == "bobrapet"
    assert all(
        step_run["metadata"]["annotations"][STEP_CANCEL_REQUESTED] == "true" for step_run in await call.step_runs()
    )

    # Field by field as in contract §2.2.
    status, at = run["status"], run["status"]["finishedAt"]
    condition = {"status": "False", "reason": "Canceled", "message": CANCELED, "observedGeneration": 2}
    ready_since = conditions_of(before)["Ready"]["lastTransitionTime"]
    assert status == {
        **before["status"],
        "phase": "Finished",
        "message": "StoryRun gracefully canceled",
        "observedGeneration": 2,
        "finishedAt": at,
        "duration": status["duration"],
        "conditions": [
            {"type": "Ready", "lastTransitionTime": ready_since, **condition},
            {"type": "Progressing", "lastTransitionTime": at, **condition},
            {"type": "Degraded", "lastTransitionTime": at, **condition},
        ],
    }
    assert re.fullmatch(r"2m\d+s", status["duration"])
    whole_seconds = datetime.fromisoformat(at) - datetime.fromisoformat(status["startedAt"])
    assert parse_duration(status["duration"]) - whole_seconds in (timedelta(0), timedelta(seconds=1))  # it is rounded
    assert timedelta(0) <= end.at - datetime.fromisoformat(at) < timedelta(seconds=1) + A_BUSY_MACHINE


@pytest.mark.usefixtures("operator")
async def test_a_stop_that_was_done_already_is_not_written_over(
    kubernetes: Kubernetes, namespace: str, recorder: Recorder
) -> None:
    call = await Call.start(kubernetes, namespace, drain=60)
    await call.cancel()
    await wait_observed(call)
    by_hand = {"phase": "Finished", "message": "by hand"}
    await kubernetes.patch_status(STORY_RUN, namespace, call.name, by_hand)
    step_runs, bindings = await call.step_runs(), await call.bindings()
    assert step_runs
    assert bindings
    for step_run in step_runs:
        await kubernetes.delete(STEP_RUN, namespace, step_run["metadata"]["name"])
    await call.wait_cleaned_up()

    # A second call that is canceled now ends after whatever the operator still had in mind for the first.
    other = await Call.start(kubernetes, namespace, "other", drain=1)
    await other.cancel()
    await recorder.wait_for(lambda: recorder.terminal_transitions(other.uid) != [])
    assert [state.written_by for state in recorder.terminal_transitions(call.uid)] == ["user"]
    assert (await call.get())["status"]["message"] == "by hand"


@pytest.mark.usefixtures("operator")
async def test_a_run_without_live_step_runs_is_finished_in_one_pass(kubernetes: Kubernetes, namespace: str) -> None:
    done = {"listen": "Succeeded", "speak": "Failed"}
    call = await Call.start(kubernetes, namespace, staging=Staging(step_phases=done))
    await call.cancel()
    run = await call.wait_finished()
    assert run["status"]["message"] == CANCELED
    assert len(await call.step_runs()) == 2


@pytest.mark.usefixtures("operator")
async def test_a_redrive_of_a_canceled_run_cancels_it_again_as_a_new_cancellation(
    kubernetes: Kubernetes, namespace: str, recorder: Recorder
) -> None:
    call = await Call.start(kubernetes, namespace, drain=1)
    await call.cancel()
    first = await call.wait_finished()
    await call.redrive()
    second = await call.wait_until(
        lambda run: (
            run["metadata"]["annotations"].get(CANCEL_OBSERVED_AT)
            not in (None, first["metadata"]["annotations"][CANCEL_OBSERVED_AT])
        )
    )
    await recorder.wait_for(lambda: len(recorder.terminal_transitions(call.uid)) == 2)
    assert second["metadata"]["uid"] == call.uid
    assert second["metadata"]["generation"] == first["metadata"]["generation"]
    assert None in [state.phase for state in recorder.states(call.uid)[3:]]


@pytest.mark.usefixtures("operator")
async def test_a_redrive_can_start_the_call_again(kubernetes: Kubernetes, namespace: str) -> None:
    call = await Call.start(kubernetes, namespace, drain=1)
    await call.cancel()
    await call.wait_finished()
    await call.redrive(uncancel=True)
    run = await call.get()
    assert run["status"]["phase"] == "Running"
    assert CANCEL_OBSERVED_AT not in run["metadata"]["annotations"]
    assert len(await call.bindings()) == 2


async def test_a_deleted_run_takes_everything_along(kubernetes: Kubernetes, namespace: str, operator: Operator) -> None:
    call = await Call.start(kubernetes, namespace)
    started = {key_of(step_run) for step_run in await call.step_runs()}
    async with asyncio.timeout(10):  # what it has not heard of yet, it cannot take along
        while not started <= operator.cache[STEP_RUN].keys():  # noqa: ASYNC110 - a cache tells nobody
            await asyncio.sleep(0.01)
    await call.delete()
    await call.wait_deleted()
    assert await call.step_runs() == []
    assert await call.bindings() == []


async def test_an_operator_that_is_stuck_stamps_nothing(kubernetes: Kubernetes, namespace: str) -> None:
    async with (
        Operator(kubernetes, cancel_observed_at=False, requeue=0.05),
        Recorder(kubernetes, namespace) as recorder,
    ):
        call = await Call.start(kubernetes, namespace, drain=0, shutdown_timeout="1ms")
        await call.cancel()
        other = await Call.start(kubernetes, namespace, "other")
        await other.delete()
        await other.wait_deleted()  # so it has been through its queue
        assert CANCEL_OBSERVED_AT not in (await call.get())["metadata"].get("annotations", {})
        assert recorder.terminal_transitions(call.uid) == []


@pytest.mark.usefixtures("operator")
async def test_the_hub_speaks_of_unfinished_runs_only(kubernetes: Kubernetes, namespace: str) -> None:
    call = await Call.start(kubernetes, namespace, drain=1)
    await call.signal_topology_terminated()
    degraded = conditions_of(await call.get())["Degraded"]
    assert (degraded["status"], degraded["reason"]) == ("True", "TopologyTerminated")
    await call.cancel()
    finished = await call.wait_finished()
    await call.signal_topology_terminated()
    assert (await call.get())["status"] == finished["status"]


@pytest.mark.usefixtures("operator")
async def test_a_late_step_run_of_the_hub_goes_with_the_drain(kubernetes: Kubernetes, namespace: str) -> None:
    call = await Call.start(kubernetes, namespace, drain=1)
    late = await hub.create_step_run(kubernetes, namespace, call.name, "late")
    assert "ownerReferences" not in late["metadata"]
    assert len(await call.step_runs()) == 3
    await call.cancel()
    await call.wait_cleaned_up()


async def test_names_that_share_a_label_share_the_operators_cancel(kubernetes: Kubernetes, namespace: str) -> None:
    assert label_value("a--b") == label_value("a-b") == "a-b"
    async with Operator(kubernetes, drain_timeout=0.3, requeue=0.05):
        canceled = await Call.start(kubernetes, namespace, "a--b")
        neighbour = await Call.start(kubernetes, namespace, "a-b", staging=Staging(steps=("talk",)))
        await canceled.cancel()
        await neighbour.wait_cleaned_up()  # bobrapet's fault, played faithfully (contract §3.1)
        assert (await neighbour.get())["status"]["phase"] == "Running"


async def test_long_names_are_cut_and_hashed(kubernetes: Kubernetes, namespace: str) -> None:
    call = await Call.start(kubernetes, namespace, "x" * 100)
    names = [item["metadata"]["name"] for item in [*await call.step_runs(), *await call.bindings()]]
    assert len(set(names)) == 4
    assert max(map(len, names)) == 63


@pytest.mark.parametrize("phase", [None, "Pending", "Paused", "Blocked", "Scheduling"])
async def test_every_unfinished_phase_can_be_staged(kubernetes: Kubernetes, namespace: str, phase: str | None) -> None:
    staging = Staging(phase=phase, trace={"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "sampled": True})
    call = await Call.start(kubernetes, namespace, staging=staging)
    status = (await call.get())["status"]
    assert status.get("phase") == phase
    assert ("conditions" in status) == (phase is not None)
    assert status["trace"]["sampled"]


async def test_odd_calls(kubernetes: Kubernetes, namespace: str) -> None:
    bare = await Call.start(kubernetes, namespace, "bare", staging=Staging(status=False, owned=False, connected=False))
    assert "status" not in await bare.get()
    assert [step_run["metadata"].get("ownerReferences") for step_run in await bare.step_runs()] == [None, None]
    assert await bare.bindings() == []
    await bare.cancel()
    cancel_observed_at = await bare.observe_cancel(datetime(2026, 11, 24, 18, 13, 32, tzinfo=UTC))
    assert cancel_observed_at_of(await bare.get()) == datetime.fromisoformat(cancel_observed_at)
    batch = await Call.start(kubernetes, namespace, "batch", pattern="batch")
    await batch.lose_bindings()
    assert await batch.bindings() == []


async def test_actors_survive_a_restart_of_the_apiserver(
    control_plane: ControlPlane, kubernetes: Kubernetes, namespace: str
) -> None:
    async with Operator(kubernetes, requeue=0.1), Recorder(kubernetes, namespace) as recorder:
        call = await Call.start(kubernetes, namespace, drain=1)
        await control_plane.kill_apiserver()
        await control_plane.start_apiserver()
        await call.cancel()
        await recorder.wait_for(lambda: recorder.terminal_transitions(call.uid) != [])
        await call.wait_cleaned_up()
        assert len(recorder.terminal_transitions(call.uid)) == 1
