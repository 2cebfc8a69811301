"""A terminator that may not write: each view says so from the stream alone, and the stop ends once it may."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

from actors.bystander import Bystander
from actors.call import Call
from actors.command import exeunt
from actors.kubernetes import Kubernetes
from actors.services import start_all
from exeunt.events.event_types import EventType
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

RBAC: Final = Path(__file__).parents[2] / "deploy" / "base" / "rbac.yaml"


@pytest.fixture
async def role(control_plane: ControlPlane) -> AsyncIterator[dict[str, Any]]:
    """The terminator's ClusterRole as it is deployed, and again after the test."""
    (role,) = [
        document
        for document in yaml.safe_load_all(RBAC.read_text())
        if (document["kind"], document["metadata"]["name"]) == ("ClusterRole", "exeunt-terminator")
    ]
    yield role
    await control_plane.apply(role)


async def test_a_write_that_is_forbidden_is_reported_with_its_attempt_and_done_once_it_is_allowed(
    kubernetes: Kubernetes,
    namespace: str,
    own_nats: NatsServer,
    own_mesh: Mesh,
    listener: Bystander,
    control_plane: ControlPlane,
    role: dict[str, Any],
) -> None:
    await start_all(own_mesh)
    call = await Call.start(kubernetes, namespace, shutdown_timeout="60s")
    rules = [rule for rule in role["rules"] if rule["resources"] != ["storyruns/status"]]
    await control_plane.apply({**role, "rules": rules})
    await call.cancel()
    await listener.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED, within=30)
    await call.signal_topology_terminated()

    async def answers(count: int, last: str) -> list[str]:
        """The rules that decided on the topology's end, once there are so many and the last is that one."""
        async with asyncio.timeout(60):
            while True:
                rules = [
                    rule
                    for event_type, rule in await listener.outcomes(call.uid)
                    if event_type is EventType.TOPOLOGY_TERMINATED
                ]
                if len(rules) >= count and rules[-1] == last:
                    return rules
                await asyncio.sleep(0.1)

    await answers(3, "refused")  # attempts 1, 2 and 4
    run = f"{namespace}/{call.name}"
    reported = await asyncio.gather(
        exeunt(own_nats, "runs"), exeunt(own_nats, "timeline", run), exeunt(own_nats, "explain", run)
    )
    for recorded in (" ".join(ran.out.split()) for ran in reported):
        assert 'cannot patch resource "storyruns/status"' in recorded
        assert "attempt 4, the next at 20" in recorded
        assert ", late by " in recorded

    await control_plane.apply(role)
    await call.wait_finished(within=60)
    assert set((await answers(4, "topology-gone"))[:-1]) == {"refused"}
    checked = await exeunt(own_nats, "replay", run, "--check")
    assert (checked.code, checked.err) == (0, "")
    runs = await exeunt(own_nats, "runs", "-n", namespace)
    assert "finalized, late by " in runs.out
    assert "topology-gone (hub-condition)" in runs.out
