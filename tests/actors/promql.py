"""Takes PromQL apart with Prometheus' own parser, to ask whether there is anything to evaluate at all.

An alert's expression answers nothing while all is well, and just as much when it is misspelled.
"""

from collections.abc import Iterator
from typing import Any

from exeunt_local.prometheus import Prometheus


async def selectors(prometheus: Prometheus, expression: str) -> list[str]:
    """Every series selector of an expression, without ranges and offsets; those inside absent() are left out."""
    return list(dict.fromkeys(_selectors(await prometheus.get("parse_query", query=expression))))


def _selectors(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _selectors(item)
    elif isinstance(node, dict):
        if node.get("type") in ("vectorSelector", "matrixSelector") and "matchers" in node:
            yield _written(node["matchers"])
        elif node.get("func", {}).get("name") not in ("absent", "absent_over_time"):
            for child in node.values():
                yield from _selectors(child)


def _written(matchers: list[dict[str, str]]) -> str:
    return "{" + ",".join(f'{m["name"]}{m["type"]}"{_escaped(m["value"])}"' for m in matchers) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
