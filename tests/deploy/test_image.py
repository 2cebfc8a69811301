"""The image, as far as it can be proved without a container engine: its own steps, run on what it copies."""

import asyncio
import re
import shutil
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTION = re.compile(r"^(?P<word>[A-Z]+) (?P<rest>(?:.*\\\n)*.*)$", re.MULTILINE)
INSTRUCTIONS = [(found["word"], found["rest"].replace("\\\n", "")) for found in INSTRUCTION.finditer(DOCKERFILE)]
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def copied(instruction: str) -> list[str]:
    *sources, _ = instruction.split()
    return sources


@pytest.fixture(scope="module")
async def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/exeunt of the image: the steps of its build stage, in an empty folder in place of /."""
    root = tmp_path_factory.mktemp("image")
    source = root / "src"
    source.mkdir()
    (root / "opt").mkdir()
    for word, rest in INSTRUCTIONS[: INSTRUCTIONS.index(("FROM", "${PYTHON}"))]:
        if word == "COPY":
            for name in copied(rest):
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, source / name)
        if word == "RUN":
            step = rest.replace("/opt/", f"{root}/opt/").replace("python -m", f"{sys.executable} -m", 1)
            step = step.replace("&& python -m", f"&& {sys.executable} -m")
            env = {"PATH": "/usr/bin:/bin", "HOME": str(root), "SOURCE_DATE_EPOCH": "0"}
            code, output = await run("/bin/sh", "-c", step, cwd=source, env=env)
            assert code == 0, f"{step}\n{output}"
    shutil.rmtree(source)  # the image does not have it
    return root / "opt" / "exeunt"


async def run(*command: str | Path, cwd: Path, env: dict[str, str]) -> tuple[int | None, str]:
    """Exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=env, cwd=cwd
    )
    async with asyncio.timeout(100):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


async def start(image: Path, command: str, *arguments: str, **env: str) -> tuple[int | None, str]:
    """One command of the image, alone with it: no search path, no home."""
    alone = {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    return await run(image / "bin" / command, *arguments, cwd=Path("/"), env={**alone, **env})


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


async def test_hadolint_has_nothing_to_say() -> None:
    assert await run(Path(sys.executable).parent / "hadolint", "Dockerfile", cwd=ROOT, env={}) == (0, "")


def test_what_is_copied_is_let_through_and_nothing_else_is() -> None:
    sources = {name for word, rest in INSTRUCTIONS if word == "COPY" and "--from" not in rest for name in copied(rest)}
    assert IGNORED[0] == "*"
    assert sources == {line.removeprefix("!") for line in IGNORED if line.startswith("!")} - {"."}
    assert any(fnmatch("shared/exeunt/__pycache__", line) for line in IGNORED[1:])


def test_the_base_is_pinned_and_the_user_is_nobody() -> None:
    assert re.search(r"^ARG PYTHON=\S+:\d+\.\d+\.\d+-", DOCKERFILE, re.MULTILINE)
    assert {rest.split()[0] for word, rest in INSTRUCTIONS if word == "FROM"} == {"${PYTHON}"}
    assert ("USER", "65532:65532") in INSTRUCTIONS[INSTRUCTIONS.index(("FROM", "${PYTHON}")) :]


async def test_every_command_is_there_and_answers(image: Path) -> None:
    before = files(image)
    assert {path.name for path in (image / "bin").glob("*exeunt*")} == set(COMMANDS)
    assert await start(image, "exeunt", "--version") == (0, f"{version()}\n")
    code, output = await start(image, "exeunt", "settings")
    assert code == 0
    assert "EXEUNT_NATS_URL" in output
    assert await start(image, "kubectl-exeunt", "--version") == (0, f"{version()}\n")
    assert await start(image, "kubectl_complete-exeunt", "time") == (0, "timeline\n:4\n")
    for command in COMMANDS.keys() - {"exeunt", "kubectl-exeunt", "kubectl_complete-exeunt"}:
        code, output = await start(image, command, EXEUNT_NO_SUCH="1")
        assert (code, output) == (
            2,
            f"{command}: EXEUNT_NO_SUCH is no setting of Exeunt; see `exeunt settings` for those that are\n",
        )
    assert files(image) == before  # as with a read-only root, nothing was written


async def test_what_only_a_laptop_needs_is_refused_with_what_to_do(image: Path) -> None:
    for command in (["up"], ["nats-credentials", "anywhere"]):
        code, output = await start(image, "exeunt", *command)
        assert code == 2
        assert "it comes with Exeunt's extra `local`" in output


def test_only_what_is_needed_is_in_it(image: Path) -> None:
    lock = (ROOT / "requirements-runtime.lock").read_text()
    locked = {canonical(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    installed = {canonical(path.name.split("-")[0]) for path in image.rglob("*.dist-info")}
    assert installed <= locked | {"exeunt"}
    assert not locked - installed - {"tzdata", "pycparser"}  # those have markers
    assert not list(image.rglob("exeunt_local"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
