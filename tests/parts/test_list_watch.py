import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn

import msgspec
import pytest
from kubernetes_asyncio.client import CustomObjectsApi
from structlog.testing import capture_logs

from actors.tcp_proxy import TcpProxy
from exeunt.kube.changes import Change, Changed, Missing, Page, Removed
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import api_error
from exeunt.kube.list_watch import ListWatch
from exeunt.kube.resources import STORY_RUNS, Resource, T
from exeunt.run.models import KubeObject
from exeunt_local.control_plane import ControlPlane

GROUP, VERSION = "runs.bubustack.io", "v1alpha1"
UNFINISHED = "status.phase!=Finished"


class Cluster:
    """What users and the operator do to StoryRuns, in one namespace, not through the network under test."""

    def __init__(self, api: CustomObjectsApi, namespace: str) -> None:
        self.namespace = namespace
        self._api = api

    async def create(self, name: str, *, story: str = "voice") -> str:
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "StoryRun",
            "metadata": {"name": name},
            "spec": {"storyRef": {"name": story}},
        }
        run = await self._api.create_namespaced_custom_object(GROUP, VERSION, self.namespace, "storyruns", body)
        uid: str = run["metadata"]["uid"]
        return uid

    async def annotate(self, name: str, **annotations: str) -> None:
        await self._api.patch_namespaced_custom_object(
            GROUP,
            VERSION,
            self.namespace,
            "storyruns",
            name,
            [{"op": "add", "path": "/metadata/annotations", "value": annotations}],
        )

    async def set_phase(self, name: str, phase: str) -> None:
        await self._api.patch_namespaced_custom_object_status(
            GROUP,
            VERSION,
            self.namespace,
            "storyruns",
            name,
            [{"op": "add", "path": "/status", "value": {"phase": phase}}],
        )

    async def delete(self, name: str) -> None:
        await self._api.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, "storyruns", name)


class Following(Generic[T]):
    """A running ListWatch, all that it handed over, and the collection as those changes tell it."""

    def __init__(self, list_watch: ListWatch[T]) -> None:
        self.list_watch = list_watch
        self.changes: list[Change[T]] = []
        self.objects: dict[str, T] = {}

    async def follow(self) -> NoReturn:
        async with aclosing(aiter(self.list_watch)) as changes:
            async for change in changes:
                self.handle(change)
        raise AssertionError("a watch goes on for ever")

    def handle(self, change: Change[T]) -> None:
        self.changes.append(change)
        match change:
            case Page(items, missing):
                for gone in missing:
                    del self.objects[gone.key[1]]
                self.objects |= {item.metadata.name: item for item in items}
            case Changed(item):
                self.objects[item.metadata.name] = item
            case Removed(item):
                del self.objects[item.metadata.name]
            case Missing((_, name), _):
                del self.objects[name]

    async def until(self, condition: Callable[[], object], *, within: float = 10) -> None:
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - the world is polled
                await asyncio.sleep(0.01)

    def names(self) -> set[str]:
        return set(self.objects)

    def annotation(self, name: str) -> str | None:
        return self.objects[name].metadata.annotations.get("take") if name in self.objects else None


@asynccontextmanager
async def following(list_watch: ListWatch[T]) -> AsyncIterator[Following[T]]:
    it = Following(list_watch)
    task = asyncio.create_task(it.follow())
    try:
        await it.until(lambda: list_watch.synced)
        yield it
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()  # and not ended by a bug


@pytest.fixture
def cluster(admin: CustomObjectsApi, namespace: str) -> Cluster:
    return Cluster(admin, namespace)


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    yield client
    await client.close()


