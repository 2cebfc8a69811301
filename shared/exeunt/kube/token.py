"""A bearer token as it is sent, and the files that tokens and certificates are in, which are replaced meanwhile."""

from pathlib import Path

from exeunt.kube.errors import ConfigurationError


def bearer(token: bytes, where: str) -> tuple[str, str]:
    """The header; `where` the token is from is for the error. Raises ConfigurationError."""
    text = token.decode(errors="replace").strip()  # files tend to end in a newline
    if not text:
        raise ConfigurationError(f"cannot use {where}: the token is empty")
    return ("Authorization", f"Bearer {as_header(text, where)}")


def as_header(value: str, where: str) -> str:
    """The value, if a header can have it. Raises ConfigurationError."""
    if not value.isprintable():
        raise ConfigurationError(f"{where} has a character in it that no HTTP header can have, such as a line break")
    return value


def read(path: str | Path, where: str) -> bytes:
    """A file's content; `where` it is named is for the error. Raises ConfigurationError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot use {where}: {path}: {error.strerror}") from None
