"""A canceled call that nobody leaves ends at its shutdown deadline: never early, whatever its drain window is."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import STORY, Kubernetes
from actors.recorder import State
from exeunt.clock import format_duration
from exeunt.events.event_types import EventType

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

SETTINGS = {"EXEUNT_SHUTDOWN_TIMEOUT": "900ms", "EXEUNT_ACK_WAIT": "10s"}
LATE = timedelta(seconds=5)
"""Milliseconds in truth, which `make bench` measures; the rest is for a busy machine, but for no redelivery."""

RULE = "exeunt.bubustack.io/shutdown-timeout"
WEAKER = "1m0s"
"""What the rules say that must not win."""

Stopped = Callable[..., Awaitable[State]]


async def assert_ended_at_deadline(call: Call, end: State, bystander: Bystander, rule: str, after: timedelta) -> None:
    canceled = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert canceled.snapshot is not None
    assert canceled.snapshot.shutdown.rule == rule
    answer = await bystander.wait_for_outcome(call.uid, EventType.DEADLINE_REACHED)
    assert answer.outcome is not None
    assert answer.outcome.rule == "deadline"
    assert end.written_by == "exeunt-terminator"

    assert after <= end.at - end.cancel_observed_at < after + LATE
    # Never early, not even by the milliseconds that the write took: by the clock before it was sent.
    assert answer.outcome.stop_latency_ms is not None
    assert answer.outcome.stop_latency_ms >= after / timedelta(milliseconds=1)


async def test_each_rule_in_turn_says_when_a_call_ends(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    calls = {
        "StoryRun annotation": await Call.start(
            kubernetes,
            namespace,
            "run-annotation",
            annotations={RULE: "1.1s"},
            story_annotations={RULE: WEAKER},
            shutdown_timeout=WEAKER,
        ),
        "Story annotation": await Call.start(
            kubernetes, namespace, "story-annotation", story_annotations={RULE: "1300ms"}, shutdown_timeout=WEAKER
        ),
        "Story policy": await Call.start(kubernetes, namespace, "story-policy", shutdown_timeout="1.5s"),
        "default": await Call.start(kubernetes, namespace, "default"),
    }
    timeouts = [timedelta(seconds=seconds) for seconds in (1.1, 1.3, 1.5, 0.9)]
    await asyncio.gather(*(call.cancel() for call in calls.values()))
    ends = await asyncio.gather(*map(stopped, calls.values()))
    for (rule, call), end, timeout in zip(calls.items(), ends, timeouts, strict=True):
        await assert_ended_at_deadline(call, end, bystander, rule, timeout)


async def test_a_story_that_asks_for_no_delay_needs_no_evidence(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    """What the README tells users of LiveKit first: everything stays, and the Story says for how long."""
    timeouts = {"0s": timedelta(0), "1s": timedelta(seconds=1)}
    calls = [
        await Call.start(kubernetes, namespace, f"call-{text}", story_annotations={RULE: text}, shutdown_timeout=WEAKER)
        for text in timeouts
    ]
    await asyncio.gather(*(call.cancel() for call in calls))
    ends = await asyncio.gather(*map(stopped, calls))
    for call, end, timeout in zip(calls, ends, timeouts.values(), strict=True):
        await assert_ended_at_deadline(call, end, bystander, "Story annotation", timeout)


async def test_an_edit_of_the_story_moves_no_deadline(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1s")
    await call.cancel()
    await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    longer = {"spec": {"policy": {"timeouts": {"gracefulShutdownTimeout": WEAKER}}}}
    await kubernetes.patch(STORY, namespace, call.story, longer)
    await assert_ended_at_deadline(call, await stopped(call), bystander, "Story policy", timedelta(seconds=1))


async def test_a_deadline_is_exact_below_the_tick_of_the_schedules(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    timeouts = [timedelta(milliseconds=milliseconds) for milliseconds in (0, 1, 100, 299, 301, 400)]
    calls = [
        await Call.start(kubernetes, namespace, f"call-{number}", shutdown_timeout=format_duration(timeout))
        for number, timeout in enumerate(timeouts)
    ]
    await asyncio.gather(*(call.cancel() for call in calls))
    ends = await asyncio.gather(*map(stopped, calls))
    for call, end, timeout in zip(calls, ends, timeouts, strict=True):
        await assert_ended_at_deadline(call, end, bystander, "Story policy", timeout)


async def test_a_deadline_on_its_way_is_dropped_when_the_call_has_ended(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    # So near a deadline is beyond disarming: its message is held in the timeout-scheduler from the cancel on.
    held = timedelta(milliseconds=300)
    in_time: list[bool] = []
    while len(in_time) < 5 or not (any(in_time) or len(in_time) == 30):  # a busy machine may be late with many
        call = await Call.start(kubernetes, namespace, f"call-{len(in_time)}", shutdown_timeout="300ms")
        await call.lose_bindings()
        await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
        await call.cancel()
        end = await stopped(call)  # and until the held message is answered
        in_time.append(end.at - end.cancel_observed_at < held)
        if in_time[-1]:
            assert EventType.DEADLINE_REACHED not in await bystander.event_types(call.uid)
    assert any(in_time)


async def test_a_drain_window_that_is_shorter_is_the_operators_own_end(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, drain=1, shutdown_timeout=WEAKER)
    await call.cancel()
    end = await stopped(call)
    # It has deleted the StepRuns: the topology is gone, and either may write the end. Not before that, though.
    assert end.at - end.cancel_observed_at >= timedelta(seconds=1)
    assert await bystander.armed(call.uid) == 0
    assert EventType.DEADLINE_REACHED not in await bystander.event_types(call.uid)
