"""What installations may differ in: where the chart has a value, and which object is in which of its files."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from template_yaml import ABSENT, Choice, Each, Template, when

Object = dict[str, Any]

EMBEDDED = "$.Values.nats.embedded.enabled"
OF_THREE = "eq (int $.Values.nats.embedded.replicas) 3"
EXTERNAL = f"not {EMBEDDED}"
POLICIES = "$.Values.networkPolicy.enabled"
BUDGETS = "$.Values.pdb.enabled"
BRIDGE = "$.Values.livekitBridge.enabled"
SCRAPED = "or $.Values.podMonitor.enabled $.Values.prometheusAnnotations.enabled"
NAMESPACE = Template("{{ $.Release.Namespace }}")

VALUES_OF_SERVICES = {
    "exeunt-watcher": "$.Values.watcher",
    "exeunt-terminator": "$.Values.terminator",
    "exeunt-timeout-scheduler": "$.Values.timeoutScheduler",
    "exeunt-livekit-bridge": "$.Values.livekitBridge",
}
EXISTING = {
    "exeunt-nats-watcher": "$.Values.nats.existingSecrets.watcher",
    "exeunt-nats-terminator": "$.Values.nats.existingSecrets.terminator",
    "exeunt-nats-timeout-scheduler": "$.Values.nats.existingSecrets.timeoutScheduler",
    "exeunt-nats-livekit-bridge": "$.Values.nats.existingSecrets.livekitBridge",
    "exeunt-nats-tls": "$.Values.nats.existingSecrets.tls",
    "exeunt-nats-users": "$.Values.nats.existingConfigMap",
    "livekit-keys": "$.Values.livekitBridge.existingSecret",
}
"""Secrets and ConfigMaps that the chart refers to and does not make."""

SETTINGS_OF_COMPONENTS = {
    "EXEUNT_KUBERNETES_EVENTS": "$.Values.events.enabled",
    "EXEUNT_PROPAGATE_CANCEL": "$.Values.subStories.enabled",
    "EXEUNT_LIVEKIT_KEYS": BRIDGE,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "$.Values.tracing.enabled",
}


def _if(*conditions: str) -> tuple[str, str]:
    if not conditions:
        return "", ""
    joined = conditions[0] if len(conditions) == 1 else "and " + " ".join(f"({each})" for each in conditions)
    return f"{{{{- if {joined} }}}}\n", "{{- end }}\n"


_IN_EACH_NAMESPACE = ('{{- range $namespace := $.Values.namespaces | default (list "") }}\n', "{{- end }}\n")
_SERVICES = ("exeunt-watcher", "exeunt-terminator", "exeunt-timeout-scheduler")

PLACES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "namespace.yaml": {"Namespace/exeunt": _if("$.Values.namespace.create")},
    "settings.yaml": {"ConfigMap/exeunt-settings": _if()},
    "rbac.yaml": {
        **{f"ServiceAccount/{name}": _if() for name in _SERVICES},
        **{f"ClusterRole/{name}": _IN_EACH_NAMESPACE for name in _SERVICES},
        **{f"ClusterRoleBinding/{name}": _IN_EACH_NAMESPACE for name in _SERVICES},
    },
    "deployments.yaml": {f"Deployment/{name}": _if() for name in _SERVICES},
    "network-policies.yaml": {
        **{f"NetworkPolicy/{name}": _if(POLICIES) for name in ("default-deny", "dns", "exeunt-to-kube-apiserver")},
        "NetworkPolicy/exeunt-to-nats": _if(POLICIES),
        "NetworkPolicy/nats": _if(POLICIES, EMBEDDED),
        "NetworkPolicy/exeunt-to-collector": _if(POLICIES, "$.Values.tracing.enabled"),
        "NetworkPolicy/prometheus-to-exeunt": _if(POLICIES, SCRAPED),
    },
    "disruption-budgets.yaml": {
        **{f"PodDisruptionBudget/{name}": _if(BUDGETS) for name in _SERVICES},
        "PodDisruptionBudget/nats": _if(BUDGETS, EMBEDDED),
    },
    "nats.yaml": {
        f"{kind}": _if(EMBEDDED)
        for kind in ("ConfigMap/exeunt-nats-config", "Service/nats", "Service/nats-headless", "StatefulSet/nats")
    },
    "livekit-bridge.yaml": {
        "Deployment/exeunt-livekit-bridge": _if(BRIDGE),
        "Service/exeunt-livekit-bridge": _if(BRIDGE),
        "PodDisruptionBudget/exeunt-livekit-bridge": _if(BRIDGE),
        "NetworkPolicy/livekit-to-exeunt": _if(POLICIES, BRIDGE),
        "NetworkPolicy/exeunt-to-livekit": _if(POLICIES, BRIDGE),
    },
    "monitoring.yaml": {
        "PodMonitor/exeunt": _if("$.Values.podMonitor.enabled"),
        "PrometheusRule/exeunt": _if("$.Values.rules.enabled"),
        "ConfigMap/exeunt-dashboards": _if("$.Values.dashboards.enabled"),
        "ConfigMap/exeunt-datasources": _if("$.Values.datasources.enabled"),
    },
    "cert-manager.yaml": {
        key: _if("$.Values.certManager.enabled")
        for key in (
            "Issuer/exeunt-nats-bootstrap", "Certificate/exeunt-nats-ca", "Issuer/exeunt-nats",
            "Certificate/exeunt-nats-tls",
        )
    },
}  # fmt: skip
"""Each object in its file, and what stands before and after it."""


def key_of(item: Object) -> str:
    """Kind and name; the settings without the hash that kustomize adds, in place of which Pods get a checksum."""
    name = re.sub(r"^exeunt-settings-\w+$", "exeunt-settings", item["metadata"]["name"])
    return f"{item['kind']}/{name}"


def edited(whole: Object, single: Object | None, external: Object | None) -> Object:
    """An object of the production overlay with every component, with markers where the chart has values.

    `single` is the same object in the overlay for one nats-server, `external` in the one for a NATS of one's own.
    """
    key = key_of(whole)
    item: Object = _replaced(deepcopy(whole))
    item["metadata"]["name"] = item["metadata"]["name"] if key == "Namespace/exeunt" else key.partition("/")[2]
    _label(item["metadata"]["labels"])
    match item["kind"]:
        case "Namespace":
            item["metadata"] |= {"name": NAMESPACE, "annotations": {"helm.sh/resource-policy": "keep"}}
        case "ClusterRole" | "ClusterRoleBinding":
            _edit_rights(item)
        case "Deployment":
            _edit_deployment(item)
        case "StatefulSet":
            _edit_stateful_set(item, single or {})
        case "ConfigMap":
            _edit_config_map(item)
        case "NetworkPolicy":
            _edit_network_policy(item, external)
        case "PodMonitor":
            item["metadata"]["labels"]["~common"] = Each(
                "merge (dict) $.Values.podMonitor.labels $.Values.commonLabels"
            )
        case "PrometheusRule":
            item["metadata"]["labels"]["~common"] = Each("merge (dict) $.Values.rules.labels $.Values.commonLabels")
            item["spec"] = Template('{{ (.Files.Get "files/rules.yaml" | fromYaml).spec | toJson }}')
    return item


def builtin_settings(whole: Mapping[str, str], single: Mapping[str, str], external: Mapping[str, str]) -> Object:
    """The settings that the chart comes with; the value `settings` goes over them."""
    found: Object = {}
    for name, value in whole.items():
        if name in SETTINGS_OF_COMPONENTS:
            found[name] = when(SETTINGS_OF_COMPONENTS[name], value)
        elif value == single.get(name) == external.get(name):
            found[name] = value
        else:
            branches = {EXTERNAL: external.get(name, ABSENT), OF_THREE: value, "": single.get(name, ABSENT)}
            found[name] = Choice(branches)
    found["EXEUNT_NATS_URL"].branches[EXTERNAL] = Template("{{ $.Values.nats.external.url | quote }}")
    found["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = when(
        SETTINGS_OF_COMPONENTS["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"],
        Template("{{ $.Values.tracing.endpoint | quote }}"),
    )
    found["EXEUNT_NAMESPACES"] = when("$.Values.namespaces", Template('{{ join "," $.Values.namespaces | quote }}'))
    url = "coalesce $.Values.livekitBridge.url $.Values.settings.EXEUNT_LIVEKIT_URL"
    missing = "livekitBridge.url is not set, and the LiveKit bridge cannot do without"
    found["EXEUNT_LIVEKIT_URL"] = when(BRIDGE, Template(f'{{{{ required "{missing}" ({url}) | quote }}}}'))
    return found


def _replaced(value: Any, key: str = "", within: str = "") -> Any:
    """What is replaced wherever it stands: the namespace, and what is only referred to."""
    if isinstance(value, dict):
        return {name: _replaced(item, name, key) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, key, within) for item in value]
    if key == "namespace" and value == "exeunt":
        return NAMESPACE
    if (key == "secretName" or (key == "name" and within in {"secret", "configMap"})) and value in EXISTING:
        return Template(f"{{{{ {EXISTING[value]} }}}}")
    if key == "name" and within == "configMapRef":
        return "exeunt-settings"
    if key == "dnsNames" and (found := re.fullmatch(r"(.*)\.exeunt(\.svc)?", value)):
        return Template(f"{found[1]}.{NAMESPACE}{found[2] or ''}")
    return value


def _label(labels: Object) -> None:
    labels.pop("app.kubernetes.io/managed-by")
    _label_pod(labels)
    labels["app.kubernetes.io/managed-by"] = Template("{{ $.Release.Service }}")
    labels["helm.sh/chart"] = Template('{{ include "exeunt.chart" $ }}')
    labels["~common"] = Each("$.Values.commonLabels")


def _label_pod(labels: Object) -> None:
    if "app.kubernetes.io/version" in labels:
        labels["app.kubernetes.io/version"] = Template("{{ $.Chart.AppVersion | quote }}")


def _edit_rights(item: Object) -> None:
    """For all namespaces, or for each that is named."""
    kind = Template(
        f"{{{{ if $namespace }}}}{item['kind'].removeprefix('Cluster')}{{{{ else }}}}{item['kind']}{{{{ end }}}}"
    )
    item["kind"] = kind
    item["metadata"]["namespace"] = when("$namespace", Template("{{ $namespace }}"))
    if "roleRef" in item:
        item["roleRef"]["kind"] = Template("{{ if $namespace }}Role{{ else }}ClusterRole{{ end }}")
    elif item["metadata"]["name"] == "exeunt-terminator":
        *rules, events, sub_stories = item["rules"]
        rules.append(when("$.Values.events.enabled", events))
        rules.append(when("$.Values.subStories.enabled", sub_stories))
        item["rules"] = rules


def _edit_deployment(item: Object) -> None:
    values = VALUES_OF_SERVICES[item["metadata"]["name"]]
    item["spec"]["replicas"] = Template("{{ int $.Values.replicaCount }}")
    template = item["spec"]["template"]
    _label_pod(template["metadata"]["labels"])
    template["metadata"]["labels"]["~pod"] = Each("$.Values.podLabels")
    template["metadata"]["annotations"] = {
        "checksum/settings": Template('{{ include "exeunt.settings" $ | sha256sum }}'),
        **{
            f"prometheus.io/{name}": when("$.Values.prometheusAnnotations.enabled", value)
            for name, value in (("scrape", "true"), ("port", "8080"), ("path", "/metrics"))
        },
        "~pod": Each("$.Values.podAnnotations"),
    }
    pod = template["spec"]
    (container,) = pod["containers"]
    _edit_container(container, "$.Values.image", f"{values}.resources", "$.Chart.AppVersion")
    pod["terminationGracePeriodSeconds"] = Template("{{ int $.Values.terminationGracePeriodSeconds }}")
    own = "$.Values.topologySpreadConstraints"
    spread = {own: Template(f"{{{{ toJson {own} }}}}"), "": pod["topologySpreadConstraints"]}
    pod["topologySpreadConstraints"] = Choice(spread)
    pod |= {"affinity": _optional("$.Values.affinity"), **_scheduling()}


def _edit_stateful_set(item: Object, single: Object) -> None:
    spec, values = item["spec"], "$.Values.nats.embedded"
    spec["replicas"] = Template(f"{{{{ int {values}.replicas }}}}")
    pod = spec["template"]["spec"]
    for name in ("affinity", "topologySpreadConstraints"):
        pod[name] = when(OF_THREE, pod[name])
    server, reloader = pod["containers"]
    _edit_container(server, f"{values}.image", f"{values}.resources", '""')
    _edit_container(reloader, f"{values}.reloader.image", f"{values}.reloader.resources", '""')
    (limit,) = (variable for variable in server["env"] if variable["name"] == "GOMEMLIMIT")
    limit["value"] = Template(f"{{{{ {values}.goMemLimit | quote }}}}")
    (data,) = (volume for volume in single["spec"]["template"]["spec"]["volumes"] if volume["name"] == "data")
    pod["volumes"].append(when(f"not ({OF_THREE})", data))
    pod |= _scheduling()
    (claim,) = spec["volumeClaimTemplates"]
    claim["spec"]["resources"]["requests"]["storage"] = Template(f"{{{{ {values}.persistence.size }}}}")
    claim["spec"]["storageClassName"] = when(
        f"{values}.persistence.storageClassName", Template(f"{{{{ {values}.persistence.storageClassName }}}}")
    )
    spec["volumeClaimTemplates"] = when(OF_THREE, [claim])


def _edit_container(container: Object, image: str, resources: str, default_tag: str) -> None:
    container["image"] = Template(f'{{{{ include "exeunt.image" (list {image} {default_tag}) }}}}')
    container["imagePullPolicy"] = Template(f"{{{{ {image}.pullPolicy }}}}")
    container["resources"] = Template(f"{{{{ toJson {resources} }}}}")


def _scheduling() -> Object:
    """What any Pod may be given."""
    names = ("imagePullSecrets", "nodeSelector", "tolerations", "priorityClassName")
    return {name: _optional(f"$.Values.{name}") for name in names}


def _optional(value: str) -> Choice:
    return when(value, Template(f"{{{{ toJson {value} }}}}"))


def _edit_config_map(item: Object) -> None:
    match item["metadata"]["name"]:
        case "exeunt-settings":
            item["data"] = Template('{{ include "exeunt.settings" $ | fromYaml | toJson }}')
        case "exeunt-nats-config":
            item["data"] = {
                "accounts.conf": _file("accounts.conf"),
                "nats-server.conf": Choice(
                    {
                        "$.Values.nats.embedded.config": Template("{{ toJson $.Values.nats.embedded.config }}"),
                        OF_THREE: _file("nats-server-of-three.conf"),
                        "": _file("nats-server.conf"),
                    }
                ),
            }
        case "exeunt-dashboards":
            item["data"] = {name: _file(name) for name in item["data"]}
        case "exeunt-datasources":
            (name,) = item["data"]
            item["data"] = {name: Template('{{ include "exeunt.datasources" $ | toJson }}')}


def _file(name: str) -> Template:
    return Template(f'{{{{ .Files.Get "files/{name}" | toJson }}}}')


def _edit_network_policy(item: Object, external: Object | None) -> None:
    spec, values = item["spec"], "$.Values.networkPolicy"
    match item["metadata"]["name"]:
        case "exeunt-to-kube-apiserver":
            ports = f"{values}.kubeApiserverPorts"
            spec["egress"] = [{"ports": Template(f'{{{{ include "exeunt.tcpPorts" {ports} }}}}')}]
        case "dns":
            (rule,) = spec["egress"]
            namespaces, node_local = rule["to"]
            namespaces["namespaceSelector"]["matchLabels"] = _namespace(f"{values}.dnsNamespace")
            node_local["ipBlock"]["cidr"] = Template(f"{{{{ {values}.nodeLocalDnsCidr }}}}")
            for port in rule["ports"]:
                port["port"] = Template(f"{{{{ int {values}.dnsPort }}}}")
        case "exeunt-to-nats" if external:
            (own,) = external["spec"]["egress"]
            own["ports"] = Template('{{ include "exeunt.tcpPorts" $.Values.nats.external.ports }}')
            spec["egress"] = Choice({EMBEDDED: spec["egress"], "": [own]})
        case "exeunt-to-collector":
            (rule,) = spec["egress"]
            rule["to"][0]["namespaceSelector"]["matchLabels"] = _namespace(f"{values}.monitoringNamespace")
            rule["ports"][0]["port"] = Template("{{ int $.Values.tracing.port }}")
        case "prometheus-to-exeunt":
            spec["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"] = _namespace(
                f"{values}.monitoringNamespace"
            )


def _namespace(value: str) -> Object:
    return {"kubernetes.io/metadata.name": Template(f"{{{{ {value} }}}}")}
