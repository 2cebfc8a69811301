"""Every overlay builds, is accepted by a real kube-apiserver to the letter, and holds nothing that it should not."""

import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from actors.installation import DEPLOY, NAMESPACE, CommandFailed, Kubectl, Object, kustomize
from exeunt.clock import parse_duration
from exeunt.settings import read_settings
from exeunt_cli.nats_credentials import PODS, write_credentials

OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (DEPLOY / "components").iterdir())
FOREIGN = {"PodMonitor", "PrometheusRule", "Issuer", "Certificate"}
"""Kinds of others, which the kube-apiserver of the tests does not know."""

pytestmark = pytest.mark.usefixtures("cluster")
BRIDGE = "livekit-bridge"
each_overlay = pytest.mark.parametrize("overlay", [*OVERLAYS, *(f"{overlay} {BRIDGE}" for overlay in OVERLAYS)])
"""Each by itself, and with the one component that brings Pods of its own."""
OPERATIONS = (DEPLOY.parent / "docs" / "operations.md").read_text()


async def build(overlay: str) -> list[Object]:
    """An overlay; with components, when their names follow."""
    name, *components = overlay.split(" ")
    if not components:
        return list(yaml.safe_load_all(await kustomize(DEPLOY / "overlays" / name)))
    with TemporaryDirectory() as folder:
        return await build_with(Path(folder), *components, overlay=name)


async def build_with(folder: Path, *components: str, overlay: str = "evaluation") -> list[Object]:
    deploy = path_from(folder, DEPLOY)
    paths = [f"{deploy}/components/{name}" for name in components]
    return await build_own(folder, {"resources": [f"{deploy}/overlays/{overlay}"], "components": paths})


def path_from(folder: Path, there: Path) -> str:
    """kustomize takes relative paths only."""
    return os.path.relpath(there, folder)


