"""The Helm chart makes what kustomize makes, and lives on a real kube-apiserver as Helm's users live with it."""

import json
import os
import re
import tomllib
from collections.abc import AsyncIterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from actors.helm import CHART, Helm
from actors.installation import DEPLOY, NAMESPACE, OURS, CommandFailed, Kubectl, Object, kustomize
from exeunt_cli.nats_credentials import PODS
from exeunt_local import CRDS
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane

OVERLAYS: Mapping[str, Object] = {
    "evaluation": {},
    "production": {"replicaCount": 2, "nats": {"embedded": {"replicas": 3}}, "pdb": {"enabled": True}},
    "bring-your-own-nats": {"nats": {"embedded": {"enabled": False}}},
    "single-namespace": {"namespaces": ["livekit-voice"]},
}
"""Each overlay of kustomize, and the values of the chart that are the same."""

ON = {"enabled": True}
LIVEKIT_URL = "http://livekit-server.livekit.svc"
COMPONENTS: Mapping[str, Object] = {
    "livekit-bridge": {"livekitBridge": ON | {"url": LIVEKIT_URL}},
    "podmonitor": {"podMonitor": ON},
    "prometheus-annotations": {"prometheusAnnotations": ON},
    "alerts": {"rules": ON},
    "tracing": {"tracing": ON},
    "grafana": {"dashboards": ON},
    "grafana-datasources": {"datasources": ON},
    "events": {"events": ON},
    "sub-stories": {"subStories": ON},
    "cert-manager": {"certManager": ON},
}
ALL = [name for name in COMPONENTS if name != "prometheus-annotations"]  # which podmonitor excludes

PRODUCTION = OVERLAYS["production"]
KINDS = (
    "deployments,statefulsets,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,"
    "roles,rolebindings,clusterroles,clusterrolebindings"
)
"""What the chart makes of the kinds that a kube-apiserver knows by itself, but for the Namespace."""


