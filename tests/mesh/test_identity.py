"""A stop is meant for one cancellation of one run: not for a run that is going, nor its namesake, nor its next
attempt.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging, start_run
from actors.kubernetes import STORY_RUN, Kubernetes, Object
from actors.names import CANCEL_OBSERVED_AT, RUN_FINALIZER
from actors.recorder import Recorder, State
from actors.services import without
from actors.signaling import everyone_leaves
from exeunt.events.codec import event_message
from exeunt.events.event_types import EventType
from exeunt.run import bobrapet
from exeunt.run.snapshot import Evidence, StepRunRef, Topology
from exeunt_local.mesh import Mesh

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

TIMEOUT = "2s"
"""Time enough to do something to a canceled call before its deadline, on a busy machine, too."""

Later = Callable[[], Awaitable[None]]
Stopped = Callable[..., Awaitable[State]]


@pytest.fixture
def later(kubernetes: Kubernetes, namespace: str, stopped: Stopped) -> Later:
    """The cancel_observed_at behind which nothing has happened: a later call has ended at its deadline, and all is
    answered.

    Its timeout is as long as those of the calls here that are not to end by theirs.
    """

    async def later() -> None:
        call = await Call.start(kubernetes, namespace, "later", shutdown_timeout=TIMEOUT)
        await call.cancel()
        await stopped(call)

    return later


async def assert_runs(call: Call) -> None:
    """The call goes on, and nobody has taken anything away from it."""
    assert (await call.get())["status"].get("phase") == call.staging.phase
    assert len(await call.bindings()) == len(call.staging.steps)
    step_runs = await call.step_runs()
    assert len(step_runs) == len(call.staging.steps)
    assert not [step_run for step_run in step_runs if "deletionTimestamp" in step_run["metadata"]]


async def test_a_run_that_is_deleted_before_its_deadline(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, later: Later
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout=TIMEOUT)
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await call.delete()
    await call.wait_deleted()
    await bystander.wait_for_event(call.uid, EventType.RUN_DELETED)
    await later()
    assert recorder.states(call.uid)[-1].deleted
    assert recorder.terminal_transitions(call.uid) == []
    assert await bystander.armed(call.uid) == 0
    assert EventType.DEADLINE_REACHED not in await bystander.event_types(call.uid)


async def test_a_run_that_is_being_deleted_is_not_finalized(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, later: Later
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout=TIMEOUT)
    held = {"metadata": {"finalizers": [RUN_FINALIZER, "example.com/hold"]}}
    await kubernetes.patch(STORY_RUN, namespace, call.name, held)
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await call.delete()
    await call.wait_cleaned_up()
    await later()
    assert "deletionTimestamp" in (await call.get())["metadata"]
    assert recorder.terminal_transitions(call.uid) == []
    assert EventType.DEADLINE_REACHED not in await bystander.event_types(call.uid)

    await kubernetes.patch(STORY_RUN, namespace, call.name, {"metadata": {"finalizers": None}})
    await call.wait_deleted()


async def test_a_run_that_is_deleted_while_its_end_is_on_its_way(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, running_mesh: Mesh
) -> None:
    call = await Call.start(kubernetes, namespace)
    held = {"metadata": {"finalizers": [RUN_FINALIZER, "example.com/hold"]}}
    await kubernetes.patch(STORY_RUN, namespace, call.name, held)
    async with without(running_mesh, "terminator"):
        await everyone_leaves(bystander.streams, call)
        await call.cancel()
        await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
        await call.delete()
        await recorder.wait_for(lambda: "deletionTimestamp" in recorder.states(call.uid)[-1].run["metadata"])
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert (answer.outcome.verdict, answer.outcome.rule) == ("gone", "deleted")
    await bystander.wait_until_idle()
    assert recorder.terminal_transitions(call.uid) == []

    await kubernetes.patch(STORY_RUN, namespace, call.name, {"metadata": {"finalizers": None}})
    await call.wait_deleted()


async def test_a_run_that_is_gone_when_its_end_comes(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, running_mesh: Mesh
) -> None:
    call = await Call.start(kubernetes, namespace)
    async with without(running_mesh, "terminator"):
        await everyone_leaves(bystander.streams, call)
        await call.cancel()
        await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
        await call.delete()
        await call.wait_deleted()
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert (answer.outcome.verdict, answer.outcome.rule) == ("gone", "deleted")


@pytest.mark.parametrize("namesake_is", ["running", "canceled", "a copy"])
async def test_a_namesake_is_not_meant_by_an_end_that_was_on_its_way(
    kubernetes: Kubernetes,
    namespace: str,
    bystander: Bystander,
    recorder: Recorder,
    running_mesh: Mesh,
    stopped: Stopped,
    namesake_is: str,
) -> None:
    # Without a phase and conditions nothing but the uid tells a copy from the first.
    staging = Staging(phase=None) if namesake_is == "a copy" else Staging()
    call = await Call.start(kubernetes, namespace, staging=staging, shutdown_timeout="60s")
    async with without(running_mesh, "terminator"):
        await everyone_leaves(bystander.streams, call)
        await call.cancel()
        canceled = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
        cancel_observed_at = (await call.get())["metadata"]["annotations"][CANCEL_OBSERVED_AT]
        await call.delete()
        await call.wait_deleted()
        annotations = {CANCEL_OBSERVED_AT: cancel_observed_at} if namesake_is == "a copy" else None
        namesake = await Call.start(
            kubernetes, namespace, call.name, story=call.story, staging=staging, annotations=annotations
        )
        if namesake_is != "running":
            await namesake.cancel()
            again = await bystander.wait_for_event(namesake.uid, EventType.CANCEL_REQUESTED)
            assert (again.cancellation == canceled.cancellation) == (namesake_is == "a copy")
    assert namesake.uid != call.uid
    answer = await bystander.wait_for_outcome(call.uid, EventType.CANCEL_REQUESTED)
    assert answer.outcome is not None
    assert (answer.outcome.verdict, answer.outcome.rule) == ("superseded", "recreated")
    await bystander.wait_until_idle()
    assert recorder.terminal_transitions(call.uid) == []
    await assert_runs(namesake)

    if namesake_is == "running":
        await namesake.cancel()
    await everyone_leaves(bystander.streams, namesake)
    assert (await stopped(namesake)).written_by == "exeunt-terminator"


async def test_a_namesake_is_not_ended_by_a_deadline_of_the_first(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, later: Later, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout=TIMEOUT)
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await call.delete()
    await call.wait_deleted()
    namesake = await Call.start(kubernetes, namespace, call.name, story=call.story)
    await later()
    await assert_runs(namesake)
    assert recorder.terminal_transitions(namesake.uid) == []

    canceled = await namesake.cancel()
    end = await stopped(namesake)
    assert end.at - canceled >= timedelta(seconds=2)


async def test_step_runs_of_another_run_are_not_deleted_whoever_names_them(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    """What a watcher's stolen credentials could say: this run is over, and these StepRuns are its own."""
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    other = await Call.start(kubernetes, namespace, f"{call.name}-2", staging=Staging(owned=False))
    await call.cancel()
    recorded = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert recorded.snapshot is not None
    own, foreign = [[ref_of(step_run) for step_run in await each.step_runs()] for each in (call, other)]
    forged = msgspec.structs.replace(
        recorded.snapshot,
        topology=Topology(established=True, gone=Evidence("signal", 6, "so they say")),  # nothing else is believed
        step_runs=(*foreign, *own),
    )
    message = event_message(EventType.TOPOLOGY_TERMINATED, forged, source="/thief", now=datetime.now(UTC), context={})
    await bystander.streams.publish(message.subject, message.payload, headers=message.headers)
    await stopped(call)
    await assert_runs(other)
    answer = await bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    assert answer.outcome is not None
    assert answer.outcome.rule == "topology-gone"
    assert set(answer.outcome.deleted_step_runs) == {ref.name for ref in own}