async def build_own(folder: Path, kustomization: Object) -> list[Object]:
    """A kustomization of one's own in that folder."""
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return list(yaml.safe_load_all(await kustomize(folder)))


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def pods_of(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each workload's name, and its Pod as the workload's controller would make it."""
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        name, pod = workload["metadata"]["name"], workload["spec"]["template"]
        for claim in workload["spec"].get("volumeClaimTemplates", []):
            volume = claim["metadata"]["name"]
            pod["spec"]["volumes"].append(
                {"name": volume, "persistentVolumeClaim": {"claimName": f"{volume}-{name}-0"}}
            )
        metadata = {**pod["metadata"], "name": name, "namespace": NAMESPACE}
        yield name, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


async def apply_strictly(kubectl: Kubectl, objects: list[Object]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    words = ("apply", "--server-side", "--validate=strict", "--dry-run=server", "--force-conflicts", "-f", "-")
    await kubectl(*words, stdin=json.dumps(listed).encode())


@each_overlay
async def test_is_accepted_strictly_validated(kubectl: Kubectl, overlay: str) -> None:
    await apply_strictly(kubectl, await build(overlay))


@pytest.mark.parametrize("overlay", ["evaluation", "single-namespace"])
@pytest.mark.parametrize("component", COMPONENTS)
async def test_a_component_fits_on_top(kubectl: Kubectl, tmp_path: Path, component: str, overlay: str) -> None:
    plain, objects = await build(overlay), await build_with(tmp_path, component, overlay=overlay)
    assert objects != plain
    assert rights(objects) - rights(plain) == RIGHTS_OF_COMPONENTS.get(component, set())
    await apply_strictly(kubectl, [item for item in objects if item["kind"] not in FOREIGN])


RIGHTS_OF_COMPONENTS = {
    "events": {("exeunt-terminator", "create", "events")},
    "sub-stories": {("exeunt-terminator", "patch", "storyruns")},
}


def rights(objects: list[Object]) -> set[tuple[str, str, str]]:
    """What Roles and ClusterRoles grant: (role, verb, resource)."""
    return {
        (role["metadata"]["name"], verb, resource)
        for role in of_kind(objects, "Role", "ClusterRole")
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


async def test_strict_means_that_a_typo_is_refused(kubectl: Kubectl) -> None:
    (deployment, *_) = of_kind(await build("evaluation"), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(CommandFailed, match="readinesProbe"):
        await apply_strictly(kubectl, [deployment])


@each_overlay
async def test_pods_are_admitted_where_restricted_is_enforced(kubectl: Kubectl, overlay: str) -> None:
    (namespace,) = await kubectl.get("namespace", NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    create = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
    for _, pod in pods_of(await build(overlay)):
        await kubectl(*create, stdin=json.dumps(pod).encode())
        del pod["spec"]["securityContext"]["runAsNonRoot"]
        with pytest.raises(CommandFailed, match="violates PodSecurity"):
            await kubectl(*create, stdin=json.dumps(pod).encode())


@each_overlay
async def test_pods_have_what_a_careful_cluster_asks_for(overlay: str) -> None:
    for _, item in pods_of(await build(overlay)):
        pod = item["spec"]
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert container["resources"]["limits"].keys() == {"memory"}
            image, _, tag = container["image"].rpartition(":")
            assert image, "the tag is missing"
            assert tag[0].isdigit(), "the tag is no version"
        main = pod["containers"][0]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= main.keys()


@each_overlay
async def test_settings_are_settings_and_leave_time_to_drain(overlay: str) -> None:
    objects = await build(overlay)
    config = settings_of(objects)
    settings = read_settings(config["data"])
    for name, pod in pods_of(objects):
        if name != "nats":
            grace = timedelta(seconds=pod["spec"]["terminationGracePeriodSeconds"])
            assert grace == settings.drain_budget + timedelta(seconds=5)
            assert pod["spec"]["containers"][0]["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    assert parse_duration(config["data"]["EXEUNT_DRAIN_BUDGET"]) == settings.drain_budget
    nats = [item["spec"]["replicas"] for item in of_kind(objects, "StatefulSet")]
    assert nats in ([], [settings.stream_replicas])


def settings_of(objects: list[Object]) -> Object:
    (config,) = (
        item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"].startswith("exeunt-settings")
    )
    return config


@each_overlay
async def test_labels_are_the_recommended_ones_and_selectors_the_stable_ones(overlay: str) -> None:
    for workload in of_kind(await build(overlay), "Deployment", "StatefulSet"):
        labels = {key.removeprefix("app.kubernetes.io/") for key in workload["metadata"]["labels"]}
        assert labels >= {"name", "instance", "component", "part-of", "managed-by"}
        selector = workload["spec"]["selector"]["matchLabels"]
        assert selector.keys() == {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")}
        assert selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


@each_overlay
async def test_ships_no_secret_and_mounts_only_ones_own(overlay: str, tmp_path: Path) -> None:
    objects = await build(overlay)
    assert not of_kind(objects, "Secret")
    write_credentials(tmp_path / "credentials", namespace=NAMESPACE)
    made = {
        (item["kind"], item["metadata"]["name"]): item["data"].keys()
        for item in yaml.safe_load_all(await kustomize(tmp_path / "credentials"))
    }
    for name, pod in pods_of(objects):
        sources = [
            source for volume in pod["spec"]["volumes"] for source in volume.get("projected", {}).get("sources", [])
        ]
        secrets = {source["secret"]["name"]: source["secret"].get("items") for source in sources if "secret" in source}
        if name == f"exeunt-{BRIDGE}":  # its users make that one
            assert secrets.pop("livekit-keys") == [{"key": "keys.yaml", "path": "keys.yaml"}]
        for secret, items in secrets.items():
            assert {item["key"] for item in items or []} <= made["Secret", secret]
        if name == "nats":
            assert secrets.keys() == {"exeunt-nats-tls"}
        else:
            assert name.removeprefix("exeunt-") in PODS
            assert secrets == {
                f"exeunt-nats-{name.removeprefix('exeunt-')}": None,
                "exeunt-nats-tls": [{"key": "ca.crt", "path": "ca.crt"}],
            }


async def test_a_single_namespace_needs_no_right_beyond_it() -> None:
    objects = await build("single-namespace")
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    rules = {item["metadata"]["name"]: item["rules"] for item in of_kind(objects, "Role")}
    assert rules == {
        item["metadata"]["name"]: item["rules"] for item in of_kind(await build("production"), "ClusterRole")
    }
    for binding in of_kind(objects, "RoleBinding"):
        assert binding["metadata"]["namespace"] == "livekit-voice"
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": binding["metadata"]["name"],
        }


@pytest.mark.parametrize("overlay", ["production", f"production {BRIDGE}"])
async def test_production_has_no_single_point_of_failure(overlay: str) -> None:
    objects = await build(overlay)
    workloads = {item["metadata"]["name"]: item for item in of_kind(objects, "Deployment", "StatefulSet")}
    budgets = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "PodDisruptionBudget")}
    assert workloads.keys() == budgets.keys()
    for name, workload in workloads.items():
        assert workload["spec"]["replicas"] == (3 if name == "nats" else 2)
        assert budgets[name]["maxUnavailable"] == 1
        assert budgets[name]["selector"] == workload["spec"]["selector"]
        assert workload["spec"]["template"]["spec"]["topologySpreadConstraints"]
    servers = workloads["nats"]["spec"]
    assert servers["volumeClaimTemplates"]
    (never_together,) = servers["template"]["spec"]["affinity"]["podAntiAffinity"].pop(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    assert never_together["topologyKey"] == "kubernetes.io/hostname"
    assert never_together["labelSelector"]["matchLabels"].items() <= servers["template"]["metadata"]["labels"].items()
    (config,) = (item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"] == "exeunt-nats-config")
    assert "sync_interval: always" in config["data"]["nats-server.conf"]


@pytest.mark.parametrize("overlay", ["evaluation", "production"])
async def test_nats_has_room_for_its_store_and_less_heap_than_memory(overlay: str) -> None:
    objects = await build(overlay)
    (config,) = (item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"] == "exeunt-nats-config")
    store = re.search(r"max_file_store: (\d+)GB", config["data"]["nats-server.conf"])  # nats-server reads 2^30 bytes
    (servers,) = (item["spec"] for item in of_kind(objects, "StatefulSet"))
    pod = servers["template"]["spec"]
    if "volumeClaimTemplates" in servers:
        (volume,) = (claim["spec"]["resources"]["requests"]["storage"] for claim in servers["volumeClaimTemplates"])
    else:
        (volume,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "data")
    assert store is not None
    assert int(volume.removesuffix("Gi")) > int(store[1])
    (server,) = (container for container in pod["containers"] if container["name"] == "nats")
    (heap,) = (variable["value"] for variable in server["env"] if variable["name"] == "GOMEMLIMIT")
    assert int(heap.removesuffix("MiB")) < int(server["resources"]["limits"]["memory"].removesuffix("Mi"))


async def test_the_component_for_tracing_pushes_no_metrics(tmp_path: Path) -> None:
    settings = settings_of(await build_with(tmp_path, "tracing"))["data"]
    assert {name: value for name, value in settings.items() if name.startswith("OTEL_")} == {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://otel-collector.monitoring.svc:4318/v1/traces"
    }


async def test_the_network_is_closed_but_for_what_is_needed(tmp_path: Path) -> None:
    assert (
        await opened("evaluation")
        == await opened("production")
        == OPEN
        | {
            ("exeunt", "egress", "nats", 4222),
            ("nats", "ingress", "exeunt", 4222),
            ("nats", "ingress", "nats-client of any namespace", 4222),
            ("nats", "egress", "nats", 6222),
            ("nats", "ingress", "nats", 6222),
        }
    )
    assert await opened("bring-your-own-nats") == OPEN | {("exeunt", "egress", "anywhere", 4222)}
    added = edges(await build_with(tmp_path, "podmonitor", "tracing")) - await opened("evaluation")
    assert added == {("exeunt", "ingress", "monitoring", "http"), ("exeunt", "egress", "monitoring", 4318)}
    for overlay in OVERLAYS:
        assert await opened(f"{overlay} {BRIDGE}") - await opened(overlay) == {
            ("exeunt livekit-bridge", "ingress", "anywhere", "webhook"),
            ("exeunt livekit-bridge", "egress", "anywhere", 7880),
            ("exeunt livekit-bridge", "egress", "anywhere", 443),
        }


@each_overlay
async def test_who_has_no_business_with_kubernetes_has_no_way_there(overlay: str) -> None:
    objects = await build(overlay)
    with_token = {name for name, pod in pods_of(objects) if pod["spec"]["automountServiceAccountToken"]}
    assert with_token == {"exeunt-watcher", "exeunt-terminator", "exeunt-timeout-scheduler"}
    assert with_token == {name for name, pod in pods_of(objects) if "serviceAccountName" in pod["spec"]}
    (policy,) = (
        item["spec"]
        for item in of_kind(objects, "NetworkPolicy")
        if item["metadata"]["name"].endswith("kube-apiserver")
    )
    assert with_token == {
        name for name, pod in pods_of(objects) if selects(policy["podSelector"], pod["metadata"]["labels"])
    }


def selects(selector: Object, labels: Object) -> bool:
    """Whether a label selector, as far as NetworkPolicies in here have one, selects what has these labels."""
    unlike = [expression for expression in selector.get("matchExpressions", []) if expression["operator"] == "NotIn"]
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    assert unlike == selector.get("matchExpressions", [])
    return selector.get("matchLabels", {}).items() <= labels.items() and not any(
        labels.get(expression["key"]) in expression["values"] for expression in unlike
    )


async def test_webhooks_find_a_bridge_that_is_not_ready() -> None:
    objects = await build(f"evaluation {BRIDGE}")
    (service,) = (
        item["spec"] for item in of_kind(objects, "Service") if item["metadata"]["name"] == f"exeunt-{BRIDGE}"
    )
    assert service["publishNotReadyAddresses"] is True
    found = [(name, pod) for name, pod in pods_of(objects) if service["selector"].items() <= labels_of(pod).items()]
    ((name, pod),) = found
    assert name == f"exeunt-{BRIDGE}"
    (port,) = service["ports"]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert (port["port"], ports[port["targetPort"]]) == (8090, 8090)


def labels_of(item: Object) -> Object:
    labels: Object = item["metadata"]["labels"]
    return labels


async def test_the_example_of_an_ingress_is_one(kubectl: Kubectl) -> None:
    (ingress,) = yaml.safe_load_all((DEPLOY / "examples" / "livekit-bridge-ingress.yaml").read_text())
    await apply_strictly(kubectl, [ingress])
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    services = {
        item["metadata"]["name"]: item["spec"] for item in of_kind(await build(f"evaluation {BRIDGE}"), "Service")
    }
    backend = path["backend"]["service"]
    assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]["ports"]}


@each_overlay
async def test_prometheus_is_reported_of_every_service(overlay: str) -> None:
    objects = await build(f"{overlay} prometheus-annotations")
    for deployment in of_kind(objects, "Deployment"):
        template = deployment["spec"]["template"]
        ports = {str(port["containerPort"]) for port in template["spec"]["containers"][0]["ports"]}
        assert template["metadata"]["annotations"]["prometheus.io/port"] in ports


OPEN = {
    ("all", "egress", "kube-system", 53),
    ("all", "egress", "169.254.20.10/32", 53),
    ("exeunt", "egress", "anywhere", 443),
    ("exeunt", "egress", "anywhere", 6443),
}


async def opened(overlay: str) -> set[tuple[str, str, str, Any]]:
    return edges(await build(overlay))


def edges(objects: list[Object]) -> set[tuple[str, str, str, Any]]:
    """What the NetworkPolicies let through: (pods, direction, peer, port). Fails when they do not close the rest."""
    policies = of_kind(objects, "NetworkPolicy")
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [policy["spec"] for policy in policies]
    return {
        (_who(policy["spec"]["podSelector"]), direction, peer, port["port"])
        for policy in policies
        for direction, side in (("ingress", "from"), ("egress", "to"))
        for rule in policy["spec"].get(direction, [])
        for peer in ([_peer(peer) for peer in rule[side]] if side in rule else ["anywhere"])
        for port in rule["ports"]
    }


def _who(selector: Object) -> str:
    labels = selector.get("matchLabels", {})
    named = [
        labels[f"app.kubernetes.io/{key}"] for key in ("name", "component") if f"app.kubernetes.io/{key}" in labels
    ]
    return " ".join(named) or "all"


def _peer(peer: Object) -> str:
    labels = {**peer.get("podSelector", {}).get("matchLabels", {})}
    if "exeunt.bubustack.io/nats-client" in labels:
        return "nats-client of any namespace"
    if "ipBlock" in peer:
        return str(peer["ipBlock"]["cidr"])
    if "namespaceSelector" in peer:
        return str(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
    return str(labels["app.kubernetes.io/name"])


async def test_the_kustomizations_of_the_documentation_do_what_they_say(kubectl: Kubectl, tmp_path: Path) -> None:
    overlay, network, store = documented()
    checkout = path_from(tmp_path, DEPLOY.parent)
    (tmp_path / "nats-server.conf").write_text("max_file_store: 18GB")
    written = [overlay, {"resources": ["../exeunt/deploy/overlays/evaluation"], **network}]
    written.append({"resources": overlay["resources"], **store})
    plain = await build("evaluation")
    own, patched, grown = [
        await build_own(tmp_path, json.loads(json.dumps(each).replace("../exeunt/", f"{checkout}/")))
        for each in written
    ]
    images = {name: [container["image"] for container in pod["spec"]["containers"]] for name, pod in pods_of(own)}
    assert images.pop("nats")[0] == "registry.example.com/nats:2.15.1-alpine"
    assert [*images.values()] == [["registry.example.com/exeunt:0.1.0"]] * 3
    assert read_settings(settings_of(own)["data"]).shutdown_timeout == timedelta(seconds=30)
    assert of_kind(own, "PodMonitor")
    assert edges(patched) - edges(plain) == {
        ("exeunt", "egress", "anywhere", 8443),
        ("all", "egress", "openshift-dns", 5353),
    }
    (servers,) = of_kind(grown, "StatefulSet")
    assert servers["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "20Gi"
    configs = {item["metadata"]["name"]: item["data"] for item in of_kind(grown, "ConfigMap")}
    assert configs["exeunt-nats-config"]["nats-server.conf"] == "max_file_store: 18GB"
    for objects in (own, patched, grown):
        await apply_strictly(kubectl, [item for item in objects if item["kind"] not in FOREIGN])


async def test_the_kustomization_for_livekit_does_what_it_says(kubectl: Kubectl, tmp_path: Path) -> None:
    (written,) = documented((DEPLOY.parent / "docs" / "livekit.md").read_text())
    text = json.dumps(written).replace("../exeunt/", f"{path_from(tmp_path, DEPLOY.parent)}/")
    objects = await build_own(tmp_path, json.loads(text.replace("livekit-server.livekit", "mine")))
    await apply_strictly(kubectl, objects)
    settings = settings_of(objects)["data"]
    assert settings["EXEUNT_LIVEKIT_URL"] == "http://mine.svc"
    assert {name for name, _ in pods_of(objects)} - {name for name, _ in pods_of(await build("production"))} == {
        f"exeunt-{BRIDGE}"
    }
    mounts = dict(pods_of(objects))[f"exeunt-{BRIDGE}"]["spec"]["containers"][0]["volumeMounts"]
    assert settings["EXEUNT_LIVEKIT_KEYS"].rpartition("/")[0] in {mount["mountPath"] for mount in mounts}


def documented(text: str = OPERATIONS) -> list[Object]:
    """The kustomizations in a document, in its order."""
    found = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    return [block for block in found if block.keys() & {"resources", "patches", "configMapGenerator"}]


def test_cert_manager_makes_what_the_command_makes(tmp_path: Path) -> None:
    write_credentials(tmp_path, namespace=NAMESPACE)
    documents = list(yaml.safe_load_all((DEPLOY / "components" / "cert-manager" / "certificates.yaml").read_text()))
    (certificate,) = (item for item in documents if item["metadata"]["name"] == "exeunt-nats-tls")
    assert certificate["spec"]["secretName"] == "exeunt-nats-tls"
    assert certificate["spec"]["dnsNames"] == names_of(tmp_path / "tls.crt")


def test_run_again_it_keeps_what_it_was_reported_and_what_was_edited(tmp_path: Path) -> None:
    write_credentials(tmp_path, namespace="elsewhere", names=["nats.example.org", "10.0.0.1"])
    names, kustomization = names_of(tmp_path / "tls.crt"), tmp_path / "kustomization.yaml"
    assert {"nats.example.org", "nats.elsewhere.svc"} <= {*names}
    edited = kustomization.read_text().replace("exeunt-nats-tls", "mine")
    kustomization.write_text(edited)
    seeds = [(tmp_path / f"{pod}.seed").read_text() for pod in PODS]
    certificate = (tmp_path / "tls.crt").read_text()
    with pytest.raises(ValueError, match="for the namespace elsewhere: delete it"):
        write_credentials(tmp_path, namespace="exeunt")
    assert (tmp_path / "tls.crt").read_text() == certificate
    write_credentials(tmp_path, names=["nats.example.com"])
    assert names_of(tmp_path / "tls.crt") == [*names[:12], "nats.example.com", "nats.example.org"]
    assert kustomization.read_text() == edited
    assert [(tmp_path / f"{pod}.seed").read_text() for pod in PODS] == seeds
    assert (tmp_path / "tls.crt").read_text() != certificate


def test_a_folder_of_before_the_bridge_gets_what_it_lacks(tmp_path: Path) -> None:
    write_credentials(tmp_path)
    kustomization, seed = tmp_path / "kustomization.yaml", tmp_path / f"{BRIDGE}.seed"
    whole = yaml.safe_load(kustomization.read_text())
    before = re.sub(rf".*{BRIDGE}.*\n", "", kustomization.read_text()).replace("exeunt-nats-tls", "mine")
    kustomization.write_text(before)
    write_credentials(tmp_path)
    assert kustomization.read_text() == before  # what somebody has taken out of a folder that knew the user stays out
    seed.unlink()
    write_credentials(tmp_path)
    after = yaml.safe_load(kustomization.read_text())
    secrets = {secret["name"]: secret["files"] for secret in after["secretGenerator"]}
    wanted = {secret["name"]: secret["files"] for secret in whole["secretGenerator"]}
    assert secrets.pop("mine") == wanted.pop("exeunt-nats-tls")
    assert secrets == wanted
    assert seed.exists()


def names_of(certificate: Path) -> list[str]:
    from cryptography import x509  # noqa: PLC0415

    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)
