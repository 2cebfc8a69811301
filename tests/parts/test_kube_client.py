import asyncio
import contextlib
import json
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from kubernetes_asyncio.client import CustomObjectsApi

from actors.tcp_proxy import TcpProxy
from exeunt.kube.client import KubeClient
from exeunt.kube.credentials import Credentials
from exeunt.kube.errors import (
    ApiError,
    ApiUnavailable,
    ConfigurationError,
    Conflict,
    Forbidden,
    NotFound,
    ResourceVersionTooLarge,
    Unauthorized,
    Unprocessable,
)
from exeunt.kube.resources import EVENTS, STEP_RUNS, STORY_RUNS
from exeunt_local.control_plane import ControlPlane

RUNS = ("runs.bubustack.io", "v1alpha1")
MANAGER = "exeunt-test"


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    yield client
    await client.close()


@asynccontextmanager
async def connected(
    kubeconfig: Path, *, request_timeout: float = 5, retry_budget: float = 5
) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(
        kubeconfig=str(kubeconfig), request_timeout=request_timeout, retry_budget=retry_budget
    )
    try:
        yield client
    finally:
        await client.close()


async def create_run(admin: CustomObjectsApi, namespace: str, name: str = "call") -> dict[str, Any]:
    body = {
        "apiVersion": "/".join(RUNS),
        "kind": "StoryRun",
        "metadata": {"name": name},
        "spec": {"storyRef": {"name": "voice"}},
    }
    run: dict[str, Any] = await admin.create_namespaced_custom_object(*RUNS, namespace, "storyruns", body)
    return run


def write_kubeconfig(path: Path, *, server: str, user: dict[str, Any], ca: Path | None = None) -> Path:
    cluster = {"server": server} | ({"certificate-authority": str(ca)} if ca else {})
    config = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(config))
    return path


def admin_user(control_plane: ControlPlane) -> dict[str, Any]:
    user: dict[str, Any] = json.loads(control_plane.kubeconfig.read_text())["users"][0]["user"]
    return user


@asynccontextmanager
async def proxied(control_plane: ControlPlane, folder: Path) -> AsyncIterator[tuple[TcpProxy, Path]]:
    async with TcpProxy(int(control_plane.url.rpartition(":")[2])) as proxy:
        server = f"https://127.0.0.1:{proxy.port}"
        user = admin_user(control_plane)
        yield proxy, write_kubeconfig(folder / "proxied", server=server, user=user, ca=control_plane.ca)


def patch(*operations: dict[str, Any]) -> bytes:
    return json.dumps(operations).encode()


START = {"op": "add", "path": "/status", "value": {"phase": "Running"}}
UNSTARTED = {"op": "test", "path": "/status", "value": None}
RUNNING, UNSTARTED_ONES = "status.phase=Running", "status.phase!=Running"


async def test_a_run_is_read_patched_and_deleted(client: KubeClient, admin: CustomObjectsApi, namespace: str) -> None:
    created = await create_run(admin, namespace)
    run = await client.get(STORY_RUNS, namespace, "call")
    assert run.metadata.uid == created["metadata"]["uid"]
    assert run.metadata.resource_version == created["metadata"]["resourceVersion"]
    await client.patch(
        STORY_RUNS, namespace, "call", patch(UNSTARTED, START), field_manager=MANAGER, subresource="status"
    )
    stored = await admin.get_namespaced_custom_object(*RUNS, namespace, "storyruns", "call")
    assert stored["status"] == {"phase": "Running"}
    assert stored["metadata"]["managedFields"][-1]["manager"] == MANAGER
    assert await client.delete(STORY_RUNS, namespace, "call", uid=run.metadata.uid, where=RUNNING)
    with pytest.raises(NotFound, match=f"get storyruns {namespace}/call: 404 NotFound: .*call"):
        await client.get(STORY_RUNS, namespace, "call")


async def test_a_list_has_all_pages_and_only_what_is_selected(
    client: KubeClient, admin: CustomObjectsApi, namespace: str
) -> None:
    for number in range(5):
        await create_run(admin, namespace, f"call-{number}")
    finished = patch({"op": "add", "path": "/status", "value": {"phase": "Finished"}})
    await client.patch(STORY_RUNS, namespace, "call-3", finished, field_manager=MANAGER, subresource="status")
    whole = await client.list(STORY_RUNS, namespace, limit=2)
    assert [run.metadata.name for run in whole.items] == [f"call-{number}" for number in range(5)]
    assert whole.resource_version
    assert whole.undecodable == []
    unfinished = await client.list(STORY_RUNS, namespace, field_selector="status.phase!=Finished", limit=2)
    assert [run.metadata.name for run in unfinished.items] == ["call-0", "call-1", "call-2", "call-4"]
    assert {run.metadata.key for run in whole.items} <= {
        run.metadata.key for run in (await client.list(STORY_RUNS, None)).items
    }


