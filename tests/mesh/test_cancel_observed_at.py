"""Before bobrapet's cancel_observed_at nothing is written, for a bounded time; then Exeunt goes on without it (contract
2.6).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from actors.operator import Operator
from actors.recorder import Recorder, State
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

SETTINGS = {"EXEUNT_FENCE_WAIT": "2s"}
FENCE_WAIT = timedelta(seconds=2)
"""Time enough to stamp a late cancel_observed_at, on a busy machine, too."""
LATE = timedelta(seconds=4)
"""A second to which Kubernetes cuts the time of the cancel, one between two looks at overdue cancel_observed_at; a busy
machine.
"""

Stopped = Callable[..., Awaitable[State]]


@pytest.fixture(scope="module")
async def operator(kubernetes: Kubernetes) -> AsyncIterator[Operator]:
    """An operator that gets to no cancel, as when an RBAC error comes before it; it cleans up after StepRuns."""
    async with Operator(kubernetes, requeue=0.2, cancel_observed_at=False) as operator:
        yield operator


async def test_a_late_cancel_observed_at_is_waited_for(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace)
    await everyone_leaves(bystander.streams, call)
    await call.cancel()
    answer = await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    assert answer.outcome is not None
    assert answer.outcome.rule in ("unfenced", "not-canceled")
    assert recorder.terminal_transitions(call.uid) == []
    observed_at = datetime.now(UTC)
    cancel_observed_at = await call.observe_cancel()
    end = await stopped(call)
    assert end.written_by == "exeunt-terminator"
    assert timedelta(0) <= end.at - observed_at < LATE
    assert end.run["metadata"]["annotations"][CANCEL_OBSERVED_AT] == cancel_observed_at
    assert not [
        state for state in recorder.states(call.uid) if state.phase == "Finished" and not _cancel_observed(state)
    ]


def _cancel_observed(state: State) -> bool:
    return CANCEL_OBSERVED_AT in state.run["metadata"].get("annotations", {})


async def test_cancel_observed_at_that_never_comes_is_waited_for_no_longer_than_that(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    # Where the run has no annotations at all, there is not even a place to look for cancel_observed_at in.
    annotated = {"example.com/any": "thing"}
    bare = Staging(status=False)
    calls = [
        await Call.start(kubernetes, namespace, "running"),
        await Call.start(kubernetes, namespace, "bare", staging=bare),
        await Call.start(kubernetes, namespace, "running-annotated", annotations=annotated),
        await Call.start(kubernetes, namespace, "bare-annotated", annotations=annotated, staging=bare),
    ]
    canceled = {call.uid: await call.cancel() for call in calls}
    await everyone_leaves(bystander.streams, *calls)
    for call in calls:
        end = await stopped(call)
        assert end.written_by == "exeunt-terminator"
        assert FENCE_WAIT <= end.at - canceled[call.uid] < FENCE_WAIT + LATE
        assert not _cancel_observed(end)
        recorded = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
        assert recorded.snapshot is not None
        assert recorded.snapshot.run.observation_overdue


async def test_without_cancel_observed_at_the_deadline_counts_from_the_cancel(
    kubernetes: Kubernetes, namespace: str, stopped: Stopped
) -> None:
    timeout = timedelta(seconds=3)  # beyond the wait for cancel_observed_at
    call = await Call.start(kubernetes, namespace, shutdown_timeout="3s")
    canceled = await call.cancel()
    end = await stopped(call)
    assert end.written_by == "exeunt-terminator"
    assert timeout <= end.at - canceled < timeout + LATE


async def test_without_cancel_observed_at_a_deadline_that_has_passed_comes_with_the_end_of_the_wait(
    kubernetes: Kubernetes, namespace: str, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1ms")
    canceled = await call.cancel()
    end = await stopped(call)
    assert end.written_by == "exeunt-terminator"
    assert FENCE_WAIT <= end.at - canceled < FENCE_WAIT + LATE


async def test_a_redrive_grants_the_time_for_cancel_observed_at_anew(
    kubernetes: Kubernetes, namespace: str, recorder: Recorder, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1ms")
    canceled = await call.cancel()
    await call.observe_cancel()
    await stopped(call)
    # The wait for cancel_observed_at of the first cancel is over, whatever second the cancel was cut to.
    await asyncio.sleep((canceled + FENCE_WAIT + timedelta(seconds=1.1) - datetime.now(UTC)).total_seconds())
    # Somebody else asks for the redrive; the same writer's entry in managedFields would be as new as the redrive.
    redriven = datetime.now(UTC)
    await replace(call, kubernetes=kubernetes.acting_as("another")).redrive()
    await recorder.wait_for(lambda: len(recorder.terminal_transitions(call.uid)) == 2)
    second = await stopped(call, times=2)
    assert second.written_by == "exeunt-terminator"
    assert second.at - redriven >= FENCE_WAIT