@pytest.fixture(scope="module")
async def cluster(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """One of their own: helm refuses what is there already."""
    async with ControlPlane(tmp_path_factory.mktemp("helm-cluster"), binaries=servers) as cluster:
        await cluster.install_crds(CRDS)
        yield cluster


@pytest.fixture(scope="module")
def kubectl(cluster: ControlPlane) -> Kubectl:
    return Kubectl(cluster)


@pytest.fixture
async def helm(cluster: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> AsyncIterator[Helm]:
    """Nothing is installed before, and nothing stays but the Namespace, as a helm uninstall leaves it."""
    yield Helm(tmp_path, cluster)
    await kubectl("delete", KINDS, "--all-namespaces", "-l", OURS)
    await kubectl("delete", "secrets", "-n", NAMESPACE, "-l", "owner=helm")
    release = ("meta.helm.sh/release-name=exeunt", f"meta.helm.sh/release-namespace={NAMESPACE}")
    await kubectl("label", "namespaces", "-l", OURS, "app.kubernetes.io/managed-by=Helm", "--overwrite")
    await kubectl("annotate", "namespaces", "-l", OURS, *release, "--overwrite")


@pytest.fixture
def renderer(tmp_path: Path) -> Helm:
    """Without a cluster, as Argo CD renders."""
    return Helm(tmp_path)


# The same objects.


def test_every_overlay_and_component_is_covered() -> None:
    for covered, folder in ((OVERLAYS, "overlays"), (COMPONENTS, "components")):
        assert covered.keys() == {path.name for path in (DEPLOY / folder).iterdir()}


@pytest.mark.parametrize(
    ("overlay", "components"),
    [
        *((overlay, []) for overlay in OVERLAYS),
        *((overlay, ALL) for overlay in OVERLAYS),
        *(("evaluation", [component]) for component in COMPONENTS),
        ("production", ["livekit-bridge", "prometheus-annotations"]),
    ],
)
async def test_makes_what_kustomize_makes(renderer: Helm, tmp_path: Path, overlay: str, components: list[str]) -> None:
    values = merged(OVERLAYS[overlay], *(COMPONENTS[name] for name in components))
    ours = by_key(await renderer.template(values))
    theirs = by_key(list(yaml.safe_load_all(await kustomize(kustomization(tmp_path, overlay, *components)))))
    assert ours.keys() == theirs.keys()
    for key, item in ours.items():
        assert without_what_may_differ(item) == without_what_may_differ(theirs[key]), key


def kustomization(folder: Path, overlay: str, *components: str) -> Path:
    """An overlay with components."""
    document: Object = {
        "resources": [os.path.relpath(DEPLOY / "overlays" / overlay, folder)],
        "components": [os.path.relpath(DEPLOY / "components" / name, folder) for name in components],
    }
    if "livekit-bridge" in components:
        own = [f"EXEUNT_LIVEKIT_URL={LIVEKIT_URL}"]
        settings = {"name": "exeunt-settings", "namespace": "exeunt", "behavior": "merge", "literals": own}
        document |= {"configMapGenerator": [settings]}
    (folder / "kustomization.yaml").write_text(json.dumps(document))
    return folder


def merged(*values: Object) -> Object:
    whole: Object = {}
    for each in values:
        whole |= deepcopy(each)
    return whole


Key = tuple[str, str, str, str]


def by_key(objects: list[Object]) -> dict[Key, Object]:
    """Refuses two of one key: whichever came last would win."""
    found = {key_of(item): item for item in objects}
    assert len(found) == len(objects)
    return found


def key_of(item: Object) -> Key:
    metadata = item["metadata"]
    return item["apiVersion"], item["kind"], metadata.get("namespace", ""), stable(metadata["name"])


def stable(name: str) -> str:
    """kustomize puts a hash of the settings into their name; the chart puts a checksum into Pods."""
    return "exeunt-settings" if name.startswith("exeunt-settings-") else name


def without_what_may_differ(item: Object) -> Object:
    """The object but for: who manages it, the chart's name, the settings' hash, and that the Namespace stays."""
    item = deepcopy(item)
    metadata = item["metadata"]
    manager = metadata["labels"].pop("app.kubernetes.io/managed-by")
    chart = metadata["labels"].pop("helm.sh/chart", None)
    assert (manager, chart) in {("kustomize", None), ("Helm", f"exeunt-{version()}")}
    metadata["name"] = stable(metadata["name"])
    if item["kind"] == "Namespace":
        assert metadata.pop("annotations", None) == ({"helm.sh/resource-policy": "keep"} if chart else None)
    if item["kind"] == "Deployment":
        template = item["spec"]["template"]
        annotations = template["metadata"].setdefault("annotations", {})
        assert bool(annotations.pop("checksum/settings", None)) == bool(chart)
        for source in template["spec"]["containers"][0]["envFrom"]:
            source["configMapRef"]["name"] = stable(source["configMapRef"]["name"])
    return item


def version() -> str:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    return str(project["version"])


async def test_the_values_in_the_documentation_are_those_of_production(renderer: Helm, tmp_path: Path) -> None:
    text = (DEPLOY.parent / "docs" / "operations.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    (values,) = (block for block in blocks if "replicaCount" in block)
    documented = by_key(await renderer.template(values))
    folder = kustomization(tmp_path, "production", "podmonitor")
    theirs = by_key(list(yaml.safe_load_all(await kustomize(folder))))
    assert documented.keys() == theirs.keys()
    (container,) = documented["apps/v1", "Deployment", NAMESPACE, "exeunt-watcher"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["image"] == f"registry.example.com/exeunt:{version()}"


async def test_the_version_is_that_of_the_package(renderer: Helm) -> None:
    chart = yaml.safe_load(await renderer("show", "chart", CHART))
    assert (chart["version"], chart["appVersion"]) == (version(), version())
    (pod,) = (DEPLOY / "pod" / "kustomization.yaml").read_text().split("images:")[1:]
    assert f"newTag: {version()}" in pod
    assert f"app.kubernetes.io/version: {version()}" in pod


async def test_is_linted(renderer: Helm) -> None:
    await renderer("lint", CHART, "--strict")


# What values do.


async def test_values_go_where_they_belong(renderer: Helm) -> None:
    digest = f"sha256:{'0' * 64}"
    objects = by_key(
        await renderer.template(
            {
                "global": {},  # what a chart gets that is a part of another one
                "image": {"repository": "registry.example.com/exeunt", "digest": digest},
                "imagePullSecrets": [{"name": "registry"}],
                "commonLabels": {"team": "voice"},
                "podLabels": {"release": "1.10"},
                "podAnnotations": {"example.com/weight": "007"},
                "nodeSelector": {"pool": "true"},
                "tolerations": [{"operator": "Exists"}],
                "priorityClassName": "high",
                "settings": {"EXEUNT_HISTORY_BYTES": "3000000000", "EXEUNT_DRAIN_BUDGET": "30s"},
                "terminationGracePeriodSeconds": 35,
                "namespaces": ["one", "two"],
                "networkPolicy": {"kubeApiserverPorts": [8443], "dnsPort": 5353},
                "nats": {"existingSecrets": {"watcher": "sealed"}, "embedded": {"config": "max_file_store: 18GB\n"}},
            },
        )
    )
    assert all(item["metadata"]["labels"]["team"] == "voice" for item in objects.values())
    deployment = objects["apps/v1", "Deployment", NAMESPACE, "exeunt-watcher"]
    template = deployment["spec"]["template"]
    pod, (container,) = template["spec"], template["spec"]["containers"]
    assert container["image"] == f"registry.example.com/exeunt@{digest}"
    assert template["metadata"]["labels"]["release"] == "1.10"
    assert template["metadata"]["annotations"]["example.com/weight"] == "007"
    assert pod["volumes"][0]["projected"]["sources"][0] == {"secret": {"name": "sealed"}}
    assert pod["terminationGracePeriodSeconds"] == 35
    for workload in (deployment, objects["apps/v1", "StatefulSet", NAMESPACE, "nats"]):
        scheduled = workload["spec"]["template"]["spec"]
        assert scheduled["nodeSelector"] == {"pool": "true"}
        assert scheduled["tolerations"] == [{"operator": "Exists"}]
        assert scheduled["imagePullSecrets"] == [{"name": "registry"}]
        assert scheduled["priorityClassName"] == "high"
    settings = objects["v1", "ConfigMap", NAMESPACE, "exeunt-settings"]["data"]
    assert settings["EXEUNT_HISTORY_BYTES"] == "3000000000"
    assert settings["EXEUNT_NAMESPACES"] == "one,two"
    assert {key[2] for key in objects if key[1] == "Role"} == {"one", "two"}
    assert objects["v1", "ConfigMap", NAMESPACE, "exeunt-nats-config"]["data"]["nats-server.conf"] == (
        "max_file_store: 18GB\n"
    )
    policy = objects["networking.k8s.io/v1", "NetworkPolicy", NAMESPACE, "exeunt-to-kube-apiserver"]
    assert policy["spec"]["egress"] == [{"ports": [{"protocol": "TCP", "port": 8443}]}]


async def test_other_settings_are_another_checksum(renderer: Helm) -> None:
    found = [
        by_key(await renderer.template(values))["apps/v1", "Deployment", NAMESPACE, "exeunt-watcher"]
        for values in ({}, {}, {"settings": {"EXEUNT_SHUTDOWN_TIMEOUT": "30s"}})
    ]
    first, same, other = (item["spec"]["template"]["metadata"]["annotations"]["checksum/settings"] for item in found)
    assert first == same != other


async def test_names_the_secrets_that_the_command_makes(renderer: Helm) -> None:
    values = yaml.safe_load(await renderer("show", "values", CHART))["nats"]
    existing = set(values["existingSecrets"].values())
    assert existing == {"exeunt-nats-tls", *(f"exeunt-nats-{pod}" for pod in PODS)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"nats": {"embeded": {}}}, "at '/nats': additional properties 'embeded' not allowed"),
        ({"settings": {"EXEUNT_SHUTDOWN_TIMOUT": "30s"}}, "additional properties 'EXEUNT_SHUTDOWN_TIMOUT' not allowed"),
        (
            {"settings": {"EXEUNT_HISTORY_BYTES": 3000000000}},
            "at '/settings/EXEUNT_HISTORY_BYTES': got number, want str",
        ),
        ({"image": {"tag": 1.10}}, "at '/image/tag': got number, want string"),
        ({"image": {"digest": "sha256:short"}}, "at '/image/digest'"),
        ({"replicaCount": "two"}, "at '/replicaCount': got string, want integer"),
        ({"nats": {"embedded": {"replicas": 2}}}, "at '/nats/embedded/replicas': value must be one of 1, 3"),
        ({"commonLabels": {"app.kubernetes.io/name": "mine"}}, "at '/commonLabels/app.kubernetes.io~1name'"),
        ({"livekitBridge": ON}, "livekitBridge.url is not set, and the LiveKit bridge cannot do without"),
        ({"podMonitor": True}, "at '/podMonitor': got boolean, want object"),
    ],
)
async def test_refuses_what_it_does_not_know(renderer: Helm, values: Object, message: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        await renderer.template(values)
    assert message in str(refused.value)


# On a cluster.

EVERYTHING = merged(
    PRODUCTION,
    *(COMPONENTS[name] for name in ("livekit-bridge", "tracing", "grafana", "grafana-datasources", "events")),
    {
        "commonLabels": {"team": "voice"},
        "podAnnotations": {"example.com/weight": "1"},
        "nodeSelector": {"pool": "voice"},
    },
)
"""What no kind of others is needed for."""


async def test_is_installed_upgraded_to_less_and_uninstalled(helm: Helm, kubectl: Kubectl) -> None:
    notes = await helm("install", "exeunt", CHART, "--create-namespace", values=EVERYTHING)
    assert "exeunt nats-credentials" in notes
    (namespace,) = await kubectl.get("namespace", NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert await installed(kubectl) == keys(await helm.template(EVERYTHING))

    await helm("upgrade", "exeunt", CHART, "--reset-values", values=merged(PRODUCTION))
    assert await installed(kubectl) == keys(await helm.template(PRODUCTION))
    for deployment in await kubectl.get("deployments", "-n", NAMESPACE):
        assert "team" not in deployment["metadata"]["labels"]
        template = deployment["spec"]["template"]
        assert template["metadata"]["annotations"].keys() == {"checksum/settings"}
        assert "nodeSelector" not in template["spec"]
    (role,) = await kubectl.get("clusterroles", "exeunt-terminator")
    assert all("events.k8s.io" not in rule["apiGroups"] for rule in role["rules"])

    before = await versions(kubectl)
    await helm("upgrade", "exeunt", CHART, values=merged(PRODUCTION))
    assert await versions(kubectl) == before  # nothing new is nothing written

    await helm("uninstall", "exeunt")
    assert await installed(kubectl) == set()
    (namespace,) = await kubectl.get("namespace", NAMESPACE)  # with the credentials in it
    assert "deletionTimestamp" not in namespace["metadata"]
    await helm("install", "exeunt", CHART, values={})


async def test_a_namespace_of_before_is_left_alone(helm: Helm, kubectl: Kubectl, cluster: ControlPlane) -> None:
    elsewhere = Helm(helm.folder, cluster, namespace="elsewhere")
    await kubectl("create", "namespace", "elsewhere")
    with pytest.raises(CommandFailed, match="invalid ownership metadata"):
        await elsewhere("install", "exeunt", CHART)
    await elsewhere("upgrade", "--install", "exeunt", CHART, values={"namespace": {"create": False}})
    assert await kubectl.get("deployment", "exeunt-watcher", "-n", "elsewhere")
    (binding,) = await kubectl.get("clusterrolebinding", "exeunt-watcher")
    assert {subject["namespace"] for subject in binding["subjects"]} == {"elsewhere"}
    with pytest.raises(CommandFailed, match=r"ClusterRole.*cannot be imported"):  # there is one for each cluster
        await helm("install", "exeunt", CHART, "--create-namespace")
    await elsewhere("uninstall", "exeunt")
    assert await installed(kubectl) == set()
    (namespace,) = await kubectl.get("namespace", "elsewhere")
    assert namespace["status"]["phase"] == "Active"


async def test_what_it_renders_is_applied_without_drift(helm: Helm, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", DEPLOY / "base" / "namespace.yaml")  # a dry run makes none, and needs one
    rendered = json.dumps({"apiVersion": "v1", "kind": "List", "items": await helm.template(EVERYTHING)}).encode()
    apply = ("apply", "--server-side", "--validate=strict", "--field-manager=gitops", "--force-conflicts", "-f", "-")
    await kubectl(*apply, "--dry-run=server", stdin=rendered)
    await kubectl(*apply, stdin=rendered)
    before = await versions(kubectl)
    await kubectl(*apply, stdin=rendered)
    assert await versions(kubectl) == before
    again = json.dumps({"apiVersion": "v1", "kind": "List", "items": await helm.template(EVERYTHING)}).encode()
    await kubectl("diff", "--server-side", "--field-manager=gitops", "--force-conflicts", "-f", "-", stdin=again)


@pytest.mark.parametrize(
    ("applied", "given_to_helm"),
    [([], True), ([], False), (["--server-side", "--force-conflicts"], False)],
    ids=["client-side, given to helm", "client-side", "server-side"],
)
async def test_takes_over_what_kubectl_has_installed(
    helm: Helm, kubectl: Kubectl, applied: list[str], *, given_to_helm: bool
) -> None:
    overlay = DEPLOY / "overlays" / "production"
    await kubectl("apply", *applied, "-k", overlay)
    before = await templates_of_pods(kubectl)
    if given_to_helm:
        await kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-k", overlay)
        await helm("install", "exeunt", CHART, "--take-ownership", values=PRODUCTION)
    else:
        await helm("install", "exeunt", CHART, "--take-ownership", "--server-side=false", values=PRODUCTION)
    assert await installed(kubectl) >= keys(await helm.template(PRODUCTION))
    after = await templates_of_pods(kubectl)
    assert after["nats"] == before["nats"]  # its Pods are as they were

    await helm("upgrade", "exeunt", CHART, values={**PRODUCTION, "watcher": {"resources": {"limits": None}}})
    (watcher,) = await kubectl.get("deployment", "exeunt-watcher", "-n", NAMESPACE)
    (container,) = watcher["spec"]["template"]["spec"]["containers"]
    assert container["resources"].keys() == {"requests"}  # what the chart drops is gone


async def test_gives_back_to_kubectl(helm: Helm, kubectl: Kubectl) -> None:
    await helm("install", "exeunt", CHART, "--create-namespace", values=PRODUCTION)
    overlay = DEPLOY / "overlays" / "production"
    await kubectl("apply", "-k", overlay)
    await helm("uninstall", "exeunt")
    wanted = list(yaml.safe_load_all(await kustomize(overlay)))
    assert await installed(kubectl) == keys(wanted)
    for deployment in await kubectl.get("deployments", "-n", NAMESPACE):
        (source,) = deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"]
        await kubectl.get("configmap", source["configMapRef"]["name"], "-n", NAMESPACE)


def keys(objects: list[Object]) -> set[Key]:
    return {key_of(item) for item in objects} - {("v1", "Namespace", "", NAMESPACE)}


async def installed(kubectl: Kubectl) -> set[Key]:
    return {key_of(item) for item in await kubectl.get(KINDS, "--all-namespaces", "-l", OURS)}


async def versions(kubectl: Kubectl) -> dict[Key, Any]:
    """Which write each object has last seen."""
    found = await kubectl.get(KINDS, "--all-namespaces", "-l", OURS)
    return {key_of(item): item["metadata"]["resourceVersion"] for item in found}


async def templates_of_pods(kubectl: Kubectl) -> dict[str, Object]:
    """The Pods' template of each workload: another one is a rolling update."""
    found = await kubectl.get("deployments,statefulsets", "-n", NAMESPACE)
    return {item["metadata"]["name"]: item["spec"]["template"] for item in found}