async def test_a_list_may_be_as_old_as_something_that_is_known(
    client: KubeClient, admin: CustomObjectsApi, namespace: str
) -> None:
    for number in range(3):
        await create_run(admin, namespace, f"call-{number}")
    known = await client.get(STORY_RUNS, namespace, "call-2")
    version = known.metadata.resource_version
    listing = await client.list(STORY_RUNS, namespace, limit=2, not_older_than=version)
    assert [run.metadata.name for run in listing.items] == ["call-0", "call-1", "call-2"]
    assert int(listing.resource_version) >= int(version)
    with pytest.raises(ResourceVersionTooLarge):  # at once as far as we are concerned: no retry would change it
        await client.list(STORY_RUNS, namespace, not_older_than=str(int(version) + 1_000_000))


async def test_a_failed_test_and_a_refused_value_are_reported_apart(
    client: KubeClient, admin: CustomObjectsApi, namespace: str
) -> None:
    await create_run(admin, namespace)
    await client.patch(
        STORY_RUNS, namespace, "call", patch(UNSTARTED, START), field_manager=MANAGER, subresource="status"
    )
    with pytest.raises(Unprocessable) as failed:
        await client.patch(
            STORY_RUNS, namespace, "call", patch(UNSTARTED, START), field_manager=MANAGER, subresource="status"
        )
    assert failed.value.failed_test
    with pytest.raises(Unprocessable, match="Unsupported value") as refused:
        await client.patch(
            STORY_RUNS,
            namespace,
            "call",
            patch({"op": "add", "path": "/status/phase", "value": "Exeunt"}),
            field_manager=MANAGER,
            subresource="status",
        )
    assert not refused.value.failed_test
    assert refused.value.causes[0].startswith("status.phase: ")
    with pytest.raises(ApiError, match="unknown field"):
        await client.patch(
            STORY_RUNS,
            namespace,
            "call",
            patch({"op": "add", "path": "/status/shutdownDeadline", "value": "now"}),
            field_manager=MANAGER,
            subresource="status",
        )


async def test_only_the_object_of_that_uid_is_deleted(
    client: KubeClient, admin: CustomObjectsApi, namespace: str
) -> None:
    await create_run(admin, namespace)
    with pytest.raises(Conflict):
        await client.delete(STORY_RUNS, namespace, "call", uid="0" * 8, where=UNSTARTED_ONES)
    assert (await client.get(STORY_RUNS, namespace, "call")).metadata.deletion_timestamp is None


@pytest.mark.parametrize("name", ["call", "", "other,metadata.name!=call", "call,status.phase!=Running", "=call", "\\"])
async def test_only_what_is_selected_is_deleted_whatever_the_name_says(
    client: KubeClient, admin: CustomObjectsApi, namespace: str, name: str
) -> None:
    uid = (await create_run(admin, namespace))["metadata"]["uid"]
    await create_run(admin, namespace, "other")
    with contextlib.suppress(ApiError):  # what is no name at all may be refused
        assert not await client.delete(STORY_RUNS, namespace, name, uid=uid, where=RUNNING)
    assert [run.metadata.name for run in (await client.list(STORY_RUNS, namespace)).items] == ["call", "other"]


