"""What is none of Exeunt's business is left alone, also when it looks just like a stop.

Nothing happening is asserted behind cancel_observed_at: a later call has ended at its deadline, which is as long as
those of the calls that are left alone, and every event has been answered.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta

import pytest
from nats.js import JetStreamContext

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import STORY, STORY_RUN, Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from actors.recorder import State
from actors.services import without
from actors.signaling import EVERY_EVIDENCE, everyone_leaves
from exeunt.events.event_types import EventType, Verdict
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

DEADLINE = "300ms"
SHORT = {"exeunt.bubustack.io/shutdown-timeout": DEADLINE}
OPTED_OUT = {"exeunt.bubustack.io/enabled": "false"}

Untouched = Callable[..., Awaitable[None]]
Stopped = Callable[..., Awaitable[State]]


@pytest.fixture
async def untouched(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> AsyncIterator[Untouched]:
    """Asserts that Exeunt had every occasion to touch a call, and did not; `deadline` is the call's.

    Afterwards the calls are deleted: or the operator would end them when their drain is over, in the middle of
    another module's tests.
    """
    calls: list[Call] = []

    async def untouched(call: Call, deadline: str = DEADLINE) -> None:
        calls.append(call)
        phase = (await call.get()).get("status", {}).get("phase")
        later = await Call.start(kubernetes, namespace, "later", shutdown_timeout=deadline)
        await later.cancel()
        await stopped(later)

        run, step_runs = await call.get(), await call.step_runs()
        assert run["status"].get("phase") == phase
        assert not [entry for entry in run["metadata"]["managedFields"] if entry["manager"].startswith("exeunt")]
        assert len(step_runs) == 2
        assert not [step_run for step_run in step_runs if "deletionTimestamp" in step_run["metadata"]]
        history = await bystander.history(call.uid)
        assert {recorded.outcome.verdict for recorded in history if recorded.outcome} <= {
            Verdict.LEAVE,
            Verdict.ALREADY_TERMINAL,
        }
        assert EventType.DEADLINE_REACHED not in [recorded.event_type for recorded in history]
        assert await bystander.armed(call.uid) == 0

    yield untouched
    for call in calls:
        await call.delete()
        await call.wait_deleted()


@pytest.mark.parametrize("leave", EVERY_EVIDENCE.values(), ids=EVERY_EVIDENCE.keys())
async def test_a_call_that_nobody_canceled(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    untouched: Untouched,
    leave: Callable[[JetStreamContext, Call], Awaitable[None]],
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout=DEADLINE)
    await leave(bystander.streams, call)
    await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
    await untouched(call)


async def test_a_batch_run(kubernetes: Kubernetes, namespace: str, bystander: Bystander, untouched: Untouched) -> None:
    run = await Call.start(kubernetes, namespace, pattern="batch", shutdown_timeout=DEADLINE)
    await run.signal_topology_terminated()
    await run.lose_bindings()
    await untouched(run)
    assert await bystander.history(run.uid) == []


async def test_a_canceled_batch_run_is_ended_by_the_operator(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, untouched: Untouched
) -> None:
    run = await Call.start(kubernetes, namespace, pattern="batch", shutdown_timeout="1m", annotations=SHORT)
    await run.cancel()
    await run.lose_bindings()
    await untouched(run)
    sooner = {"spec": {"policy": {"timeouts": {"gracefulShutdownTimeout": "3s"}}}}
    await kubernetes.patch(STORY, namespace, run.story, sooner)  # or the operator might have been faster than we
    finished = await run.wait_finished()
    cancel_observed_at = datetime.fromisoformat(finished["metadata"]["annotations"][CANCEL_OBSERVED_AT])
    assert datetime.fromisoformat(finished["status"]["finishedAt"]) - cancel_observed_at > timedelta(
        seconds=2
    )  # whole seconds
    assert not [entry for entry in finished["metadata"]["managedFields"] if entry["manager"].startswith("exeunt")]
    assert await bystander.history(run.uid) == []


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Finished", "Timeout"])
async def test_a_run_that_is_over(kubernetes: Kubernetes, namespace: str, untouched: Untouched, phase: str) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout=DEADLINE)
    await kubernetes.patch_status(STORY_RUN, namespace, call.name, {"phase": phase})
    await call.cancel()
    await call.lose_bindings()
    await untouched(call)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Finished"])
async def test_a_run_that_has_ended_by_itself_when_its_stop_comes(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, running_mesh: Mesh, untouched: Untouched, phase: str
) -> None:
    deadline = "2s"  # not before it has ended by itself
    call = await Call.start(kubernetes, namespace, shutdown_timeout=deadline)
    await everyone_leaves(bystander.streams, call)
    async with without(running_mesh, "terminator"):
        await call.cancel()
        await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
        await kubernetes.acting_as("bobrapet").patch_status(STORY_RUN, namespace, call.name, {"phase": phase})
        await bystander.wait_for_event(call.uid, EventType.RUN_TERMINAL)
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert (answer.outcome.verdict, answer.outcome.rule) == (Verdict.ALREADY_TERMINAL, "terminal")
    await untouched(call, deadline)


@pytest.mark.parametrize("who", ["run", "Story"])
async def test_a_call_that_opted_out(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, untouched: Untouched, who: str
) -> None:
    call = await Call.start(
        kubernetes,
        namespace,
        shutdown_timeout=DEADLINE,
        annotations=OPTED_OUT if who == "run" else None,
        story_annotations=OPTED_OUT if who == "Story" else None,
    )
    await call.cancel()
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert answer.outcome.rule == "opted-out"
    await everyone_leaves(bystander.streams, call)
    await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    await untouched(call)


async def test_a_call_whose_story_is_opted_out_before_its_deadline(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, untouched: Untouched
) -> None:
    deadline = "5s"
    call = await Call.start(kubernetes, namespace, shutdown_timeout=deadline)
    await call.cancel()
    await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    await kubernetes.patch(STORY, namespace, call.story, {"metadata": {"annotations": OPTED_OUT}})
    await untouched(call, deadline)
