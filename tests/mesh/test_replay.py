"""A stop of the real mesh, told, explained and decided again while the mesh runs; and nothing changes by it."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import BINDING, STEP_RUN, STORY, STORY_RUN, Kubernetes
from actors.recorder import State
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType
from exeunt_local.control_plane import ControlPlane
from exeunt_local.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("operator", "running_mesh")

Stopped = Callable[..., Awaitable[State]]
Exeunt = Callable[..., Awaitable[str]]


@pytest.fixture
def exeunt(nats_server: NatsServer, control_plane: ControlPlane) -> Exeunt:
    """Runs a command that succeeds, and returns what it printed, in one line of words."""

    async def exeunt(*arguments: str, code: int = 0, kubeconfig: Path = control_plane.kubeconfig) -> str:
        env = {**os.environ, "EXEUNT_NATS_URL": nats_server.url, "KUBECONFIG": str(kubeconfig)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exeunt_cli", *arguments), stdout=asyncio.subprocess.PIPE, env=env
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
        assert process.returncode == code
        return " ".join(out.decode().split())

    return exeunt


async def state_of(kubernetes: Kubernetes, namespace: str, bystander: Bystander) -> dict[str, Any]:
    """Everything that a stop could change: its namespace's objects, the streams, the schedules and the consumers."""
    state: dict[str, Any] = {
        kind.plural: [
            (item["metadata"]["uid"], item["metadata"]["resourceVersion"])
            for item in await kubernetes.list(kind, namespace)
        ]
        for kind in (STORY, STORY_RUN, STEP_RUN, BINDING)
    }
    streams = await bystander.streams.streams_info()
    for stream in streams:
        assert stream.config.name is not None
        consumers = await bystander.streams.consumers_info(stream.config.name)
        state[stream.config.name] = (
            {what: count for what, count in vars(stream.state).items() if what != "consumer_count"},
            [
                (info.name, info.delivered, info.ack_floor, info.num_ack_pending, info.num_pending)
                for info in consumers
                if "follower" not in info.name  # those of watchers that are no more go by themselves
            ],
        )
    return state


async def test_a_stop_is_reported_explained_and_decided_again_and_nothing_changes(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, exeunt: Exeunt, tmp_path: Path
) -> None:
    call = await Call.start(kubernetes, namespace)
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await everyone_leaves(bystander.streams, call)
    await stopped(call)

    before = await state_of(kubernetes, namespace, bystander)
    run, file = f"{namespace}/{call.name}", tmp_path / "run.jsonl"
    explained, timeline, listed, _, checked = await asyncio.gather(
        exeunt("explain", run),
        exeunt("timeline", run),
        exeunt("runs", "-n", namespace),
        exeunt("export", run, "--to", str(file)),
        exeunt("replay", run, "--check"),
    )
    assert "rule 11 of 12, topology-gone, won" in explained
    late = r"(, late by \S+( \(.*?\))?)?"  # on a busy machine
    ended = rf"It was finalized \d\S*s after the cancel{late}, \d+\.\d+s before its shutdown deadline"
    assert re.search(ended, explained)
    window = r"bobrapet alone would have waited for the drain window of its Story, 2m0s\. It ended 1m5\d\."
    assert re.search(window, explained)
    assert re.search(rf"Outcome: finalized{late}: topology-gone \(signal\)", timeline)
    assert re.search(rf"finalized{late} topology-gone \(signal\)", listed)
    assert checked == "4 events and 1 decision come out as they were recorded."
    assert await exeunt("replay", str(file), "--check") == checked
    assert await state_of(kubernetes, namespace, bystander) == before


async def test_a_run_that_still_stops_is_explained_by_what_it_waits_for(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, stopped: Stopped, exeunt: Exeunt
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="1m")
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    explained = await exeunt("explain", f"{namespace}/{call.name}")
    assert "So far it is stopping: topology-up." in explained
    assert "As it is now, the terminator would wait (topology-up)" in explained
    for step_run in await call.step_runs():
        assert step_run["metadata"]["name"] in explained
    assert re.search(r"At the latest it ends at \S+Z, in 5\d\.\d+s: its shutdown deadline, 1m after", explained)
    assert "Sooner would end it: the hub's condition TopologyTerminated" in explained

    unseen = await exeunt("explain", f"{namespace}/{call.name}", kubeconfig=Path("/nowhere"))
    assert "As it is when it was last heard of, the terminator would wait (topology-up)" in unseen
    await everyone_leaves(bystander.streams, call)
    await stopped(call)
