"""The AsyncAPI document, read by AsyncAPI's own parser, and by whoever was not there when it was written."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from exeunt.events.event_types import EventType
from exeunt.history.event import RunEvent, understand
from exeunt.history.file import read_history
from exeunt_cli.asyncapi import asyncapi, documents

ROOT: Final = Path(__file__).parents[2]
CHECK: Final = ROOT / "tests" / "asyncapi"
INSTALLED: Final = ROOT / ".cache" / "asyncapi-parser"


@pytest.fixture(scope="module")
def parser() -> Path:
    """A folder with the parser in node_modules, installed from the lock file when that has changed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the parser is a node package, and there is no npm")
    lock = (CHECK / "package-lock.json").read_bytes()
    installed = INSTALLED / "installed.json"
    if not installed.exists() or installed.read_bytes() != lock:
        INSTALLED.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CHECK / name, INSTALLED)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=INSTALLED, check=True, timeout=100)
        installed.write_bytes(lock)
    return INSTALLED


def parse(parser: Path, document: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", str(CHECK / "validate.mjs"), str(document)]
    return subprocess.run(command, cwd=parser, capture_output=True, text=True, check=False, timeout=60)


def test_the_real_parser_has_nothing_against_the_document(parser: Path) -> None:
    parsed = parse(parser, ROOT / "docs" / "asyncapi.json")
    assert (parsed.returncode, parsed.stderr) == (0, "")
    assert parsed.stdout == "13 channels, 12 messages\n"


def test_the_real_parser_would_say_what_is_wrong(parser: Path, tmp_path: Path) -> None:
    broken = asyncapi()
    broken["channels"]["outcome"]["messages"]["outcome"]["$ref"] = "#/components/messages/income"
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(broken))
    parsed = parse(parser, file)
    assert parsed.returncode == 1
    assert "income" in parsed.stderr


def test_the_documents_are_what_the_types_say() -> None:
    for name, text in documents():
        assert (ROOT / "docs" / name).read_text() == text, "run `make docs`"


RETIRED = {"signal", "cause_id", "verdict", "rule", "why"}
"""What the released version said, and readers pass over: of a topology that it was signaled, which can be taken back;
and of an outcome what its last step says.
"""


def test_every_recorded_event_has_its_channel_and_its_fields() -> None:
    """What the services have really said is where the document says, and has no field that it does not know."""
    document = asyncapi()
    histories = ROOT / "tests" / "histories"
    files = (histories / "released" / "v1.jsonl", histories / "late-step-run.jsonl")
    records = [record for file in files for record in read_history(file.read_bytes().splitlines(keepends=True)).records]
    heard = set()
    for record in records:
        event = understand(record)
        name = str(event.event_type) if isinstance(event, RunEvent) else "outcome"
        heard.add(name)
        address = document["channels"][name]["address"].split(".")
        assert len(record.subject.split(".")) == len(address)
        message = document["components"]["messages"][name]
        assert record.headers["ce-type"] == message["headers"]["properties"]["ce-type"]["const"]
        schema = resolved(document, message["payload"])
        assert set(unknown_fields(document, schema, json.loads(record.data))) <= RETIRED
    assert heard == {*map(str, EventType), "outcome"}


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def unknown_fields(document: dict[str, Any], schema: dict[str, Any], value: object) -> list[str]:
    """The fields of a value that its schema does not name; a schema of several is taken for the one of an object."""
    schema = resolved(document, schema)
    for choice in schema.get("anyOf", ()):
        if "$ref" in choice:
            schema = resolved(document, choice)
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(document, schema.get("items", {}), item)]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    known = schema["properties"]
    missing = [f"-{name}" for name in schema.get("required", ()) if name not in value]
    return missing + [
        found
        for name, item in value.items()
        for found in ([name] if name not in known else unknown_fields(document, known[name], item))
    ]
