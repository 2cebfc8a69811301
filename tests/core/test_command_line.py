"""The command line as people who know kubectl expect it, as far as no server is needed."""

import asyncio
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from exeunt.clock import elapsed_in_words
from exeunt.kube.errors import ConfigurationError
from exeunt.kube.kubeconfig import choose
from exeunt_cli.__main__ import app
from exeunt_cli.options import Where, Window
from exeunt_cli.output import Columns

FILE: Final = Path(__file__).parents[1] / "histories" / "dead-letter.jsonl"
COMMANDS: Final = [
    *([], ["deadletters"]),
    *(["runs"], ["timeline"], ["tail"], ["explain"], ["export"], ["replay"], ["report"], ["plan"]),
    *(["up"], ["settings"], ["nats-credentials"], ["completion"]),
    *(["deadletters", name] for name in ("list", "show", "republish", "drop")),
]


async def exeunt(*arguments: str, **settings: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exeunt_cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "100", **settings},
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_every_help_has_examples_that_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        app.help_print(command)
        examples = re.findall(r"^\$ (\S.*?)\s*$", capsys.readouterr().out, re.MULTILINE)
        assert examples, command
        for example in examples:
            if example.startswith("exeunt "):
                app.parse_args(example.split(" | ")[0].split()[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("1d", timedelta(days=1)), ("1d12h", timedelta(days=1, hours=12)), ("90s", timedelta(seconds=90))],
)
def test_since_takes_days(text: str, ago: timedelta) -> None:
    _, bound, _ = app.parse_args(["runs", "--since", text], exit_on_error=False, print_error=False)
    window: Window = bound.arguments["window"]
    assert window.since is not None
    assert abs(datetime.now(UTC) - window.since - ago) < timedelta(minutes=1)


def test_all_namespaces_are_all_whatever_else_is_published() -> None:
    _, bound, _ = app.parse_args(["runs", "-n", "a", "-A"], exit_on_error=False, print_error=False)
    where: Where = bound.arguments["where"]
    assert where.namespace is None


def test_a_context_is_taken_instead_of_the_current_one(tmp_path: Path) -> None:
    file = tmp_path / "config"
    names = ("here", "there")
    config = {
        "current-context": "here",
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in names],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example"}} for name in names],
        "users": [{"name": name, "user": {"token": name}} for name in names],
    }
    file.write_text(yaml.safe_dump(config))
    for context, server in ((None, "here"), ("there", "there")):
        chosen = choose([str(file)], context)
        assert chosen is not None
        assert chosen.cluster.value.server == f"https://{server}.example"
    with pytest.raises(ConfigurationError, match="nowhere"):
        choose([str(file)], "nowhere")


async def test_objects_are_yaml_and_json_alike() -> None:
    (code, as_yaml, _), (_, as_json, _), (explained, sentences, _) = await asyncio.gather(
        exeunt("timeline", str(FILE), "-o", "yaml"),
        exeunt("timeline", str(FILE), "-o", "json"),
        exeunt("explain", str(FILE), "-o", "json"),
    )
    assert (code, explained) == (0, 0)
    assert yaml.safe_load(as_yaml) == json.loads(as_json)
    reported = msgspec.json.decode(sentences)
    assert reported["stop"]["late_by_ms"] > 2000
    assert any("late by 2.05s" in sentence for sentence in reported["explained"])


async def test_a_file_that_cannot_be_written_is_published_in_a_line() -> None:
    for command in ("export", "report"):
        code, out, message = await exeunt(command, str(FILE), "--to", "/nowhere/x")
        assert (code, out) == (2, "")
        assert message.splitlines()[-1] == "exeunt: cannot write /nowhere/x: No such file or directory"
        assert "Traceback" not in message


@pytest.mark.parametrize("arguments", [("timeline", str(FILE)), ("settings",)])
async def test_without_colours_nothing_is_bold_either(arguments: tuple[str, ...]) -> None:
    _, out, _ = await exeunt(*arguments, FORCE_COLOR="1", NO_COLOR="")
    assert "\x1b[1m" in out
    _, out, _ = await exeunt(*arguments, FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b" not in out


async def test_a_file_that_is_not_there_is_told_in_words() -> None:
    _, _, message = await exeunt("runs", EXEUNT_NATS_TLS_CA="/nowhere/x")
    assert "EXEUNT_NATS_TLS_CA='/nowhere/x' cannot be used: No such file or directory; name a file" in message


async def test_a_file_is_not_followed() -> None:
    code, out, message = await exeunt("timeline", str(FILE), "--follow")
    assert (code, out, message) == (
        2,
        "",
        f"exeunt: --follow: {FILE} is a file, to which nothing is added; name a run\n",
    )


async def test_a_walk_through_a_history_keeps_its_columns() -> None:
    _, out, _ = await exeunt("replay", str(FILE))
    header, *rows = out[out.index("SEQ ") :].splitlines()
    assert len(rows) > 4
    for name in ("SERVICE", "EVENT", "WHY"):
        at = header.index(name)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows), name


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_columns_hold_on_a_terminal_of_any_width(width: int) -> None:
    header = ("NAMESPACE", "NAME", "ASKED", "LATENCY", "OUTCOME", "CAUSE")
    cause = (
        "refused by ValidatingAdmissionPolicy 'only-bobrapet-may'; attempt 4, the next at 2026-11-24T09:27:00.000000Z"
    )
    rows = [
        ("livekit-voice", "call-7", "2026-11-24T09:26:53Z", "2.069s", "ended elsewhere, late by 2.05s", cause),
        ("livekit-voice", "a-longer-name", "2026-11-24T09:26:23Z", "23ms", "finalized", "topology-gone (signal)"),
    ]
    lines = Columns(header, width=width).lines(rows)
    assert max(len(line.plain) for line in lines) <= width
    words = " ".join(" ".join(line.plain for line in lines).split())
    assert words == " ".join(" ".join(row) for row in (header, *rows))
    outcome = next(line for line in lines if "OUTCOME" in line.plain).plain.index("OUTCOME")
    assert {line.plain.index(cell) for cell in ("ended", "finalized") for line in lines if cell in line.plain} == {
        outcome
    }


def test_a_pipe_gets_one_line_for_a_row() -> None:
    long = " ".join(["b"] * 500)
    assert [line.plain for line in Columns(("A", "B")).lines([("a", long)])] == ["A   B", f"a   {long}"]


@pytest.mark.parametrize(
    ("milliseconds", "words"), [(25.4, "+25ms"), (-1288, "-1.288s"), (324_000, "+5m24s"), (0, "+0s")]
)
def test_elapsed_time_is_reported_as_all_durations_are(milliseconds: float, words: str) -> None:
    assert elapsed_in_words(milliseconds) == words
