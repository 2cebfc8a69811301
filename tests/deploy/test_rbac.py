"""Each service may do what it does, and nothing else: what is granted is held against the audit log of real stops."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from actors.call import Call
from actors.installation import DEPLOY, NAMESPACE, OURS, Install, Installation, Kubectl, with_components
from actors.kubernetes import STORY_RUN, Kubernetes, Object
from actors.names import CANCEL_OBSERVED_AT
from actors.operator import Operator
from actors.services import QUICK
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES

SWEEPING = {**QUICK, "EXEUNT_SWEEP_INTERVAL": "300ms"}
RUNS_LIVE_IN = "livekit-voice"
EVERYBODY = {
    ("authentication.k8s.io", "selfsubjectreviews", "create"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "create"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "create"),
    *(("certificates.k8s.io", "clustertrustbundles", verb) for verb in ("get", "list", "watch")),
}
"""What Kubernetes grants by itself: to ask about oneself, and since 1.37 to every ServiceAccount to read which
authorities the cluster trusts."""


class Right(NamedTuple):
    """One verb on one resource; `resource` may end in a subresource."""

    service: str
    group: str
    resource: str
    verb: str


@pytest.fixture(params=["evaluation", "single-namespace", "sub-stories", "events"])
async def installation(request: pytest.FixtureRequest, install: Install, tmp_path: Path) -> AsyncIterator[Installation]:
    """An overlay, or a component with rights of its own on top of the one for evaluation."""
    overlay = DEPLOY / "overlays" / request.param
    if not overlay.is_dir():
        overlay = with_components(tmp_path, request.param)
    async with install(overlay) as installation:
        yield installation


async def test_what_is_granted_is_what_is_used(
    installation: Installation, cluster: ControlPlane, kubernetes: Kubernetes, request: pytest.FixtureRequest
) -> None:
    log = cluster.folder / "audit.log"
    start = log.stat().st_size
    async with Operator(kubernetes, requeue=0.2):
        await asyncio.gather(*(installation.start(service, 0, **SWEEPING) for service in SERVICES))
        await stop_in_every_way(kubernetes)
        for server in installation.nats:
            await server.kill()
        await stop_without_the_bus(kubernetes)
        used, refused = audited(log, start)
        async with asyncio.timeout(20):
            while used != await granted(installation.kubectl) and not refused:
                await asyncio.sleep(0.05)  # watches may still be beginning
                used, refused = audited(log, start)
    assert refused == []
    assert used == await granted(installation.kubectl)
    cluster_wide = await installation.kubectl.get("clusterrolebindings", "-l", OURS)
    assert bool(cluster_wide) == ("single-namespace" not in request.node.name)


async def stop_in_every_way(kubernetes: Kubernetes) -> None:
    """Stops that need every right between them."""
    gone, up, parent = await asyncio.gather(
        Call.start(kubernetes, RUNS_LIVE_IN, unique("gone"), shutdown_timeout="20s"),
        Call.start(kubernetes, RUNS_LIVE_IN, unique("up"), shutdown_timeout="1s"),
        Call.start(kubernetes, RUNS_LIVE_IN, unique("parent"), shutdown_timeout="20s"),
    )
    await start_child(kubernetes, parent)
    for call in (gone, up, parent):
        await call.cancel()
    for call in (gone, parent):
        await call.wait_until(lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {}))
        await call.lose_bindings()
    for call in (gone, up, parent):
        run = await call.wait_finished()
        assert run["status"]["phase"] == "Finished"
        await call.wait_cleaned_up()


async def stop_without_the_bus(kubernetes: Kubernetes) -> None:
    """A stop that needs the terminator's own watches: its topology is up when they begin, and goes."""
    call = await Call.start(kubernetes, RUNS_LIVE_IN, unique("alone"), shutdown_timeout="20s")
    await call.cancel()
    await call.wait_finished(40)
    await call.wait_cleaned_up(20)


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:6]}"


async def start_child(kubernetes: Kubernetes, parent: Call) -> None:
    """A sub-story of the call; canceled only where cancels are passed on."""
    owner = {"apiVersion": "runs.bubustack.io/v1alpha1", "kind": "StoryRun", "name": parent.name, "uid": parent.uid}
    await kubernetes.create(
        STORY_RUN,
        parent.namespace,
        f"{parent.name}-child",
        {"storyRef": {"name": parent.story}},
        labels={"bubustack.io/parent-storyrun": parent.name},
        ownerReferences=[owner],
    )


