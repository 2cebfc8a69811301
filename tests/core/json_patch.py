"""The kube-apiserver's JSON Patch, as far as the finalizing write uses it (contract §10): tests and adds of members,
and tests, replacements and appends in an array.

Only as true as the contract's notes are; tests/parts puts the same patches to the real kube-apiserver.
"""

from copy import deepcopy
from typing import Any

import msgspec


class TestFailed(Exception):
    """An operation could not be applied: 422 without causes, and nothing is written."""

    __test__ = False


def patched(document: dict[str, Any], patch: bytes) -> dict[str, Any]:
    """`document` as it is after `patch`, which applies as a whole or not at all: TestFailed."""
    result = deepcopy(document)
    for operation in msgspec.json.decode(patch):
        path, op, value = operation["path"], operation["op"], operation["value"]
        *parents, leaf = (token.replace("~1", "/").replace("~0", "~") for token in path.removeprefix("/").split("/"))
        parent: Any = result
        for token in parents:
            parent = _child(parent, token)
            if parent is None:  # a missing parent fails even a test for null
                raise TestFailed(f"{path}: no {token}")
        if isinstance(parent, list) and leaf != "-" and int(leaf) >= len(parent):
            raise TestFailed(f"{path} is out of bounds")
        if op == "test":
            if not _equal(found := _child(parent, leaf), value):
                raise TestFailed(f"{path} is {found!r}")
        elif (op, leaf) == ("add", "-"):
            parent.append(value)
        elif isinstance(parent, list):
            parent[int(leaf)] = value
        else:
            parent[leaf] = value
    return result


def _child(parent: Any, token: str) -> Any:
    if isinstance(parent, list):
        return parent[int(token)] if int(token) < len(parent) else None
    return parent.get(token)


def _equal(stored: object, tested: object) -> bool:
    """True and 1 are different JSON values, which they are not to Python."""
    return msgspec.json.encode(stored, order="sorted") == msgspec.json.encode(tested, order="sorted")