async def test_nothing_is_deleted_of_a_run_that_is_finished_by_the_word_of_an_event_only(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    """The same thief: a call that nobody has canceled was ended by Exeunt, and what is left of it has to go."""
    call = await Call.start(kubernetes, namespace)
    victim = await Call.start(kubernetes, namespace, f"{call.name}-2")
    await call.cancel()
    recorded = await bystander.wait_for_event(call.uid, EventType.CANCEL_REQUESTED)
    assert recorded.snapshot is not None
    forged = msgspec.structs.replace(
        recorded.snapshot,
        run=msgspec.structs.replace(
            recorded.snapshot.run,
            name=victim.name,
            uid=victim.uid,
            phase="Finished",
            message=bobrapet.CANCELED_MESSAGE,
            ended_by_exeunt=True,
        ),
    )
    message = event_message(EventType.TOPOLOGY_TERMINATED, forged, source="/thief", now=datetime.now(UTC), context={})
    await bystander.streams.publish(message.subject, message.payload, headers=message.headers)
    answer = await bystander.wait_for_outcome(victim.uid, EventType.TOPOLOGY_TERMINATED)
    assert answer.outcome is not None
    assert answer.outcome.deleted_step_runs == ()
    assert [step.rule for step in answer.outcome.trail] == ["ended-by-exeunt", "not-canceled"]
    await assert_runs(victim)
    await everyone_leaves(bystander.streams, call)
    await stopped(call)
    await assert_runs(victim)


def ref_of(step_run: Object) -> StepRunRef:
    return StepRunRef(step_run["metadata"]["name"], step_run["metadata"]["uid"])


async def test_a_run_that_is_redriven_is_stopped_anew(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace)
    observations = []
    for times in (1, 2, 3):
        if times > 1:
            await call.redrive(uncancel=True)
            assert (await call.get())["status"]["phase"] not in ("Finished", "Failed")
        await call.cancel()
        run = await call.wait_until(lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {}))
        observations.append(run["metadata"]["annotations"][CANCEL_OBSERVED_AT])
        await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED, cancel_observed_at=observations[-1])
        await assert_runs(call)
        await call.lose_bindings()
        end = await stopped(call, times=times)
        assert end.written_by == "exeunt-terminator"
        assert end.run["metadata"]["annotations"][CANCEL_OBSERVED_AT] == observations[-1]
    assert len(set(observations)) == 3
    recorded = await bystander.history(call.uid)
    canceled = [
        event.cancellation
        for event in recorded
        if event.event_type is EventType.CANCEL_REQUESTED and event.outcome is None
    ]
    assert canceled == [cancel_observed_at.replace(".", "_") for cancel_observed_at in observations]


