"""Every command in a console block of the documents is run as it is written, and what the page shows is what it prints.

What cannot run on a machine without a cluster's nodes, a registry or other people's tools is marked and counted.
"""

import ast
import re
import shlex
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from actors.terminal import Terminal
from exeunt.bus.connection import Bus, connect
from exeunt.bus.mesh_streams import deadletters_stream, runs_stream
from exeunt.bus.publisher import publish
from exeunt.bus.streams import ensure_stream
from exeunt.events.messages import Message
from exeunt.history.file import read_history
from exeunt_local import CRDS
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.nats_server import NatsServer
from exeunt_local.page import EXAMPLE

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
BIN: Final = ROOT / ".venv" / "bin"

ELSEWHERE: Final = {
    r"^(docker|cosign) |^helm install exeunt oci:": "a registry",
    r"^helm install exeunt deploy/chart": "Helm: tests/deploy/test_chart.py",
    r"^make (demo|test|bench)|^pip install": "itself, or what it stands on",
    r"^(nats|lk|amtool) |^alias nats=": "other people's command lines",
    r"nats\.exeunt\.svc|^export EXEUNT_NATS_CREDENTIALS=": "NATS in a cluster",
    r" logs |port-forward|rollout status|describe pods|localhost:8080": "Pods that run",
    r" -k \.$": "a kustomization of the reader's: tests/deploy/test_manifests.py",
    r" pvc|statefulset nats|--from-file=(credentials|ca\.crt)": "another installation than the one above it",
    r"^exeunt deadletters drop": "a person who says yes",
    r"^exeunt explain livekit-voice/call-42$": "a history that is told of a real LiveKit",
}
"""Commands that are not run, by what they need."""

OF_OTHERS: Final = {
    "failed to send webhook": "LiveKit",
    "resource limits exceeded": "nats-server",
    "insufficient": "nats-server",
    "Timeout on reading": "aiohttp",
    "cannot patch resource": "kube-apiserver",
}
"""Words that pages tell to look for and that Exeunt only passes on, or does not log at all."""


class Command(NamedTuple):
    """A command as it is pasted, and the lines that the page shows below it."""

    page: str
    line: int
    text: str
    shown: tuple[str, ...]

    @property
    def needs(self) -> str | None:
        return next((what for pattern, what in ELSEWHERE.items() if re.search(pattern, self.text)), None)


