"""The tokens of an auth-provider in a kubeconfig: read again, and written back when they were renewed.

Written as client-go writes them, so that it and we do not lose each other's: under its lock, and the file anew, without
its comments.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import yaml  # type: ignore[import-untyped]

from exeunt.kube.kubeconfig import Named, User, parsed

_LOCKED_FOR: Final = 3.0  # seconds; kubectl holds the lock for as long as it takes to write a file

log = structlog.get_logger(__name__)


def read_again(user: Named[User]) -> dict[str, str | None] | None:
    """What the file says now of the user's auth-provider; None when that is nothing, or a pipe, read already."""
    if not _is_file(user):
        return None
    try:
        return _config_in(parsed(Path(user.path).read_bytes()), user.name)
    except (OSError, LookupError, TypeError, ValueError):
        return None


async def write_back(user: Named[User], renewed: Mapping[str, str]) -> None:
    """Into the kubeconfig, for kubectl and whoever comes next: many an issuer takes a refresh token only once.

    client-go fails when it cannot; we go on with what we have, and say so.
    """
    if not _is_file(user):
        return
    lock = f"{user.path}.lock"  # client-go's: a file that one process can make
    try:
        await _make(lock)
        try:
            _rewrite(user, renewed)
        finally:
            _remove(lock)
    except (OSError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        log.warning(
            "renewed tokens are not written back: they are lost when this process ends, and others may have to log in",
            kubeconfig=user.path,
            error=str(error),
        )


def _rewrite(user: Named[User], renewed: Mapping[str, str]) -> None:
    file = Path(user.path).resolve()
    document = parsed(file.read_bytes())
    _config_in(document, user.name).update(renewed)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.name, delete=False) as beside:
        try:
            yaml.dump(document, beside, _Yaml, sort_keys=False, allow_unicode=True)
            beside.flush()
            shutil.copymode(file, beside.name)
            Path(beside.name).replace(file)
        except BaseException:
            _remove(beside.name)
            raise


def _is_file(user: Named[User]) -> bool:
    return Path(user.path).is_file()


def _config_in(document: Any, name: str) -> dict[str, str | None]:
    """That user's config of auth-provider, in what was read of a file. Raises LookupError, TypeError or ValueError."""
    for entry in document["users"]:
        if entry["name"] == name:
            config: dict[str, str | None] = entry["user"]["auth-provider"]["config"]
            msgspec.convert(config, dict[str, str | None])
            return config
    raise LookupError(f"there is no user {name} any more")


async def _make(lock: str) -> None:
    """Raises OSError when it stays somebody else's."""
    deadline = time.monotonic() + _LOCKED_FOR
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0))
        except FileExistsError:
            if time.monotonic() > deadline:
                raise OSError(f"{lock} is there: remove it when no kubectl is running") from None
            await asyncio.sleep(0.05)
        else:
            return


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


class _Yaml(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes what Go's YAML, but not Python's, takes for a number or a truth, such as 1e3 and y."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = len(text) > 1 and text[0].isalpha()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Yaml.add_representer(str, _quoted)
