"""What `exeunt settings` prints and docs/settings.md holds: each setting with its default and its docstring."""

import ast
import inspect
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from exeunt import settings
from exeunt.clock import format_duration
from exeunt.settings import PREFIX, Settings


class Documented(NamedTuple):
    """One setting: the environment variable, its default as it would be written there, and what it means."""

    variable: str
    default: str
    meaning: str


def documented() -> Iterator[Documented]:
    """Every setting, in the order of the struct; the meaning is the string under the field."""
    defaults = Settings()
    tree = ast.parse(inspect.getsource(settings))
    struct = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    for field, docstring in zip(struct.body, struct.body[1:], strict=False):
        match field, docstring:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield Documented(PREFIX + name.upper(), _written(getattr(defaults, name)), " ".join(text.split()))


def _written(value: object) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    return ",".join(value) if isinstance(value, tuple) else str(value)