async def granted(kubectl: Kubectl) -> set[Right]:
    """The rights in the Roles and ClusterRoles that are applied, each of which is bound to its own ServiceAccount."""
    return {
        Right(role["metadata"]["name"].removeprefix("exeunt-"), group, resource, verb)
        for role in await kubectl.get("clusterroles,roles", "--all-namespaces", "-l", OURS)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def audited(log: Path, start: int) -> tuple[set[Right], list[str]]:
    """What the services asked for since then, and what they were refused."""
    used, refused = set(), []
    for service, event in events(log, start):
        reference = event["objectRef"]
        resource = "/".join(part for part in (reference["resource"], reference.get("subresource")) if part)
        used.add(Right(service, reference["apiGroup"], resource, event["verb"]))
        if event["responseStatus"]["code"] in (401, 403):
            refused.append(f"{service}: {event['responseStatus']['message']}")
    return used, refused


def events(log: Path, start: int) -> Iterator[tuple[str, Object]]:
    with log.open() as lines:
        lines.seek(start)
        for line in lines:
            if line.endswith("\n"):
                event: Object = json.loads(line)
                yield event["user"]["username"].removeprefix(f"system:serviceaccount:{NAMESPACE}:exeunt-"), event


@pytest.mark.parametrize("service", SERVICES)
async def test_every_verb_on_everything_else_is_refused(install: Install, kubernetes: Kubernetes, service: str) -> None:
    """Asked of the kube-apiserver itself, for each resource that it serves."""
    async with install(DEPLOY / "overlays" / "evaluation") as installation:
        rights = await granted(installation.kubectl)
        allowed = await everything_allowed(kubernetes, service)
    assert allowed == {right for right in rights if right.service == service}


async def everything_allowed(kubernetes: Kubernetes, service: str) -> set[Right]:
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    asked = [
        Right(service, group, resource, verb)
        for group, resource in await served(kubernetes)
        for verb in (*verbs, "impersonate", "escalate", "bind")
    ]
    assert len(asked) > 500
    answers: list[bool] = []
    for start in range(0, len(asked), 32):
        answers += await asyncio.gather(*(is_allowed(kubernetes, right) for right in asked[start : start + 32]))
    allowed = {right for right, yes in zip(asked, answers, strict=True) if yes}
    return {right for right in allowed if (right.group, right.resource, right.verb) not in EVERYBODY}


async def served(kubernetes: Kubernetes) -> list[tuple[str, str]]:
    """Each group and resource, subresources too, that the kube-apiserver knows."""
    groups = (await kubernetes._send("GET", "/apis"))["groups"]
    versions = {"": "/api/v1"} | {
        group["name"]: f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups
    }
    return [
        (group, resource["name"])
        for group, path in versions.items()
        for resource in (await kubernetes._send("GET", path))["resources"]
    ]


async def is_allowed(kubernetes: Kubernetes, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb}
    user = f"system:serviceaccount:{NAMESPACE}:exeunt-{right.service}"
    groups = ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"]
    review = await kubernetes._send(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": {**attributes, "namespace": RUNS_LIVE_IN}},
        },
    )
    return bool(review["status"]["allowed"])


async def test_without_a_right_the_audit_log_says_so_and_the_service_is_not_ready(
    install: Install, cluster: ControlPlane
) -> None:
    log = cluster.folder / "audit.log"
    async with install(DEPLOY / "overlays" / "evaluation") as installation:
        await installation.start("watcher")
        await installation.kubectl("delete", "clusterrolebinding", "exeunt-watcher")
        start = log.stat().st_size
        async with asyncio.timeout(20):
            while not audited(log, start)[1]:  # noqa: ASYNC110 - the probe asks every 10 s
                await asyncio.sleep(0.1)
        wanted = "needed is an RBAC rule for verb get on storyruns of API group runs.bubustack.io"
        message: tuple[int, str] = (0, "")
        async with asyncio.timeout(20), aiohttp.ClientSession() as http:
            while message[0] != 503 or wanted not in message[1]:  # the log may have it before the watcher has
                await asyncio.sleep(0.05)
                async with http.get(f"{installation.mesh.url('watcher')}/readyz") as answer:
                    message = (answer.status, (await answer.json()).get("troubles", {}).get("kubernetes", ""))
