from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import CoreV1Api, CustomObjectsApi, VersionApi

from actors.admin import admin_client
from exeunt_local.control_plane import ControlPlane
from exeunt_local.kubernetes_admin import RequestRefused

RUNS = "runs.bubustack.io"


async def test_tokens_are_in_files_that_others_cannot_read(control_plane: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = await control_plane.kubeconfig_for("exeunt-watcher", "exeunt", folder=tmp_path)
    token = tmp_path / "exeunt-watcher.token"
    assert f'"tokenFile": "{token}"' in kubeconfig.read_text()
    assert [file.stat().st_mode & 0o077 for file in (token, kubeconfig, control_plane.kubeconfig)] == [
        0,
        0,
        0,
    ]


async def test_objects_survive_a_stop_and_a_kill_of_the_apiserver(
    control_plane: ControlPlane, admin: CustomObjectsApi, namespace: str
) -> None:
    run = {
        "apiVersion": f"{RUNS}/v1alpha1",
        "kind": "StoryRun",
        "metadata": {"name": "call", "namespace": namespace},
        "spec": {"storyRef": {"name": "voice"}},
    }
    await control_plane.apply(run)
    before = await admin.get_namespaced_custom_object(RUNS, "v1alpha1", namespace, "storyruns", "call")
    await control_plane.restart_apiserver()
    await control_plane.kill_apiserver()
    await control_plane.start_apiserver()
    assert await admin.get_namespaced_custom_object(RUNS, "v1alpha1", namespace, "storyruns", "call") == before


async def test_a_stop_ends_watches_in_order(control_plane: ControlPlane) -> None:
    async with admin_client(control_plane.kubeconfig) as client:
        watch: Any = await CoreV1Api(client).list_namespace(watch=True, _preload_content=False)
        assert await watch.content.readline()
        assert await control_plane.stop_apiserver() == 0
        await watch.content.read()  # to its end, which is no error
    await control_plane.start_apiserver()


async def test_the_version_is_one_that_kubectl_can_read(control_plane: ControlPlane) -> None:
    async with admin_client(control_plane.kubeconfig) as client:
        version = await VersionApi(client).get_code()
    assert version.git_version == f"v{version.major}.{version.minor}.{version.git_version.split('.')[2]}"


async def test_an_unknown_kind_is_refused_with_its_name(control_plane: ControlPlane) -> None:
    manifest = {"apiVersion": "v1", "kind": "Nothing", "metadata": {"name": "a"}}
    with pytest.raises(RequestRefused, match="knows no kind Nothing in v1"):
        await control_plane.apply(manifest)
