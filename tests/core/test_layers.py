"""Pure code is pure. import-linter forbids its imports (`.importlinter`); here is what it cannot see."""

import ast
import importlib
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep"}


def pure_modules() -> list[str]:
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    return contracts["importlinter:contract:pure"]["source_modules"].split()


def calls_of_a_clock(source: str) -> list[str]:
    """Calls such as `datetime.now(UTC)`, `date.today()` or `time.monotonic()`, by any name of their module."""
    called = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [ast.unparse(func) for func in called if isinstance(func, ast.Attribute) and func.attr in CLOCKS]


@pytest.mark.parametrize("module", pure_modules())
def test_a_pure_module_reads_no_clock(module: str) -> None:
    path = importlib.import_module(module).__file__
    assert path is not None
    assert calls_of_a_clock(Path(path).read_text()) == []


def test_a_call_of_a_clock_would_be_seen() -> None:
    seen = calls_of_a_clock("import time\nx = datetime.now(UTC)\ndef f():\n  return dt.date.today(), time.monotonic()")
    assert seen == ["datetime.now", "dt.date.today", "time.monotonic"]


def test_what_is_called_pure_is_held_to_it_and_what_is_held_to_it_is_called_pure() -> None:
    called_pure = set()
    for path in (*ROOT.glob("shared/**/*.py"), *ROOT.glob("services/**/*.py"), *ROOT.glob("deploy/**/*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        if re.search(r"\bPure\b", docstring.split("\n\n")[0]):
            roots = [parent for parent in path.parents if not (parent / "__init__.py").exists()]
            called_pure.add(".".join(path.relative_to(roots[0]).with_suffix("").parts))
    assert called_pure == set(pure_modules())
