"""Malformed things are reported and set aside; the rest goes on."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.js.errors import NotFoundError

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import STORY, STORY_RUN, Kubernetes
from actors.recorder import State
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

SETTINGS = {"EXEUNT_SHUTDOWN_TIMEOUT": "1s"}

Stopped = Callable[..., Awaitable[State]]


async def test_an_unparsable_story_timeout_is_reported_and_the_default_is_used(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="five minutes")
    await call.cancel()
    await stopped(call)
    recorded = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert recorded.snapshot is not None
    assert (recorded.snapshot.shutdown.rule, recorded.snapshot.shutdown.timeout) == ("default", "1s")
    (rejected,) = recorded.snapshot.shutdown.rejected
    assert (rejected.rule, rejected.value) == ("Story policy", "five minutes")
    assert "no Go duration" in rejected.why


async def test_an_unparsable_annotation_gives_way_to_the_story(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(
        kubernetes,
        namespace,
        annotations={"exeunt.bubustack.io/shutdown-timeout": "-1s"},
        shutdown_timeout="700ms",
    )
    await call.cancel()
    await stopped(call)
    recorded = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert recorded.snapshot is not None
    assert (recorded.snapshot.shutdown.rule, recorded.snapshot.shutdown.timeout) == ("Story policy", "700ms")
    assert "negative" in recorded.snapshot.shutdown.rejected[0].why


async def test_a_run_whose_story_is_missing_is_known_by_its_streams(
    kubernetes: Kubernetes, namespace: str, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace)
    await kubernetes.delete(STORY, namespace, call.story)
    await call.cancel()
    await call.signal_topology_terminated()
    assert (await stopped(call)).written_by == "exeunt-terminator"


async def test_a_run_that_has_neither_a_story_nor_streams_is_left_alone(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    silent = Staging(connected=False)
    unknown = await Call.start(kubernetes, namespace, "unknown", story="no-such-story", staging=silent)
    await unknown.cancel()
    later = await Call.start(kubernetes, namespace)  # its deadline is the default, as the other's would be
    await later.cancel()
    await stopped(later)
    assert (await unknown.get())["status"]["phase"] == "Running"
    assert len(await unknown.step_runs()) == len(silent.steps)
    assert await bystander.history(unknown.uid) == []


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-24T18:13:00+24:00"])
async def test_a_time_that_kubernetes_takes_and_nobody_can_read_stops_nothing(
    kubernetes: Kubernetes, namespace: str, stopped: Stopped, text: str
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    operator = kubernetes.acting_as("bobrapet")
    await operator.patch_status(STORY_RUN, namespace, call.name, {"startedAt": text, "finishedAt": text})
    await call.signal_topology_terminated()
    await call.cancel()
    assert (await stopped(call)).written_by == "exeunt-terminator"


GARBAGE = {
    "no CloudEvent": ({}, b"\xff\x00", "no CloudEvent"),
    "foreign": (
        {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "com.example.other"},
        b"{}",
        "no event that this version",
    ),
    "undecodable": (
        {
            "ce-specversion": "1.0",
            "ce-id": "1",
            "ce-source": "/x",
            "ce-type": "io.bubustack.exeunt.cancel-requested.v1",
        },
        b'{"run": 1}',
        "does not decode",
    ),
}


@pytest.mark.parametrize(("headers", "body", "reason"), GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_message_that_is_no_event_is_set_aside_with_its_reason(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    stopped: Stopped,
    headers: dict[str, str],
    body: bytes,
    reason: str,
) -> None:
    subject = f"exeunt.runs.{namespace}.nobody.uid.first.cancel-requested"
    garbage = await bystander.streams.publish(subject, body, headers=headers)
    call = await Call.start(kubernetes, namespace)  # the rest goes on
    await call.cancel()
    await everyone_leaves(bystander.streams, call)
    await stopped(call)
    for consumer in ("terminator", "timeout-scheduler"):
        letter = await _letter(bystander, consumer, garbage.seq)
        assert reason in letter["Exeunt-Reason"]
        assert letter["Exeunt-Subject"] == subject


async def test_a_schedule_that_is_no_deadline_is_set_aside_with_its_reason(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    subject = f"exeunt.deadlines.due.{namespace}.nobody.uid.first"
    garbage = await bystander.streams.publish(subject, b'{"at": "soon"}')
    call = await Call.start(kubernetes, namespace)  # the rest goes on
    await call.cancel()
    await stopped(call)
    assert (EventType.DEADLINE_REACHED, "deadline") in await bystander.outcomes(call.uid)
    letter = await _letter(bystander, "timeout-scheduler-due", garbage.seq)
    assert "does not decode" in letter["Exeunt-Reason"]
    assert letter["Exeunt-Subject"] == subject


async def _letter(bystander: Bystander, consumer: str, sequence: int) -> dict[str, str]:
    """The headers of the dead letter of one message."""
    async with asyncio.timeout(10):
        at = 1
        while True:
            try:
                subject = f"exeunt.deadletters.{consumer}"
                message = await bystander.streams.get_msg("DEADLETTERS", seq=at, subject=subject, next=True)
            except NotFoundError:
                await asyncio.sleep(0.01)
                continue
            headers = message.headers or {}
            if headers["Exeunt-Sequence"] == str(sequence):
                return headers
            at = (message.seq or 0) + 1