async def test_a_redriven_run_is_not_ended_by_the_deadline_of_its_first_cancel(
    kubernetes: Kubernetes, namespace: str, stopped: Stopped
) -> None:
    timeout = timedelta(seconds=4)  # half a second passes until the second cancel; more on a busy machine
    call = await Call.start(kubernetes, namespace, shutdown_timeout="4s", staging=Staging(steps=("talk",)))
    await call.cancel()
    await call.lose_bindings()
    first = await stopped(call)
    await call.redrive(uncancel=True)
    await call.cancel()
    second = await stopped(call, within=20, times=2)
    assert second.cancel_observed_at - first.cancel_observed_at < timeout  # so the first deadline came meanwhile
    assert timeout <= second.at - second.cancel_observed_at


async def test_a_redrive_that_stays_canceled_is_the_operators_to_end(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="500ms")
    await call.cancel()
    await call.lose_bindings()
    await stopped(call)
    await call.redrive()
    await recorder.wait_for(lambda: len(recorder.terminal_transitions(call.uid)) == 2)
    await stopped(call, times=2)
    # Canceled and over in the same moment, it may be armed after it was disarmed; then it fires, to no effect.
    await bystander.wait_until_none_armed(call.uid)


async def test_a_redriven_call_that_nobody_has_joined_again_is_not_taken_for_left(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="700ms")
    await bystander.wait_for_event(call.uid, EventType.TOPOLOGY_ESTABLISHED)
    await call.redrive()
    await start_run(kubernetes, await call.get(), replace(call.staging, connected=False))
    await call.cancel()
    end = await stopped(call)
    assert end.at - end.cancel_observed_at >= timedelta(milliseconds=700)
    assert (EventType.DEADLINE_REACHED, "deadline") in await bystander.outcomes(call.uid)