async def test_forbidden_names_the_missing_permission(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = await control_plane.kubeconfig_for("exeunt-timeout-scheduler", "exeunt", folder=tmp_path)
    async with connected(kubeconfig) as client:
        with pytest.raises(
            Forbidden, match=rf"verb list on stepruns of API group runs\.bubustack\.io in namespace {namespace}"
        ):
            await client.list(STEP_RUNS, namespace)
        with pytest.raises(Forbidden, match="verb patch on storyruns/status of"):
            await client.patch(STORY_RUNS, namespace, "call", patch(), field_manager=MANAGER, subresource="status")
        assert "RBAC rule" in (client.unavailable_reason() or "")
        await client.list(STORY_RUNS, namespace)  # that a read is served says nothing of the write
        assert "patch" in (client.unavailable_reason() or "")


async def test_what_can_be_done_without_says_nothing_about_the_rest_when_it_is_refused(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = await control_plane.kubeconfig_for("exeunt-terminator", "exeunt", folder=tmp_path)
    async with connected(kubeconfig) as client:
        with pytest.raises(Forbidden, match=r"verb create on events of API group events\.k8s\.io"):
            await client.create(EVENTS, namespace, b"{}", field_manager=MANAGER)
        assert client.unavailable_reason() is None


async def test_a_refused_token_is_read_again(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    kubeconfig = await control_plane.kubeconfig_for("exeunt-watcher", "exeunt", folder=tmp_path)
    token_file = tmp_path / "exeunt-watcher.token"
    good = token_file.read_text()
    token_file.write_text("expired\n")
    async with connected(kubeconfig) as client:
        with pytest.raises(Unauthorized, match=r"credentials are from .*exeunt-watcher\.kubeconfig"):
            await client.list(STORY_RUNS, namespace)
        assert "401" in (client.unavailable_reason() or "")
        token_file.write_text(f"{good}\n")
        answers = await asyncio.gather(*(client.list(STORY_RUNS, namespace) for _ in range(10)))
        assert len(answers) == 10
        assert client.unavailable_reason() is None


async def test_a_token_file_is_read_again_before_the_old_token_expires(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exeunt.kube.connection._REFRESH_INTERVAL", 0.2)
    kubeconfig = await control_plane.kubeconfig_for("exeunt-timeout-scheduler", "exeunt", folder=tmp_path)
    watcher = await control_plane.kubeconfig_for("exeunt-watcher", "exeunt", folder=tmp_path)
    async with connected(kubeconfig) as client:
        with pytest.raises(Forbidden):
            await client.list(STEP_RUNS, namespace)
        (tmp_path / "exeunt-timeout-scheduler.token").write_text(watcher.with_suffix(".token").read_text())
        async with asyncio.timeout(15):
            while True:  # the old token is still good: only the file says who we are now
                try:
                    await client.list(STEP_RUNS, namespace)
                    break
                except Forbidden:
                    await asyncio.sleep(0.02)


async def test_an_exec_plugin_is_asked_again_after_a_refusal(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    token = admin_user(control_plane)["token"]
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        f"echo asked >> {tmp_path}/asked\n"
        f"token=expired; [ $(wc -l < {tmp_path}/asked) -ge 2 ] && token={token}\n"
        'echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1\\", \\"kind\\": \\"ExecCredential\\", '
        '\\"status\\": {\\"token\\": \\"$token\\", \\"expirationTimestamp\\": \\"2999-01-01T00:00:00Z\\"}}"\n'
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "interactiveMode": "Never",
        }
    }
    kubeconfig = write_kubeconfig(tmp_path / "config", server=control_plane.url, user=user, ca=control_plane.ca)
    async with connected(kubeconfig) as client:
        assert (await client.list(STORY_RUNS, namespace)).items == []
        await client.list(STORY_RUNS, namespace)
    assert (tmp_path / "asked").read_text().count("asked") == 2


async def test_a_broken_plugin_is_reported_at_the_start(control_plane: ControlPlane, tmp_path: Path) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": "./none"}
    kubeconfig = write_kubeconfig(tmp_path / "config", server=control_plane.url, user={"exec": plugin})
    with pytest.raises(ConfigurationError, match=r"the exec plugin .*/none of user u in .*config is not an executable"):
        await KubeClient.connect(kubeconfig=str(kubeconfig))


async def test_a_replaced_ca_file_makes_a_new_session(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    kubeconfig = write_kubeconfig(tmp_path / "config", server=control_plane.url, user=admin_user(control_plane), ca=ca)
    async with connected(kubeconfig) as client:
        with pytest.raises(ApiUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await client.list(STORY_RUNS, namespace, retry=False)
        ca.write_bytes(control_plane.ca.read_bytes())
        assert (await client.list(STORY_RUNS, namespace)).items == []


async def test_a_pod_uses_its_service_account(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control_plane.kubeconfig_for("exeunt-watcher", "exeunt", folder=tmp_path)
    (tmp_path / "token").write_text("expired")
    (tmp_path / "ca.crt").write_bytes(control_plane.ca.read_bytes())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", control_plane.url.rpartition(":")[2])
    credentials = Credentials((), service_account=tmp_path)
    await credentials.reload()
    client = KubeClient(credentials)
    (tmp_path / "token").write_text((tmp_path / "exeunt-watcher.token").read_text())
    assert (await client.list(STORY_RUNS, namespace)).items == []
    await client.close()


@asynccontextmanager
async def front(control_plane: ControlPlane, faults: list[web.Response], folder: Path) -> AsyncIterator[Path]:
    """The kube-apiserver behind a front that answers itself as long as it has faults to give."""
    admin = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False))

    async def answer(request: web.Request) -> web.Response:
        if faults:
            return faults.pop(0)
        async with admin.get(
            f"{control_plane.url}{request.rel_url}",
            headers={"Authorization": f"Bearer {admin_user(control_plane)['token']}"},  # none is sent without TLS
        ) as response:
            return web.Response(status=response.status, body=await response.read())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield write_kubeconfig(folder / "front", server=f"http://127.0.0.1:{port}", user=admin_user(control_plane))
    finally:
        await runner.cleanup()
        await admin.close()


async def test_overload_is_waited_out_as_long_as_the_server_asks(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    faults = [web.Response(status=503, text="<html>down for a moment</html>")]
    async with front(control_plane, faults, tmp_path) as kubeconfig, connected(kubeconfig) as client:
        assert (await client.list(STORY_RUNS, namespace)).items == []
        faults.append(web.Response(status=429, headers={"Retry-After": "1"}, text="{}"))
        started = time.monotonic()
        assert (await client.list(STORY_RUNS, namespace)).items == []
        assert 1 <= time.monotonic() - started < 4
        assert faults == []
        assert client.unavailable_reason() is None


async def test_overload_ends_with_the_retry_budget(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    faults = [web.Response(status=503, headers={"Retry-After": "60"}, text="<html>gone fishing</html>")]
    async with (
        front(control_plane, faults, tmp_path) as kubeconfig,
        connected(kubeconfig, retry_budget=1) as client,
    ):
        started = time.monotonic()
        with pytest.raises(ApiUnavailable, match=r"no success within 1 s; last: 503.*gone fishing") as given_up:
            await client.get(STORY_RUNS, namespace, "call")
        assert time.monotonic() - started < 5
        assert 60 <= (given_up.value.retry_after or 0) <= 72
        assert "503" in (client.unavailable_reason() or "")


async def test_the_clock_of_the_server_is_read_from_its_answers(client: KubeClient, namespace: str) -> None:
    assert client.clock.ahead is None
    await client.list(STORY_RUNS, namespace)
    assert client.clock.ahead == 0
    assert client.clock.differs(most=0) is None


async def test_a_server_that_comes_back_in_time_is_not_noticed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with proxied(control_plane, tmp_path) as (proxy, kubeconfig), connected(kubeconfig) as client:
        proxy.cut(refuse=True)
        listing = asyncio.create_task(client.list(STORY_RUNS, namespace))
        async with asyncio.timeout(10):
            while client.unavailable_reason() is None:  # noqa: ASYNC110 - the world is polled
                await asyncio.sleep(0.01)
        why = client.unavailable_reason() or ""
        assert "no answer from" in why
        assert "(" not in why  # in words, and not as Python writes its errors
        proxy.restore()
        assert (await listing).items == []
        assert client.unavailable_reason() is None


async def test_a_patch_whose_answer_is_lost_is_sent_again(
    control_plane: ControlPlane, admin: CustomObjectsApi, namespace: str, tmp_path: Path
) -> None:
    await create_run(admin, namespace)
    async with proxied(control_plane, tmp_path) as (proxy, kubeconfig), connected(kubeconfig) as client:
        await client.get(STORY_RUNS, namespace, "call")  # the TLS handshake is behind us
        proxy.lose_next_answer()
        with pytest.raises(Unprocessable) as second:
            await client.patch(
                STORY_RUNS, namespace, "call", patch(UNSTARTED, START), field_manager=MANAGER, subresource="status"
            )
        assert second.value.failed_test  # since the first was applied
        assert second.value.perhaps_done
        run = await client.get(STORY_RUNS, namespace, "call")
        assert run.status is not None
        assert run.status.phase == "Running"
        with pytest.raises(Unprocessable) as only:
            await client.patch(
                STORY_RUNS, namespace, "call", patch(UNSTARTED, START), field_manager=MANAGER, subresource="status"
            )
        assert not only.value.perhaps_done


async def test_a_silent_server_costs_no_more_than_the_request_timeout(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with (
        proxied(control_plane, tmp_path) as (proxy, kubeconfig),
        connected(kubeconfig, request_timeout=1) as client,
    ):
        await client.list(STORY_RUNS, namespace)
        proxy.go_silent()
        with pytest.raises(ApiUnavailable, match="TimeoutError"):
            await client.list(STORY_RUNS, namespace, retry=False)
        proxy.restore()
        assert (await client.list(STORY_RUNS, namespace)).items == []
