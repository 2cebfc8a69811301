"""Kubernetes Events keep to the API's limits, and what has no room is let go. `mesh` has the API server's word."""

import json
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from exeunt.events.event_types import Decided, Outcome, Verdict
from exeunt.kube.client import KubeClient
from exeunt.run.snapshot import RunState
from exeunt_local.control_plane import ControlPlane
from exeunt_terminator.kubernetes_events import KubernetesEvents, event_of

NOW = datetime(2026, 11, 24, 18, 14, tzinfo=UTC)
RUN = RunState(namespace="voice", name="call", uid="uid", resource_version="1", generation=2, attempt="first")
OUTCOME = Outcome(
    cause_sequence=1,
    trail=(Decided("", Verdict.FINALIZE, "deadline", "the run is canceled and its shutdown deadline has passed"),),
    deleted_step_runs=("call-listen", "call-speak"),
)


def answered(verdict: Verdict, rule: str = "deadline", why: str = "because") -> Outcome:
    return replace(OUTCOME, trail=(Decided("", verdict, rule, why),))


def test_an_event_says_who_ended_the_run_and_why() -> None:
    event = json.loads(event_of(RUN, OUTCOME, NOW))
    assert (event["type"], event["action"], event["reason"]) == ("Normal", "Finalize", "ShutdownDeadlineReached")
    assert event["note"] == (
        "Ended by Exeunt: the run is canceled and its shutdown deadline has passed;"
        " StepRuns deleted: call-listen, call-speak"
    )
    assert event["regarding"] == {
        "apiVersion": "runs.bubustack.io/v1alpha1", "kind": "StoryRun", "namespace": "voice", "name": "call",
        "uid": "uid",
    }  # fmt: skip


def test_a_refused_write_is_a_warning() -> None:
    event = json.loads(event_of(RUN, answered(Verdict.FAILED, "refused", "so"), NOW))
    assert (event["type"], event["reason"], event["note"]) == ("Warning", "WriteRefused", "Not ended by Exeunt: so")


def test_limits_of_the_api_are_kept() -> None:
    long = replace(OUTCOME, deleted_step_runs=tuple(f"step-{number}" for number in range(1000)))
    event = json.loads(event_of(replace(RUN, name="x" * 253), long, NOW))
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["note"]) <= 1024


def test_the_same_end_is_the_same_event_and_another_is_not() -> None:
    def name(run: RunState, outcome: Outcome = OUTCOME) -> str:
        return str(json.loads(event_of(run, outcome, NOW))["metadata"]["name"])

    others = [replace(RUN, uid="another"), replace(RUN, cancel_observed_at="2026-11-24T18:13:32Z")]
    assert name(RUN) == name(RUN, replace(OUTCOME, deleted_step_runs=()))
    assert len({name(RUN), *map(name, others), name(RUN, answered(Verdict.FAILED))}) == 4


@pytest.mark.parametrize(
    ("enabled", "verdict", "reported"),
    [(True, Verdict.FINALIZE, 1), (True, Verdict.FAILED, 1), (True, Verdict.WAIT, 0), (False, Verdict.FINALIZE, 0)],
)
async def test_ends_are_reported_and_nothing_else(
    control_plane: ControlPlane, *, enabled: bool, verdict: Verdict, reported: int
) -> None:
    kube = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    events = KubernetesEvents(kube, enabled=enabled)
    events.publish(RUN, answered(verdict))
    assert events._queue.qsize() == reported
    await kube.close()


async def test_a_queue_that_is_full_holds_nobody_up(control_plane: ControlPlane) -> None:
    kube = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    events = KubernetesEvents(kube, enabled=True)
    for _ in range(300):  # nobody takes them out
        events.publish(RUN, OUTCOME)
    assert events._queue.qsize() == 256
    await kube.close()
