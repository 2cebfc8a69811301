"""The kube-apiserver's JSON Patch, as far as the finalizing write uses it (contract §10): tests and adds of members.

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
        *parents, leaf = (
            token.replace("~1", "/").replace("~0", "~") for token in operation["path"].removeprefix("/").split("/")
        )
        parent: Any = result
        for token in parents:
            parent = parent.get(token)
            if parent is None:  # a missing parent fails even a test for null
                raise TestFailed(f"{operation['path']}: no {token}")
        if operation["op"] == "add":
            parent[leaf] = operation["value"]
        elif not _equal(parent.get(leaf), operation["value"]):
            raise TestFailed(f"{operation['path']} is {parent.get(leaf)!r}")
    return result


def _equal(stored: object, tested: object) -> bool:
    """True and 1 are different JSON values, which they are not to Python."""
    return msgspec.json.encode(stored, order="sorted") == msgspec.json.encode(tested, order="sorted")
