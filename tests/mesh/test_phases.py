"""A canceled call ends from every phase that is not an end, and from none at all."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import Kubernetes
from actors.operator import CANCELED
from actors.recorder import State
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

STAGINGS = {
    "absent": Staging(phase=None),
    "Pending": Staging(phase="Pending"),
    "Running": Staging(phase="Running"),
    "Paused": Staging(phase="Paused"),
    "Blocked": Staging(phase="Blocked"),
    "Scheduling": Staging(phase="Scheduling"),
    "no status": Staging(status=False),
}

Stopped = Callable[..., Awaitable[State]]


def assert_canceled(end: State, staging: Staging) -> None:
    status = end.run["status"]
    assert (status["phase"], status["message"], status["observedGeneration"]) == ("Finished", CANCELED, 2)
    assert {condition["type"]: (condition["status"], condition["reason"]) for condition in status["conditions"]} == {
        "Ready": ("False", "Canceled"),
        "Progressing": ("False", "Canceled"),
        "Degraded": ("False", "Canceled"),
    }
    assert "finishedAt" in status
    assert ("duration" in status) == ("startedAt" in status) == (staging.phase is not None and staging.status)
    assert ("stepStates" in status) == staging.status  # what else the status held is still there
    assert end.written_by == "exeunt-terminator"


@pytest.mark.parametrize("staging", STAGINGS.values(), ids=STAGINGS.keys())
async def test_a_call_in_any_phase_ends_when_everyone_leaves(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, staging: Staging
) -> None:
    call = await Call.start(kubernetes, namespace, staging=staging)
    assert (await call.get()).get("status", {}).get("phase") == (staging.phase if staging.status else None)
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await everyone_leaves(bystander.streams, call)
    assert_canceled(await stopped(call), staging)


async def test_a_call_in_any_phase_ends_at_its_deadline(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    calls = [
        await Call.start(kubernetes, namespace, f"call-{number}", staging=staging, shutdown_timeout="500ms")
        for number, staging in enumerate(STAGINGS.values())
    ]
    await asyncio.gather(*(call.cancel() for call in calls))
    for call in calls:
        assert_canceled(await stopped(call), call.staging)
        assert (EventType.DEADLINE_REACHED, "deadline") in await bystander.outcomes(call.uid)
