"""What happens between two requests of a stop: a redrive, whose StepRuns are not those that have to go; an opt-out;
conditions that others write; the write of another terminator.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import pytest

from actors.call import Call
from actors.kubernetes import STEP_RUN, STORY, STORY_RUN, Kubernetes
from actors.operator import Operator
from actors.statuses import Condition, with_condition
from core.objects import snapshot
from exeunt.bus.connection import Bus
from exeunt.events.codec import ReceivedEvent, event_message, read_event
from exeunt.events.event_types import EventType, Outcome
from exeunt.kube.client import KubeClient
from exeunt.run.bobrapet import ENABLED, FINISHED
from exeunt.run.snapshot import Evidence, Topology
from exeunt.settings import Settings
from exeunt_local.control_plane import ControlPlane
from exeunt_terminator.calls import Calls
from exeunt_terminator.commands import (
    ConditionLost,
    Delivered,
    End,
    GetRun,
    Input,
    List,
    Patch,
    Question,
    Record,
    RunRead,
    Written,
)
from exeunt_terminator.finalize import finalizing_patch
from exeunt_terminator.machine import Stopping

GONE = Topology(established=True, gone=Evidence("hub-condition", 1, "all streams have ended"))


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    yield client
    await client.close()


# So old that the run is read before anything is done.
OLD: Final = Delivered(1, 1, datetime(2026, 11, 24, tzinfo=UTC))


def published(call: Call, cancel_observed_at: str) -> ReceivedEvent:
    """The event that the call's topology is gone, as it comes from the stream."""
    known = snapshot(
        namespace=call.namespace,
        uid=call.uid,
        cancel_observed_at=cancel_observed_at,
        canceled_at=cancel_observed_at,
        topology=GONE,
        step_runs=None,
        resource_version="1",
    )
    message = event_message(EventType.TOPOLOGY_TERMINATED, known, source="/test", now=datetime.now(UTC), context={})
    return read_event({key.lower(): value for key, value in message.headers.items()}, message.payload)


async def carry_out(stopping: Stopping, calls: Calls, meanwhile: Callable[[Question], Awaitable[None]]) -> Outcome:
    """To the outcome; `meanwhile` is what happens just before each question is asked."""
    heard: Input = OLD
    while not isinstance(command := stopping.receive(heard, datetime.now(UTC)), Record):
        assert not isinstance(command, End)
        await meanwhile(command)
        heard = await calls.answer(command)
    return command.outcome


@pytest.mark.parametrize("redriven", [False, True])
async def test_step_runs_of_a_new_attempt_stay(
    kubernetes: Kubernetes, kube: KubeClient, bus: Bus, namespace: str, *, redriven: bool
) -> None:
    async with Operator(kubernetes, requeue=0.2):
        call = await Call.start(kubernetes, namespace)
        await call.signal_topology_terminated()
        await call.cancel()
        event = published(call, await call.wait_observed())

        # What it is told of StepRuns is nothing: they are listed after the write, when the redrive comes in between.
        async def redrive(asked: Question) -> None:
            if redriven and isinstance(asked, List):
                await call.redrive(uncancel=True)

        stopping = Stopping(event, dry_run=False, propagate_cancel=False)
        await carry_out(stopping, Calls(kube, bus, Settings()), redrive)
        assert stopping.written_at is not None
        left = await kubernetes.list(STEP_RUN, namespace, field_selector="spec.storyRunRef.name=call")
        assert len([each for each in left if "deletionTimestamp" not in each["metadata"]]) == (2 if redriven else 0)


@pytest.mark.parametrize(("before", "meanwhile", "left"), [(None, "false", True), (" Yes", " Yes", False)])
async def test_an_opt_out_just_before_the_write_holds(
    kubernetes: Kubernetes,
    kube: KubeClient,
    bus: Bus,
    namespace: str,
    *,
    before: str | None,
    meanwhile: str,
    left: bool,
) -> None:
    async with Operator(kubernetes, requeue=0.2):
        call = await Call.start(kubernetes, namespace)
        await call.annotate({ENABLED: before})
        await call.signal_topology_terminated()
        await call.cancel()
        event = published(call, await call.wait_observed())

        async def opt(asked: Question) -> None:
            if isinstance(asked, Patch):
                await call.annotate({ENABLED: meanwhile})

        stopping = Stopping(event, dry_run=False, propagate_cancel=False)
        outcome = await carry_out(stopping, Calls(kube, bus, Settings()), opt)
        run = await call.get()
    assert (outcome.rule, run["status"]["phase"] != FINISHED) == ("opted-out" if left else "topology-gone", left)