def commands() -> Iterator[Command]:
    for page in sorted(PAGES):
        name, text = str(page.relative_to(ROOT)), page.read_text()
        for block in re.finditer(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 2
            for found in re.finditer(r"^\$ ((?:.*[\\|]\n)*.*)\n((?:(?!\$ ).*\n)*)", block[1], re.MULTILINE):
                at = line + block[1].count("\n", 0, found.start())
                text_of_it = re.sub(r"\s+# .*$", "", found[1]) if "'" not in found[1] else found[1]
                yield Command(name, at, text_of_it, tuple(found[2].splitlines()))


COMMANDS: Final = list(commands())


def test_what_is_not_run_is_counted() -> None:
    assert Counter(command.needs for command in COMMANDS if command.needs) == {
        "Pods that run": 23,
        "other people's command lines": 9,
        "a registry": 5,
        "another installation than the one above it": 5,
        "itself, or what it stands on": 7,
        "a kustomization of the reader's: tests/deploy/test_manifests.py": 4,
        "NATS in a cluster": 4,
        "Helm: tests/deploy/test_chart.py": 3,
        "a person who says yes": 1,
        "a history that is told of a real LiveKit": 1,
    }
    assert sum(command.needs is None for command in COMMANDS) > 50


def test_nothing_in_a_console_block_is_left_out() -> None:
    for page in PAGES:
        blocks = re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        count = sum(len(re.findall(r"^\$ ", block, re.MULTILINE)) for block in blocks)
        assert all(block.startswith("$ ") for block in blocks), page
        assert count == sum(command.page == str(page.relative_to(ROOT)) for command in COMMANDS), page


def searched_for(page: str) -> Iterator[str]:
    """What a page tells to look for in logs, and what it quotes of what the commands and `/readyz` say."""
    for arguments in re.findall(r"^\$ .* logs .*\| grep (.*)$", page, re.MULTILINE):
        words = shlex.split(arguments)
        several = [word for option, word in pairwise(words) if option == "-e"]
        yield from several or [word for word in words if not word.startswith("-")]
    yield from re.findall(r"\blogs?(?: line| says| has)?:? `([^`]+)`", page)
    yield from re.findall(r"\blog: `[^`]+` with `([^`]+)`", page)
    yield from re.findall(r"`/readyz` says `([^`]+)`", page)
    yield from (quoted for line in re.findall(r"^\| (.*?) \|", page, re.MULTILINE) for quoted in _quoted(line))


def _quoted(cell: str) -> list[str]:
    return re.findall(r'(?<![=\w])"([a-z][^"]+)"', re.sub(r"`[^`]*`", "", cell))


@pytest.mark.parametrize(
    "page", sorted(path for path in PAGES if "decisions" not in path.parts), ids=lambda at: at.stem
)
def test_words_that_a_page_tells_to_look_for_are_ours(page: Path) -> None:
    sources = [path for part in ("shared", "services") for path in (ROOT / part).rglob("*.py")]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    ours = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    ours |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    for words in searched_for(page.read_text()):
        others = any(words.startswith(known) for known in OF_OTHERS)
        assert others or any(words in text for text in ours), f"{page}: nothing of ours says {words!r}"


@pytest.fixture(scope="module")
async def installed(servers: Binaries, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """A cluster of the documents' own: Exeunt is installed, although no node runs it, and there is a call, call-7."""
    folder = tmp_path_factory.mktemp("documented")
    async with ControlPlane(folder / "kubernetes", binaries=servers) as cluster:
        await cluster.install_crds(CRDS)
        terminal = Terminal(folder, PATH=f"{BIN}:/usr/bin:/bin", KUBECONFIG=str(cluster.kubeconfig))
        for command in (
            f"kubectl apply -k {ROOT / 'deploy' / 'overlays' / 'evaluation'}",
            "exeunt nats-credentials credentials && kubectl apply -k credentials",
            "kubectl create namespace livekit-voice",
            f"sed 's/: voice$/: livekit-voice/; s/: call$/: call-7/' {EXAMPLE} | kubectl -n livekit-voice apply -f -",
        ):
            code, screen = await terminal.paste(command)
            assert code == 0, screen
        yield cluster


@pytest.fixture
async def terminal(servers: Binaries, installed: ControlPlane, tmp_path: Path, page: str) -> AsyncIterator[Terminal]:
    """In a checkout, with what readers have beside it, and a NATS that has the histories that pages tell of."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("docs", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "keys.yaml").write_text("key: secret\n")
    async with NatsServer(tmp_path / "nats", binary=servers.nats_server) as server:
        await fill(server, call_7=page != "docs/debugging.md")
        environment = {"EXEUNT_NATS_URL": server.url, "KUBECONFIG": str(installed.kubeconfig), "COLUMNS": "100"}
        yield Terminal(folder, PATH=f"{BIN}:/usr/bin:/bin", **environment)


async def fill(server: NatsServer, *, call_7: bool) -> None:
    """RUNS with the two runs that debugging.md lists, and, for other pages, call-7; and three dead letters."""
    bus = await connect(server.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
    for stream in (runs_stream(), deadletters_stream()):
        await ensure_stream(bus, stream)
    ended = (ROOT / "tests" / "histories" / "cancel-then-gone.jsonl").read_text()
    await render(bus, ended.replace("2026-11-24T09:26", "2026-11-30T23:06"))  # before the other, as on the page
    await render(bus, (ROOT / "docs" / "debugging.jsonl").read_text())
    if call_7:
        await render(bus, ended.replace("cancel-then-gone", "call-7"))
    for number in range(3):
        headers = {"Exeunt-Reason": "a test", "Exeunt-Subject": f"exeunt.runs.voice.call.{number}.first.run-deleted"}
        headers |= {"Exeunt-Stream": "RUNS", "Exeunt-Sequence": str(number + 1), "Exeunt-Deliveries": "1"}
        await publish(bus, Message(subject="exeunt.deadletters.terminator", payload=b"{}", headers=headers), deadline=5)
    await bus.close(5)


async def render(bus: Bus, history: str) -> None:
    for record in read_history(history.encode().splitlines(keepends=True)).records:
        headers = {name: value for name, value in record.headers.items() if not name.lower().startswith("nats-")}
        await publish(bus, Message(subject=record.subject, payload=record.data, headers=headers), deadline=5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS if not command.needs}))
async def test_a_page_can_be_pasted(page: str, terminal: Terminal) -> None:
    for command in COMMANDS:
        if command.page != page or command.needs:
            continue
        code, screen = await terminal.paste(command.text)
        assert code == 0, f"{page}:{command.line}: {command.text}\n{screen}"
        if command.shown:
            assert [line.rstrip() for line in screen.splitlines()] == list(command.shown), f"{page}:{command.line}"
