"""LiveKit's API keys: the file that LiveKit itself reads, `key: secret` a line. It may change meanwhile."""

from pathlib import Path
from typing import NamedTuple

import structlog
import yaml  # type: ignore[import-untyped]

from exeunt.errors import UsageError, said_by

log = structlog.get_logger()


class Key(NamedTuple):
    """An API key: its name, which is no secret, and its secret."""

    name: str
    secret: str


class Keys:
    """The keys of one file, read again when it changes. Raises UsageError when it cannot be used to begin with."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._secrets: dict[str, str] = {}
        self._version: object = None
        try:
            self._version, self._secrets = _version(file), _read(file)
        except (OSError, ValueError) as error:
            raise UsageError(f"EXEUNT_LIVEKIT_KEYS={str(file)!r} cannot be used: {said_by(error)}") from error

    def first(self) -> Key:
        """The one that LiveKit's API is asked with."""
        self._refresh()
        return Key(*next(iter(self._secrets.items())))

    def named(self, name: str) -> Key | None:
        self._refresh()
        secret = self._secrets.get(name)
        return None if secret is None else Key(name, secret)

    def _refresh(self) -> None:
        try:
            version = _version(self._file)
            if version != self._version:
                self._version, self._secrets = version, _read(self._file)
                log.info("LiveKit's keys were read again", keys=list(self._secrets))
        except (OSError, ValueError) as error:  # half-written, or away for a moment: those that are known may still do
            log.warning("LiveKit's keys cannot be read again", file=str(self._file), error=str(error))


def _version(file: Path) -> object:
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(file: Path) -> dict[str, str]:
    """Raises OSError, and ValueError that quotes nothing of the file."""
    try:
        # The loader that makes text of every scalar, as LiveKit does: a secret may look like a number.
        found = yaml.load(file.read_text(), Loader=yaml.BaseLoader)  # noqa: S506 - it makes no objects either
    except yaml.YAMLError:
        raise ValueError("it is no YAML") from None
    if not (
        isinstance(found, dict)
        and found
        and all(isinstance(text, str) and text for pair in found.items() for text in pair)
    ):
        raise ValueError("it has to hold one or more lines of `key: secret`")
    return found
