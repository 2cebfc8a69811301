"""What tests about traces and Events share: the lines of `actors.collector.tree`, and the right to write Events."""

from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from exeunt_local.control_plane import ControlPlane

_EVENTS: Final = Path(__file__).parents[2] / "deploy" / "components" / "events" / "kustomization.yaml"

ROOT: Final = "watcher: send cancel-requested"

_RUNS: Final = "/apis/runs.bubustack.io/v1alpha1/namespaces/{namespace}"

READ: Final = f"terminator: GET {_RUNS}/storyruns/{{name}}"
PATCH: Final = f"terminator: PATCH {_RUNS}/storyruns/{{name}}/status"
DELETE: Final = f"terminator: DELETE {_RUNS}/stepruns"


async def let_the_terminator_write_events(control_plane: ControlPlane, namespace: str) -> None:
    """Gives it in one namespace what deploy/components/events gives it in all."""
    component = yaml.safe_load(_EVENTS.read_text())
    rule = yaml.safe_load(component["patches"][0]["patch"])[0]["value"]
    rbac: dict[str, Any] = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    metadata = {"name": "exeunt-terminator-events", "namespace": namespace}
    account = {"kind": "ServiceAccount", "name": "exeunt-terminator", "namespace": "exeunt"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": metadata["name"]}
    await control_plane.apply(
        {**rbac, "kind": "Role", "metadata": metadata, "rules": [rule]},
        {**rbac, "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": [account]},
    )