@pytest.fixture
async def network(control_plane: ControlPlane) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(int(control_plane.url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
async def remote(control_plane: ControlPlane, network: TcpProxy, tmp_path: Path) -> AsyncIterator[KubeClient]:
    """A client whose only way to the kube-apiserver is the network under test."""
    config: dict[str, Any] = json.loads(control_plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{network.port}"
    kubeconfig = tmp_path / "remote"
    kubeconfig.write_text(json.dumps(config))
    client = await KubeClient.connect(kubeconfig=str(kubeconfig), request_timeout=2)
    yield client
    await client.close()


async def test_the_list_comes_first_and_then_every_change(client: KubeClient, cluster: Cluster) -> None:
    first = await cluster.create("first")
    list_watch = ListWatch(client, STORY_RUNS, namespace=cluster.namespace)
    assert not list_watch.synced
    async with following(list_watch) as it:
        assert [type(change) for change in it.changes] == [Page]
        assert it.objects["first"].metadata.uid == first
        await cluster.create("second")
        await cluster.set_phase("second", "Running")
        await cluster.delete("first")
        await it.until(lambda: it.names() == {"second"})
        created, started, removed = it.changes[1:]
        assert isinstance(created, Changed)
        assert created.object.status is None
        assert isinstance(started, Changed)
        assert started.object.status is not None
        assert started.object.status.phase == "Running"
        assert isinstance(removed, Removed)
        assert removed.object.metadata.uid == first
        assert list_watch.error is None
        assert list_watch.relists == 0


async def test_leaving_the_selector_is_an_ordinary_change(client: KubeClient, cluster: Cluster) -> None:
    await cluster.create("finished-long-ago")
    await cluster.set_phase("finished-long-ago", "Finished")
    await cluster.create("call")
    list_watch = ListWatch(client, STORY_RUNS, namespace=cluster.namespace, list_field_selector=UNFINISHED)
    async with following(list_watch) as it:
        assert it.names() == {"call"}
        await cluster.set_phase("call", "Finished")
        await it.until(lambda: len(it.changes) > 1)
        change = it.changes[1]
        assert isinstance(change, Changed)
        assert change.object.status is not None
        assert change.object.status.phase == "Finished"


async def test_only_its_own_namespace_is_followed(
    client: KubeClient, cluster: Cluster, admin: CustomObjectsApi
) -> None:
    async with (
        following(ListWatch(client, STORY_RUNS, namespace=cluster.namespace)) as own,
        following(ListWatch(client, STORY_RUNS, namespace=None)) as all_of_them,
    ):
        await Cluster(admin, "default").create(f"elsewhere-{cluster.namespace}")
        await cluster.create("here")
        await own.until(lambda: "here" in own.names())
        await all_of_them.until(lambda: "here" in all_of_them.names())
        assert own.names() == {"here"}
        assert f"elsewhere-{cluster.namespace}" in all_of_them.names()


async def test_a_watch_that_ends_in_good_order_goes_on_where_it_was(client: KubeClient, cluster: Cluster) -> None:
    list_watch = ListWatch(client, STORY_RUNS, namespace=cluster.namespace, watch_timeout=0.5)
    async with following(list_watch) as it:
        for number in range(15):  # more than two attempts of a watch
            await cluster.create(f"call-{number}")
            await asyncio.sleep(0.15)
        await it.until(lambda: len(it.names()) == 15)
        assert [type(change) for change in it.changes] == [Page] + [Changed] * 15
        assert list_watch.error is None


async def test_a_silent_connection_is_given_up(remote: KubeClient, network: TcpProxy, cluster: Cluster) -> None:
    list_watch = ListWatch(remote, STORY_RUNS, namespace=cluster.namespace, idle_timeout=0.5)
    async with following(list_watch) as it:
        await cluster.create("before")
        await it.until(lambda: it.names() == {"before"})
        network.go_silent()
        await cluster.create("meanwhile")
        await it.until(lambda: list_watch.error)
        assert "timeout" in (list_watch.error or "").lower()
        network.restore()
        await it.until(lambda: it.names() == {"before", "meanwhile"})
        assert list_watch.relists >= 1
        assert [type(change) for change in it.changes][:3] == [Page, Changed, Page]


async def test_the_heart_beats_while_the_network_is_down(
    remote: KubeClient, network: TcpProxy, cluster: Cluster
) -> None:
    list_watch = ListWatch(remote, STORY_RUNS, namespace=cluster.namespace)
    async with following(list_watch) as it:
        network.cut(refuse=True)
        await it.until(lambda: list_watch.error)
        down_since = asyncio.get_running_loop().time()
        await it.until(lambda: list_watch.last_progress > down_since)
        assert list_watch.error
        await cluster.create("meanwhile")
        network.restore()
        await it.until(lambda: it.names() == {"meanwhile"})
        await it.until(lambda: list_watch.error is None)


async def test_a_failed_list_yields_nothing(remote: KubeClient, network: TcpProxy, cluster: Cluster) -> None:
    await cluster.create("call")
    network.cut(refuse=True)
    list_watch = ListWatch(remote, STORY_RUNS, namespace=cluster.namespace)
    it = Following(list_watch)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(it.follow())
        await it.until(lambda: list_watch.error)
        assert it.changes == []
        assert not list_watch.synced
        network.restore()
        await it.until(lambda: it.names() == {"call"})
        task.cancel()


async def test_nothing_is_lost_when_the_apiserver_restarts(
    client: KubeClient, cluster: Cluster, control_plane: ControlPlane
) -> None:
    await cluster.create("call")
    async with following(ListWatch(client, STORY_RUNS, namespace=cluster.namespace)) as it:
        await cluster.annotate("call", take="one")
        await control_plane.kill_apiserver()
        await control_plane.start_apiserver()
        await cluster.annotate("call", take="two")
        await cluster.create("late")
        await it.until(lambda: it.annotation("call") == "two" and "late" in it.names(), within=20)
        await cluster.annotate("call", take="three")
        await it.until(lambda: it.annotation("call") == "three")


class PickySpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    story_ref: dict[str, Literal["voice"]]


class PickyRun(KubeObject, frozen=True, kw_only=True):
    spec: PickySpec


PICKY_RUNS = Resource(GROUP, VERSION, "storyruns", PickyRun)


async def test_an_expired_watch_lists_again_and_tells_what_is_missing(
    remote: KubeClient, network: TcpProxy, cluster: Cluster, control_plane: ControlPlane
) -> None:
    """A restarted kube-apiserver has forgotten the history before its start: the real 410."""
    uids = {name: await cluster.create(name) for name in ("kept", "deleted", "finished", "replaced")}
    uids["odd"] = await cluster.create("odd", story="other")
    list_watch = ListWatch(remote, STORY_RUNS, namespace=cluster.namespace, list_field_selector=UNFINISHED)
    picky = ListWatch(remote, PICKY_RUNS, namespace=cluster.namespace)
    async with following(list_watch) as it, following(picky) as its_picky_twin:
        assert it.names() == set(uids)
        await cluster.annotate("odd", take="one")
        await cluster.annotate("kept", take="one")
        await it.until(lambda: it.annotation("kept") == its_picky_twin.annotation("kept") == "one")
        changes_before = len(it.changes)
        network.cut(refuse=True)
        await cluster.delete("deleted")
        await cluster.set_phase("finished", "Finished")
        await cluster.delete("replaced")
        await cluster.annotate("kept", take="two")
        uids["replaced again"] = await cluster.create("replaced")
        await control_plane.kill_apiserver()
        await control_plane.start_apiserver()
        network.restore()
        await it.until(lambda: list_watch.relists and list_watch.error is None, within=30)
        relisted, *again = it.changes[
            changes_before:
        ]  # again: when a watch is refused until the server is ready for it
        assert isinstance(relisted, Page)
        missing = {gone.key[1]: gone.uid for gone in relisted.missing}
        assert not any(gone.missing for gone in again if isinstance(gone, Page))
        assert missing == {name: uids[name] for name in ("deleted", "finished", "replaced")}
        assert it.names() == {"kept", "replaced", "odd"}
        assert it.annotation("kept") == "two"
        assert it.objects["replaced"].metadata.uid == uids["replaced again"]
        await cluster.create("later")
        await it.until(lambda: "later" in it.names())
        await it.until(lambda: picky.relists and picky.error is None, within=30)
        its_missing = {
            gone.uid for change in its_picky_twin.changes if isinstance(change, Page) for gone in change.missing
        }
        assert its_missing == {uids["deleted"], uids["replaced"]}  # neither finished nor odd: both are there


async def test_an_undecodable_object_is_logged_once_and_skipped(client: KubeClient, cluster: Cluster) -> None:
    await cluster.create("good")
    uid = await cluster.create("odd", story="other")
    with capture_logs() as logs:
        async with following(ListWatch(client, PICKY_RUNS, namespace=cluster.namespace)) as it:
            assert it.names() == {"good"}
            await cluster.annotate("odd", take="two")
            await cluster.create("better")
            await it.until(lambda: it.names() == {"good", "better"})
            skipped = [entry for entry in logs if entry["event"] == "undecodable object skipped"]
            assert [entry["object"] for entry in skipped] == [f"{cluster.namespace}/odd"] * 2
            assert len({entry["resource_version"] for entry in skipped}) == 2
            it.objects["odd"] = it.objects["good"]  # so that its end is seen
            await cluster.delete("odd")
            await it.until(lambda: "odd" not in it.names())
            assert it.changes[-1] == Missing((cluster.namespace, "odd"), uid)


async def test_a_list_is_handed_over_when_what_follows_is_asked_for(client: KubeClient, cluster: Cluster) -> None:
    list_watch = ListWatch(client, STORY_RUNS, namespace=cluster.namespace)
    async with aclosing(aiter(list_watch)) as changes:
        assert await anext(changes) == Page([])
        assert not list_watch.synced
        await cluster.create("call")
        assert isinstance(await anext(changes), Changed)
        assert list_watch.synced


async def test_a_burst_comes_in_order_however_slowly_it_is_taken(client: KubeClient, cluster: Cluster) -> None:
    await cluster.create("call")
    takes: list[str] = []
    list_watch = ListWatch(client, STORY_RUNS, namespace=cluster.namespace)

    async def follow() -> None:
        async with aclosing(aiter(list_watch)) as changes:
            async for change in changes:
                await asyncio.sleep(0.001)
                if isinstance(change, Changed):
                    takes.append(change.object.metadata.annotations["take"])

    it = Following(list_watch)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow())
        await it.until(lambda: list_watch.synced)
        for take in range(100):
            await cluster.annotate("call", take=str(take))
        await it.until(lambda: "99" in takes)
        task.cancel()
    assert takes == [str(take) for take in range(100)]


async def test_a_server_that_is_away_is_asked_every_few_seconds_and_one_that_refuses_ever_less_often(
    client: KubeClient, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has just begun may refuse what it soon allows."""

    async def at_once(_: float) -> None:
        """Nobody waits here."""

    watch = ListWatch(client, STORY_RUNS, namespace=cluster.namespace)
    monkeypatch.setattr(asyncio, "sleep", at_once)
    failures = 0
    with capture_logs() as logs:
        for status in (500,) * 9 + (403,) * 9:
            failures = await watch._wait(api_error(b"{}", action="list storyruns", status=status), failures)
    waits = [log["retry_in"] for log in logs]
    assert 2.5 <= max(waits[:9]) <= 5
    assert waits[9] <= 0.25
    assert 15 <= max(waits) <= 30
