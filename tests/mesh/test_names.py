"""Names and labels that have misled others: a stop takes what belongs to its run, and nothing else."""

from collections.abc import Awaitable, Callable

import pytest

from actors import hub
from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import STEP_RUN, Kubernetes
from actors.names import label_value
from actors.recorder import State
from actors.services import without
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

Stopped = Callable[..., Awaitable[State]]


async def taken_at_once(call: Call, bystander: Bystander) -> set[str]:
    """The StepRuns that the stop itself has deleted, before anybody looked for what was left."""
    answer = await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    assert answer.outcome is not None
    return set(answer.outcome.deleted_step_runs)


@pytest.mark.parametrize(("name", "other_name"), [("a--b", "a-b"), ("a-b", "a--b")])
async def test_runs_that_share_a_label_value_are_reported_apart(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, name: str, other_name: str
) -> None:
    assert label_value(name) == label_value(other_name)
    canceled = await Call.start(kubernetes, namespace, name)
    # Without owners, so that nothing but the name tells whose they are.
    other = await Call.start(kubernetes, namespace, other_name, staging=Staging(owned=False))
    await canceled.cancel()
    await bystander.wait_until_answered(canceled.uid, EventType.CANCEL_REQUESTED)
    await everyone_leaves(bystander.streams, canceled)
    assert (await stopped(canceled)).written_by == "exeunt-terminator"
    assert await taken_at_once(canceled, bystander) == {f"{name}-listen", f"{name}-speak"}
    left = await other.step_runs()
    assert len(left) == len(await other.bindings()) == len(other.staging.steps)
    assert not [step_run for step_run in left if "deletionTimestamp" in step_run["metadata"]]
    assert (await other.get())["status"]["phase"] == "Running"
    assert EventType.CANCEL_REQUESTED not in await bystander.event_types(other.uid)


async def test_a_name_longer_than_a_label_may_be(kubernetes: Kubernetes, namespace: str, stopped: Stopped) -> None:
    call = await Call.start(kubernetes, namespace, "x" * 63 + "-and-much-longer-than-a-label-may-be")
    await call.cancel()
    await call.signal_topology_terminated()
    assert (await stopped(call)).written_by == "exeunt-terminator"


async def test_a_name_with_dots(kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped) -> None:
    # References forbid dots, so bobrapet can give such a run no StepRuns; it ends it by itself.
    story = (await Call.start(kubernetes, namespace, "template")).story
    call = await Call.start(kubernetes, namespace, "call.with.dots", story=story, staging=Staging(steps=()))
    await call.cancel()
    await stopped(call)
    recorded = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert recorded.subject.split(".")[3] == "call_with_dots"


async def test_step_runs_without_an_owner_go_with_their_run(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace)
    await hub.create_step_run(kubernetes, namespace, call.name, "answer")
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await everyone_leaves(bystander.streams, call)
    await stopped(call)
    assert await taken_at_once(call, bystander) == {"call-listen", "call-speak", "call-answer"}


async def taken_late(call: Call, bystander: Bystander) -> set[str]:
    """Those that were deleted because they were left."""
    answer = await bystander.wait_for_outcome(call.uid, EventType.STEP_RUNS_LEFT)
    assert answer.outcome is not None
    assert answer.outcome.rule == "ended-by-exeunt"
    return set(answer.outcome.deleted_step_runs)


async def test_a_late_step_run_without_an_owner_is_deleted_when_it_has_been_left_for_a_while(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, running_mesh: Mesh, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace)
    async with without(running_mesh, "terminator"):
        await call.cancel()
        await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
        await everyone_leaves(bystander.streams, call)
        await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        await hub.create_step_run(kubernetes, namespace, call.name, "late")  # of which that event cannot tell
    await stopped(call)
    assert await taken_at_once(call, bystander) == {"call-listen", "call-speak"}
    assert await taken_late(call, bystander) == {"call-late"}
    assert await kubernetes.list(STEP_RUN, namespace) == []


async def test_step_runs_that_come_long_after_the_end_and_while_no_watcher_runs_are_deleted_too(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, running_mesh: Mesh, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace)
    await call.lose_bindings()
    await call.cancel()
    await stopped(call)
    for late in ("late", "later"):
        async with without(running_mesh, "watcher"):
            await hub.create_step_run(kubernetes, namespace, call.name, late)
        await call.wait_cleaned_up(30)
    event_types = await bystander.event_types(call.uid)
    assert event_types.count(EventType.STEP_RUNS_LEFT) == 2  # the second says what the first could not know


async def test_a_terminal_step_run_with_a_live_binding_goes_too(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, staging=Staging(step_phases={"speak": "Succeeded"}))
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await everyone_leaves(bystander.streams, call)
    await stopped(call)
    assert await taken_at_once(call, bystander) == {"call-listen", "call-speak"}
    assert await call.bindings() == []
