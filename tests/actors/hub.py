"""Plays the streaming hub (bobravoz-grpc): its writes on the run that streams through it.

Contract 3.4 (the condition TopologyTerminated) and 3.1 (StepRuns without an owner).
"""

from actors.kubernetes import STEP_RUN, STORY_RUN, Kubernetes, Object
from actors.names import RUN_LABEL, STEP_RUN_FINALIZER, TERMINAL, compose_name, label_value
from actors.statuses import now, with_condition

TERMINATED = "streaming topology terminated: all streaming steps disconnected"


async def signal_topology_terminated(kubernetes: Kubernetes, namespace: str, run: str) -> None:
    """The last stream of all steps has ended. Says nothing of a run that is over, as the hub does."""
    kubernetes = kubernetes.acting_as("bobravoz-grpc")
    found = await kubernetes.get(STORY_RUN, namespace, run)
    status = found.get("status", {})
    if status.get("phase") in TERMINAL:
        return
    conditions = with_condition(
        status.get("conditions", []), "Degraded", "True", reason="TopologyTerminated", message=TERMINATED, at=now()
    )
    # The whole array, from the hub's copy: the last writer wins (contract §9.2).
    await kubernetes.patch_status(STORY_RUN, namespace, run, {"conditions": conditions})


async def create_step_run(kubernetes: Kubernetes, namespace: str, run: str, step: str) -> Object:
    """A batch step that a packet set off: the run's label and name, but no ownerReference."""
    return await kubernetes.acting_as("bobravoz-grpc").create(
        STEP_RUN,
        namespace,
        compose_name(run, step),
        {"storyRunRef": {"name": run}, "stepId": step},
        labels={RUN_LABEL: label_value(run), "bubustack.io/hybrid": "true"},
        finalizers=[STEP_RUN_FINALIZER],
    )
