"""YAML with Helm's template language in it, written from objects in which markers stand for what differs.

The markers: `Template` is text that is written as it is, `Choice` a value that is there under a condition, `Each` the
entries of a value of the chart. Everything else is written as YAML. Lines of the template language stand on the
indentation of what they belong to, which they take away together with the line break before it (`{{-`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ABSENT: Final = object()
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._-]*")
_OTHERS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""Words that are no text in YAML 1.1 or 1.2."""


class Template(str):
    """Template language that gives one line of YAML."""

    __slots__ = ()


@dataclass(frozen=True)
class Choice:
    """The value of the first condition that holds, nothing if none does; the condition "" always holds."""

    branches: Mapping[str, Any]


@dataclass(frozen=True)
class Each:
    """The entries of a map of strings among the values of the chart; the key that it has is not written."""

    of: str


def when(condition: str, value: Any) -> Choice:
    """`value` under a condition, else nothing."""
    return Choice({condition: value})


def written(value: Any) -> str:
    """One YAML document."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _chosen(item, lambda chosen, key=key: _entry(key, chosen))
    else:
        for item in value:
            yield from _chosen(item, _item)


def _chosen(value: Any, write: Any) -> Iterator[str]:
    if not isinstance(value, Choice):
        yield from write(value)
        return
    word = "if"
    for condition, branch in value.branches.items():
        yield f"{{{{- {word} {condition} }}}}" if condition else "{{- else }}"
        if branch is not ABSENT:
            yield from write(branch)
        word = "else if"
    yield "{{- end }}"


def _entry(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Each):
        yield f"{{{{- range $key, $value := {value.of} }}}}"
        yield "{{ $key }}: {{ $value | quote }}"
        yield "{{- end }}"
    elif _is_block(value):
        yield f"{key}:"
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key}: {_scalar(value)}"


def _item(value: Any) -> Iterator[str]:
    if _is_block(value):
        lines = list(_lines(value))
        marked = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("{{-"))
        if marked:
            raise ValueError(f"an item of a list cannot start with a choice: {lines}")
        yield from (f"{'  ' if number else '- '}{line}" for number, line in enumerate(lines))
    else:
        yield f"- {_scalar(value)}"


def _is_block(value: Any) -> bool:
    return bool(value) and (isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)))


def _scalar(value: Any) -> str:
    if isinstance(value, Template):
        return str(value)
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _OTHERS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    if "{{" in text:
        raise ValueError(f"Helm would take this for its own: {text}")
    return text
