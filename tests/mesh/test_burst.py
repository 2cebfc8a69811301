"""Many calls canceled in the same second, with two instances of each service: each ends, and ends once."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.engine import Staging
from actors.kubernetes import STEP_RUN, Kubernetes, Object
from actors.recorder import Recorder
from actors.services import start_all
from exeunt.events.event_types import EventType, Verdict
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator", "pairs")

CALLS = 500
AT_ONCE = 24


@pytest.fixture
async def pairs(
    control_plane: ControlPlane, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    """Two of each service. The played operator may take its time to stamp 500 cancel_observed_at: nobody goes on
    without.
    """
    patient = {"EXEUNT_LOG_LEVEL": "warning", "EXEUNT_FENCE_WAIT": "5m"}
    async with Mesh(tmp_path_factory.mktemp("mesh"), control_plane=control_plane, nats_url=nats_server.url) as mesh:
        await start_all(mesh, 0, **patient)
        await start_all(mesh, 1, **patient)
        yield mesh


@pytest.mark.timeout(240)
async def test_five_hundred_calls_canceled_in_the_same_second(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, recorder: Recorder
) -> None:
    slots = asyncio.Semaphore(AT_ONCE)
    template = await Call.start(kubernetes, namespace, "template", shutdown_timeout="60s")

    async def start(number: int) -> Call:
        async with slots:
            staging = Staging(steps=("listen",))
            return await Call.start(kubernetes, namespace, f"call-{number}", story=template.story, staging=staging)

    async def cancel(call: Call) -> None:
        async with slots:
            await call.cancel()

    async def leave(call: Call) -> None:
        async with slots:
            await call.signal_topology_terminated()

    calls = await asyncio.gather(*map(start, range(CALLS)))
    await asyncio.gather(*map(cancel, calls))  # as fast as one client can ask, beside all the others on its machine
    await asyncio.gather(*map(leave, calls))
    uids = {call.uid for call in calls}
    await recorder.wait_for(lambda: all(recorder.terminal_transitions(uid) for uid in uids), within=120)
    await bystander.wait_until_idle(within=60)

    for uid in uids:
        (end,) = recorder.terminal_transitions(uid)
        assert end.written_by == "exeunt-terminator"
    # Deleted is enough: the played operator takes its time to let go of 500 of them.
    left = [step_run for step_run in await kubernetes.list(STEP_RUN, namespace) if not _of(template, step_run)]
    assert [item["metadata"]["name"] for item in left if "deletionTimestamp" not in item["metadata"]] == []
    for call in calls[::25]:
        message = await bystander.history(call.uid)
        assert [one.outcome.verdict for one in message if one.outcome].count(Verdict.FINALIZE) == 1
        event_types = [one.event_type for one in message if one.outcome is None]
        assert len(event_types) == len(set(event_types))
        assert EventType.CANCEL_REQUESTED in event_types


def _of(call: Call, step_run: Object) -> bool:
    return bool(step_run["spec"]["storyRunRef"]["name"] == call.name)
