"""Outcomes that the stream will not take: the stops that they tell of are done all the same."""

from typing import Any, Final

import msgspec
import nats
import pytest

from actors import hub
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import Kubernetes
from actors.services import start_all
from exeunt.events.event_types import EventType
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator")

EVENTS_PUBLISHED: Final = "exeunt.runs.*.*.*.*.*"
OUTCOMES: Final = "exeunt.runs.*.*.*.*.outcome.*"


async def refuse_outcomes(own_nats: NatsServer) -> None:
    """They come to a stream that takes nothing above ten bytes; events are stored as before."""
    async with await nats.connect(own_nats.url) as connection:

        async def api(call: str, request: dict[str, Any]) -> dict[str, Any]:
            reply = await connection.request(f"$JS.API.STREAM.{call}", msgspec.json.encode(request), timeout=5)
            answer: dict[str, Any] = msgspec.json.decode(reply.data)
            assert "error" not in answer
            return answer

        runs = await api("INFO.RUNS", {})
        await api("UPDATE.RUNS", runs["config"] | {"subjects": [EVENTS_PUBLISHED]})
        await api("CREATE.REFUSING", {"name": "REFUSING", "subjects": [OUTCOMES], "max_msg_size": 10})


async def test_a_stop_is_done_although_its_outcome_is_refused(
    kubernetes: Kubernetes, namespace: str, own_nats: NatsServer, own_mesh: Mesh
) -> None:
    await start_all(own_mesh)
    await refuse_outcomes(own_nats)
    terminator = own_mesh.pid("terminator")
    call, other = [await Call.start(kubernetes, namespace, name) for name in ("call", "other")]
    for each in (call, other):
        await each.lose_bindings()
        await each.cancel()
    await call.wait_finished()
    await hub.create_step_run(kubernetes, namespace, call.name, "late")
    async with Bystander(own_nats.url) as bystander:
        for each in (call, other):
            await each.wait_finished()
            await each.wait_cleaned_up()  # of what came late, too
            await bystander.wait_for_event(each.uid, EventType.RUN_TERMINAL)
        await bystander.wait_until_idle()
        assert await bystander.outcomes(call.uid) == []
    assert own_mesh.pid("terminator") == terminator
    log = [line for line in own_mesh.log("terminator").read_text().splitlines() if "outcome not recorded" in line]
    assert any(call.uid in line for line in log)
    assert all("will not take" in line for line in log)
