"""A canceled call ends as soon as everyone has left, in whatever order that happens, and ends once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.js import JetStreamContext

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import Kubernetes, Object
from actors.operator import CANCELED
from actors.recorder import Recorder, State
from actors.services import without
from actors.signaling import EVERY_EVIDENCE, everyone_leaves
from actors.statuses import go_duration
from exeunt.events.event_types import EventType, Verdict
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

SETTINGS = {"EXEUNT_ACK_WAIT": "10s"}
AT_ONCE = timedelta(seconds=5)
"""Milliseconds in truth, which `make bench` measures. On a busy machine still no redelivery, drain or deadline."""

Leave = Callable[[JetStreamContext, Call], Awaitable[None]]
Stopped = Callable[..., Awaitable[State]]
by_every_evidence = pytest.mark.parametrize("leave", EVERY_EVIDENCE.values(), ids=EVERY_EVIDENCE.keys())


def conditions_of(run: Object) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in run["status"]["conditions"]}


def assert_canceled(end: State, before: Object) -> None:
    """The status is what bobrapet itself would have written, field by field (contract §2.2)."""
    status, at = end.run["status"], end.run["status"]["finishedAt"]
    finished, started = datetime.fromisoformat(at), datetime.fromisoformat(before["status"]["startedAt"])
    then = conditions_of(before)
    condition = {"status": "False", "reason": "Canceled", "message": CANCELED, "observedGeneration": 2}
    degraded_since = then["Degraded"]["lastTransitionTime"] if "Degraded" in then else None
    flipped = degraded_since is None or then["Degraded"]["status"] == "True"
    assert status == {
        **before["status"],
        "phase": "Finished",
        "message": CANCELED,
        "observedGeneration": 2,
        "finishedAt": at,
        "duration": status["duration"],
        "conditions": [
            {"type": "Ready", "lastTransitionTime": then["Ready"]["lastTransitionTime"], **condition},
            {"type": "Progressing", "lastTransitionTime": at, **condition},
            {"type": "Degraded", "lastTransitionTime": at if flipped else degraded_since, **condition},
        ],
    }
    # finishedAt is cut off to whole seconds, the duration is rounded.
    elapsed = int((finished - started).total_seconds())
    assert status["duration"] in (go_duration(elapsed), go_duration(elapsed + 1))
    assert timedelta(0) <= end.at - finished < timedelta(seconds=1) + AT_ONCE


@by_every_evidence
async def test_a_canceled_call_ends_when_everyone_has_left(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, leave: Leave
) -> None:
    call = await Call.start(kubernetes, namespace, staging=Staging(started_ago=timedelta(seconds=132)))
    await call.cancel()
    await call.wait_observed()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)  # wait: the topology is up
    await bystander.wait_until_armed(call.uid)
    before = await call.get()
    assert before["status"]["phase"] == "Running"

    left = datetime.now(UTC)
    await leave(bystander.streams, call)
    end = await stopped(call)
    assert end.written_by == "exeunt-terminator"
    assert end.at - left < AT_ONCE
    assert_canceled(end, before)
    assert await call.step_runs() == []
    answer = await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    assert answer.outcome is not None
    assert answer.outcome.rule == "topology-gone"
    assert set(answer.outcome.deleted_step_runs) == {"call-listen", "call-speak"}  # by the stop itself
    assert await bystander.armed(call.uid) == 0


@by_every_evidence
async def test_a_call_that_everyone_has_left_ends_when_it_is_canceled(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, leave: Leave
) -> None:
    call = await Call.start(kubernetes, namespace)
    await leave(bystander.streams, call)
    before_cancel = await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    assert before_cancel.outcome is not None
    assert before_cancel.outcome.rule == "not-canceled"
    before = await call.get()
    assert before["status"]["phase"] == "Running"

    canceled = await call.cancel()
    end = await stopped(call)
    assert end.written_by == "exeunt-terminator"
    assert end.at - canceled < AT_ONCE
    assert_canceled(end, before)
    assert (EventType.CANCEL_REQUESTED, "topology-gone") in await bystander.outcomes(call.uid)


@by_every_evidence
async def test_a_cancel_right_after_everyone_has_left_ends_the_call(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, leave: Leave
) -> None:
    call = await Call.start(kubernetes, namespace)
    await leave(bystander.streams, call)
    canceled = await call.cancel()
    end = await stopped(call)
    assert end.written_by == "exeunt-terminator"
    assert end.at - canceled < AT_ONCE


@by_every_evidence
async def test_cancel_and_leaving_at_the_same_time_end_the_call(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, leave: Leave
) -> None:
    calls = [await Call.start(kubernetes, namespace, f"call-{number}") for number in range(5)]
    for call in calls:
        canceled, _ = await asyncio.gather(call.cancel(), leave(bystander.streams, call))
        end = await stopped(call)
        assert end.written_by == "exeunt-terminator"
        assert end.at - canceled < AT_ONCE


async def finalizing(bystander: Bystander, call: Call) -> list[EventType]:
    """The events that were answered with a finalizing write."""
    history = await bystander.history(call.uid)
    return [
        recorded.event_type for recorded in history if recorded.outcome and recorded.outcome.verdict is Verdict.FINALIZE
    ]


async def test_leaving_around_the_deadline_ends_each_call_once(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    timeout = timedelta(seconds=2)
    offsets = [timedelta(milliseconds=ms) for ms in (-1500, *range(-40, 50, 10), 1500)]  # clear cases at both ends
    calls = [
        await Call.start(kubernetes, namespace, f"call-{number}", shutdown_timeout="2s")
        for number in range(len(offsets))
    ]

    async def leave_around_the_deadline(call: Call, offset: timedelta) -> None:
        await call.cancel()
        cancel_observed_at = datetime.fromisoformat(await call.wait_observed())
        await asyncio.sleep(
            (cancel_observed_at + timeout + offset - datetime.now(UTC)).total_seconds()
        )  # the race itself
        await everyone_leaves(bystander.streams, call)

    await asyncio.gather(*map(leave_around_the_deadline, calls, offsets))
    causes = []
    for call in calls:
        end = await stopped(call)
        assert end.written_by == "exeunt-terminator"
        (cause,) = await finalizing(bystander, call)
        causes.append(cause)
    assert set(causes) == {EventType.TOPOLOGY_TERMINATED, EventType.DEADLINE_REACHED}  # so it was a race indeed


async def test_a_deadline_and_an_end_of_the_topology_that_come_together_end_the_call_once(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    running_mesh: Mesh,
    recorder: Recorder,
    stopped: Stopped,
) -> None:
    async with without(running_mesh, "terminator"):
        call = await Call.start(kubernetes, namespace, shutdown_timeout="500ms")
        await call.cancel()
        await bystander.wait_for_event(call.uid, EventType.DEADLINE_REACHED)
        await everyone_leaves(bystander.streams, call)
        await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        assert recorder.terminal_transitions(call.uid) == []
    end = await stopped(call)
    assert end.written_by == "exeunt-terminator"
    assert len(await finalizing(bystander, call)) == 1
    answered = {event_type for event_type, _ in await bystander.outcomes(call.uid)}
    assert {EventType.DEADLINE_REACHED, EventType.TOPOLOGY_TERMINATED} <= answered
