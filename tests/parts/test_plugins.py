"""The same commands from where people are already: as a plugin of kubectl, and as plugins of k9s."""

import asyncio
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "tests" / "histories" / "cancel-then-gone.jsonl"
K9S: Final[dict[str, dict[str, Any]]] = yaml.safe_load((ROOT / "deploy" / "k9s" / "plugin.yaml").read_text())["plugins"]
BIN: Final = Path(sys.executable).parent


async def run(*command: str, env: Mapping[str, str]) -> tuple[int | None, str]:
    found = shutil.which(command[0], path=env["PATH"])
    assert found is not None, f"{command[0]} is not installed"
    process = await asyncio.create_subprocess_exec(
        *(found, *command[1:]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **env},
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_kubectl_finds_the_plugin_and_hands_over_everything(tmp_path: Path) -> None:
    plugin = tmp_path / "kubectl-exeunt"  # as the installation makes it
    plugin.write_text(f"#!{sys.executable}\nfrom exeunt_cli.__main__ import main\nmain()\n")
    plugin.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"}
    code, out = await run("kubectl", "exeunt", "timeline", str(FILE), "-o", "json", env=path)
    assert (code, json.loads(out)[0]["ending"]) == (0, "finalized")
    code, out = await run("kubectl", "exeunt", "timeline", "/nowhere/run.jsonl", env=path)
    assert (code, "cannot read /nowhere/run.jsonl" in out) == (3, True)


def test_the_plugin_is_installed_as_the_same_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["kubectl-exeunt"] == scripts["exeunt"]


def shortcuts() -> Iterator[str]:
    for plugin in K9S.values():
        yield plugin["shortCut"]


def test_k9s_plugins_have_what_k9s_wants() -> None:
    for plugin in K9S.values():
        assert {"shortCut", "description", "scopes", "command"} <= set(plugin)
        assert set(plugin) <= {"shortCut", "description", "scopes", "command", "background", "args", "confirm"}
        assert plugin["scopes"] == ["storyruns"]
        assert all(isinstance(argument, str) for argument in plugin["args"])
    assert len(set(shortcuts())) == len(K9S)


@pytest.mark.parametrize("name", K9S)
async def test_a_k9s_plugin_calls_a_command_that_there_is(name: str, tmp_path: Path) -> None:
    """With what k9s fills in (its own way: it refuses a plugin with a variable that it does not know)."""
    known = {"NAME": "call-1", "NAMESPACE": "livekit-voice", "KUBECONFIG": str(tmp_path / "a file")}
    plugin = K9S[name]
    filled = [re.sub(r"\$([\w|-]+)", lambda match: known[match[1]], argument) for argument in plugin["args"]]
    env = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "EXEUNT_NATS_URL": "nats://127.0.0.1:9", "PAGER": "cat"}
    _, out = await run(plugin["command"], *(part.replace("| less", "") for part in filled), env=env)
    # As far as it gets without a cluster and without NATS: the command line itself was right.
    assert re.search(r"not connected to NATS|no way to the kube-apiserver", out), out
