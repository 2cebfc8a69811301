from pathlib import Path

import pytest
from kubernetes_asyncio import config
from kubernetes_asyncio.client import (
    ApiClient,
    AuthorizationV1Api,
    Configuration,
    CustomObjectsApi,
    V1SelfSubjectRulesReview,
    V1SelfSubjectRulesReviewSpec,
    VersionApi,
)

from exeunt_local.control_plane import ControlPlane
from exeunt_local.kubernetes_admin import RequestRefused

RUNS, CORE, TRANSPORT = "runs.bubustack.io", "bubustack.io", "transport.bubustack.io"
READ = {"get", "list", "watch"}

# All that a service may do: contract §7, without what Exeunt does not use.
ALLOWED: dict[str, dict[tuple[str, str], set[str]]] = {
    "exeunt-watcher": {
        (RUNS, "storyruns"): READ,
        (RUNS, "stepruns"): READ,
        (TRANSPORT, "transportbindings"): READ,
        (CORE, "stories"): READ,
    },
    "exeunt-terminator": {
        (RUNS, "storyruns"): {"get"},
        (RUNS, "storyruns/status"): {"get", "patch"},
        (RUNS, "stepruns"): {"get", "list", "delete"},
        (TRANSPORT, "transportbindings"): {"get", "list"},
        (CORE, "stories"): {"get"},
    },
    "exeunt-timeout-scheduler": {
        (RUNS, "storyruns"): {"get", "list"},
        (CORE, "stories"): {"get", "list"},
    },
}


async def client_for(kubeconfig: Path) -> ApiClient:
    configuration = Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    return ApiClient(configuration)


@pytest.mark.parametrize("account", ALLOWED)
async def test_each_service_has_the_rights_it_needs_and_no_others(
    control_plane: ControlPlane, tmp_path: Path, account: str
) -> None:
    kubeconfig = await control_plane.kubeconfig_for(account, "exeunt", folder=tmp_path)
    async with await client_for(kubeconfig) as client:
        review = await AuthorizationV1Api(client).create_self_subject_rules_review(
            V1SelfSubjectRulesReview(spec=V1SelfSubjectRulesReviewSpec(namespace="default"))
        )
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in review.status.resource_rules:
        for group in rule.api_groups:
            for resource in rule.resources:
                granted.setdefault((group, resource), set()).update(rule.verbs)
    own = {key: verbs for key, verbs in granted.items() if not key[0].endswith(".k8s.io")}
    assert own == ALLOWED[account]


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


async def test_the_version_is_one_that_kubectl_can_read(control_plane: ControlPlane) -> None:
    async with await client_for(control_plane.kubeconfig) as client:
        version = await VersionApi(client).get_code()
    assert version.git_version == f"v{version.major}.{version.minor}.{version.git_version.split('.')[2]}"


async def test_an_unknown_kind_is_refused_with_its_name(control_plane: ControlPlane) -> None:
    manifest = {"apiVersion": "v1", "kind": "Nothing", "metadata": {"name": "a"}}
    with pytest.raises(RequestRefused, match="knows no kind Nothing in v1"):
        await control_plane.apply(manifest)
