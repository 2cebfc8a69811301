"""A watch that brings nothing is not trusted: what happens is seen all the same, by lists, and the trouble is
reported.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.front import Answer, Front, accepting, refusing, standing_before
from actors.kubernetes import STORY_RUN, Kubernetes
from exeunt.kube.changes import Page
from exeunt.kube.client import KubeClient
from exeunt.kube.list_watch import ListWatch
from exeunt.kube.resources import STORY_RUNS
from exeunt.run.models import StoryRun
from exeunt.settings import Settings
from exeunt_local.control_plane import ControlPlane
from exeunt_watcher.commands import AllSignalsHeard
from exeunt_watcher.coverage import Coverage
from exeunt_watcher.watcher import watching

Until = Callable[..., Awaitable[None]]


def error_event(code: int) -> bytes:
    status = {"kind": "Status", "code": code, "reason": "Played", "message": "etcdserver: mvcc: played"}
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


DEAF: dict[str, Answer] = {
    "accepted, and silent": accepting(stay=True),  # as from a version that is still to come
    "accepted, and closed at once": accepting(stay=False),
    "400": refusing(400),
    "404": refusing(404),
    "429": refusing(429, **{"Retry-After": "1"}),
    "500": refusing(500),  # a version that cannot be read
    "504": refusing(504),
    "an event of 400": accepting(error_event(400), stay=False),
    "an event of 410": accepting(error_event(410), stay=True),
    "an event of 500": accepting(error_event(500), stay=True),
    "a line that is none": accepting(b"<html>gone fishing</html>\n", stay=True),
    "an event that is none": accepting(b'{"type": "MODIFIED", "object": []}\n', stay=False),
    "a bookmark that is none": accepting(b'{"type": "BOOKMARK", "object": {"metadata": {}}}\n', stay=False),
    "half a line": accepting(b'{"type": "ADDED", "object": {"metadata"', stay=False),
}


@pytest.fixture
async def front(control_plane: ControlPlane) -> AsyncIterator[Front]:
    async with standing_before(control_plane) as front:
        yield front


@pytest.fixture
async def client(front: Front, control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[KubeClient]:
    config: dict[str, Any] = json.loads(control_plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"] = {"server": front.url}
    (tmp_path / "front").write_text(json.dumps(config))
    client = await KubeClient.connect(kubeconfig=str(tmp_path / "front"), request_timeout=5)
    yield client
    await client.close()


class Following:
    """A running ListWatch, and the names of the runs that it told of."""

    def __init__(self, watch: ListWatch[StoryRun]) -> None:
        self.watch = watch
        self.names: set[str] = set()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with aclosing(aiter(self.watch)) as changes:
            async for change in changes:
                match change:
                    case Page(items, missing):
                        self.names -= {gone.key[1] for gone in missing}
                        self.names |= {item.metadata.name for item in items}
                    case _ if hasattr(change, "object"):
                        self.names.add(change.object.metadata.name)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled()


@pytest.fixture
async def following(client: KubeClient, namespace: str) -> AsyncIterator[Following]:
    following = Following(ListWatch(client, STORY_RUNS, namespace=namespace, idle_timeout=0.5))
    yield following
    await following.stop()


async def create(kubernetes: Kubernetes, namespace: str, name: str) -> None:
    await kubernetes.create(STORY_RUN, namespace, name, {"storyRef": {"name": "voice"}})


@pytest.mark.parametrize("deaf", DEAF.values(), ids=DEAF)
async def test_what_happens_is_seen_although_no_watch_brings_it(
    front: Front, following: Following, kubernetes: Kubernetes, namespace: str, until: Until, deaf: Answer
) -> None:
    front.watches = deaf
    await until(lambda: following.watch.synced and front.asked)
    await create(kubernetes, namespace, "one")
    await until(lambda: "one" in following.names, within=20)
    await until(lambda: following.watch.error is not None)
    front.watches = None
    await create(kubernetes, namespace, "two")
    await until(lambda: following.watch.error is None and "two" in following.names, within=40)


async def test_a_watch_of_which_nothing_is_heard_is_unavailable_until_it_brings_something(
    front: Front, following: Following, kubernetes: Kubernetes, namespace: str, until: Until
) -> None:
    well = asyncio.Event()

    async def dripping(request: web.Request) -> web.StreamResponse:
        """A line that does not end, but with the connection."""
        response = web.StreamResponse()
        await response.prepare(request)
        while not well.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.1)
        return response

    front.watches = dripping
    await until(lambda: following.watch.synced and front.asked)
    machine = watching([namespace], Settings())
    machine.receive(AllSignalsHeard(), datetime.now(UTC))
    coverage = Coverage([following.watch], machine)
    assert coverage.unavailable_reason is None
    await until(lambda: coverage.unavailable_reason is not None)
    assert following.watch.error is None  # nothing has failed
    assert re.fullmatch(rf"{STORY_RUNS} in {namespace}: nothing heard for \d+ s", str(coverage.unavailable_reason))
    front.watches = None
    well.set()
    await until(lambda: coverage.unavailable_reason is None, within=40)
    await create(kubernetes, namespace, "call")
    await until(lambda: "call" in following.names, within=40)


async def test_a_watch_that_keeps_something_back_is_unavailable_until_one_brings_something(
    front: Front, client: KubeClient, kubernetes: Kubernetes, namespace: str, until: Until
) -> None:
    front.watches = accepting(stay=True)
    following = Following(ListWatch(client, STORY_RUNS, namespace=namespace, idle_timeout=4))
    try:
        await until(lambda: following.watch.synced and front.asked)
        await create(kubernetes, namespace, "call")
        await until(lambda: "call" in following.names, within=30)
        await until(lambda: front.asked == 2)
        assert "Timeout" in (following.watch.error or "")  # although everything is listed, and the next watch accepted
        front.watches = None
        await until(lambda: following.watch.error is None, within=40)
    finally:
        await following.stop()


async def test_a_watch_is_silent_where_nothing_happens(front: Front, following: Following, until: Until) -> None:
    """As where etcd was not told to notify progress, so that bookmarks come late."""
    front.watches = accepting(stay=True)
    await until(lambda: following.watch.relists >= 2)
    await until(lambda: following.watch.error is None)
    asked = front.asked
    await until(lambda: front.asked > asked)
    await until(lambda: following.watch.error is None)


@pytest.mark.parametrize("deaf", [accepting(stay=True), accepting(stay=False), accepting(error_event(500), stay=False)])
async def test_a_watch_that_is_accepted_has_not_heard_anything(
    front: Front, following: Following, until: Until, deaf: Answer
) -> None:
    await until(lambda: following.watch.synced and front.asked)
    front.lists = refusing(503)
    front.watches = deaf
    await until(lambda: following.watch.error is not None)
    heard, attempted = following.watch.last_heard, following.watch.last_progress
    await until(lambda: following.watch.last_progress > attempted + 1, within=20)
    assert following.watch.last_heard == heard
    assert following.watch.error is not None