async def test_an_opt_out_of_its_story_holds_where_the_run_is_read_again(
    kubernetes: Kubernetes, kube: KubeClient, bus: Bus, namespace: str
) -> None:
    async with Operator(kubernetes, requeue=0.2):
        call = await Call.start(kubernetes, namespace)
        await call.signal_topology_terminated()
        await call.cancel()
        event = published(call, await call.wait_observed())

        async def opt_out(asked: Question) -> None:
            if isinstance(asked, GetRun):
                await kubernetes.patch(STORY, namespace, call.story, {"metadata": {"annotations": {ENABLED: "false"}}})

        stopping = Stopping(event, dry_run=False, propagate_cancel=False)
        outcome = await carry_out(stopping, Calls(kube, bus, Settings()), opt_out)
        run = await call.get()
    assert (outcome.rule, run["status"]["phase"] == FINISHED) == ("opted-out", False)


Told = Callable[[list[Condition], int], list[Condition]]


def telling(kind: str, status: str, reason: str) -> Told:
    """Says it with another message each time."""

    def told(conditions: list[Condition], number: int) -> list[Condition]:
        at = f"2026-11-24T18:13:{number:02}Z"
        return with_condition(conditions, kind, status, reason=reason, message=f"told {number}", at=at)

    return told


def losing(kind: str) -> Told:
    return lambda conditions, _: [each for each in conditions if each["type"] != kind]


@pytest.mark.parametrize(
    ("meanwhile", "every_time", "writes"),
    [
        pytest.param(telling("Ready", "False", "Running"), True, 1, id="one of bobrapet's"),
        pytest.param(telling("Custom", "False", "Foreign"), True, 1, id="one of others"),
        pytest.param(telling("Progressing", "True", "Running"), False, 2, id="one that was missing"),
        pytest.param(telling("Another", "True", "Foreign"), False, 2, id="a new one"),
        pytest.param(losing("Custom"), False, 2, id="one that is gone"),
    ],
)
async def test_conditions_that_others_write_between_each_read_and_write_are_kept_and_do_not_hold_it_up(
    kubernetes: Kubernetes,
    kube: KubeClient,
    bus: Bus,
    namespace: str,
    *,
    meanwhile: Told,
    every_time: bool,
    writes: int,
) -> None:
    sent: list[Patch] = []
    async with Operator(kubernetes, requeue=0.2):
        call = await Call.start(kubernetes, namespace)

        async def change(by: Told, number: int = 0) -> list[Condition]:
            conditions = by((await call.get())["status"]["conditions"], number)
            await kubernetes.patch_status(STORY_RUN, namespace, call.name, {"conditions": conditions})
            return conditions

        await call.signal_topology_terminated()
        await change(losing("Progressing"))
        await change(telling("Custom", "True", "Foreign"))
        await call.cancel()
        event = published(call, await call.wait_observed())
        found: list[Condition] = []

        async def tell(asked: Question) -> None:
            nonlocal found
            if isinstance(asked, Patch):
                sent.append(asked)
                if every_time or len(sent) == 1:
                    found = await change(meanwhile, len(sent))

        stopping = Stopping(event, dry_run=False, propagate_cancel=False)
        outcome = await carry_out(stopping, Calls(kube, bus, Settings()), tell)
        ended = (await call.get())["status"]
    assert (outcome.rule, ended["phase"], len(sent)) == ("topology-gone", FINISHED, writes)
    ours = ("Ready", "Progressing", "Degraded")
    assert {each["type"]: each["reason"] for each in ended["conditions"] if each["type"] in ours} == dict.fromkeys(
        ours, "Canceled"
    )
    others = [each for each in ended["conditions"] if each["type"] not in ours]
    assert others == [each for each in found if each["type"] not in ours]
    assert len(ended["conditions"]) == len(ours) + len(others)


async def test_of_two_that_write_the_same_in_the_same_second_each_knows_who_has_written(
    kubernetes: Kubernetes, kube: KubeClient, bus: Bus, namespace: str
) -> None:
    async with Operator(kubernetes, requeue=0.2):
        call = await Call.start(kubernetes, namespace)
        await call.cancel()
        get = GetRun(published(call, await call.wait_observed()).snapshot.run, None)
        first, second = Calls(kube, bus, Settings()), Calls(kube, bus, Settings())
        read = await first.answer(get)
        assert isinstance(read, RunRead)
        assert not read.own
        patch = Patch(read.run, finalizing_patch(read.run, datetime.now(UTC)))
        assert await first.answer(patch) == Written()
        assert isinstance(await second.answer(patch), ConditionLost)
        for calls, own in ((first, True), (second, False)):
            read = await calls.answer(get)
            assert isinstance(read, RunRead)
            assert (read.own, read.run.ended_by_exeunt) == (own, True)
