"""Helm, as who installs the chart runs it: built once from its Go module, like the servers of a local mesh."""

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from actors.installation import DEPLOY, NAMESPACE, Object, command
from exeunt_local.control_plane import ControlPlane
from exeunt_local.go_build import GoModule, Program, pinned

CHART = DEPLOY / "chart"
_FOLDER = Path(__file__).parents[1] / "helm_module"
MODULE = GoModule(
    "helm",
    pinned(_FOLDER, "helm.sh/helm/v4"),
    _FOLDER,
    {"helm": Program("helm.sh/helm/v4/cmd/helm")},
    duration="about 3 minutes on 2 cores",
)


def find() -> Path:
    """Helm as it is on this machine."""
    program = MODULE.built_folder() / "helm"
    assert program.is_file(), "helm is not built yet: run `python tests/prepare_helm.py` first"
    return program


class Helm:
    """helm, as the cluster's admin; what it remembers between commands is in `folder`."""

    def __init__(self, folder: Path, control_plane: ControlPlane | None = None, *, namespace: str = NAMESPACE) -> None:
        kubeconfig = control_plane.kubeconfig if control_plane else folder / "no-kubeconfig"
        homes = {f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        self.folder = folder
        self._namespace = namespace
        self._env = [f"{key}={value}" for key, value in {"KUBECONFIG": str(kubeconfig), **homes}.items()]

    async def __call__(self, *words: str | Path, values: Object | None = None) -> str:
        """What it prints; raises CommandFailed with what it says on stderr."""
        given = ["--values", "-"] if values is not None else []
        stdin = yaml.safe_dump(values or {}).encode()
        return await command("env", *self._env, find(), *words, "-n", self._namespace, *given, stdin=stdin)

    async def template(self, values: Object, *words: str) -> list[Object]:
        """What the chart makes of those values."""
        rendered = await self("template", "exeunt", CHART, *words, values=values)
        return [item for item in yaml.safe_load_all(rendered) if item]
