"""How a service starts: what libraries read while they are imported is looked at before they are.

And what they import only because it is there, and no service uses, is hidden from them: the image has more than a
service needs, for the command for people.
"""

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Final, NoReturn

from exeunt.errors import UsageError
from exeunt.telemetry.variables import check_telemetry, forget_empty

_UNUSED: Final = {"structlog": "rich", "nats.aio.client": "aiohttp"}
"""Libraries, and what they would load for nothing: tracebacks in colour (3 MiB), WebSocket (11 MiB)."""


def start(service: str, app: str, *, unused: Mapping[str, str] = {}) -> NoReturn:
    """Run `serve` of the module `app`, which never returns. A wrong variable of telemetry is code 2 and one line.

    `unused` are libraries of this service alone, each with a package that it would load for nothing.
    """
    try:
        forget_empty(os.environ)
        check_telemetry(os.environ)
    except UsageError as error:
        sys.stderr.write(f"{service}: {error}\n")
        sys.exit(2)
    gc.disable()  # what is imported stays, so looking through it for garbage is a tenth of the start for nothing
    for library, package in {**_UNUSED, **unused}.items():
        with _hidden(package):
            import_module(library)
    with _no_authorities():
        import_module("aiohttp.connector")
    module = import_module(app)
    gc.enable()
    module.serve()
    raise AssertionError("a service exits")


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Nobody can import this package meanwhile: for the import statement, None says that it is not there."""
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _no_authorities() -> Iterator[None]:
    """OpenSSL finds none meanwhile. aiohttp loads all that the machine trusts, for sessions that are not told whom to
    trust, and ours are: 2 MiB and a seventh of the CPU of a start.
    """
    variable = "SSL_CERT_FILE"
    trusted = os.environ.get(variable)
    os.environ[variable] = os.devnull
    try:
        yield
    finally:
        del os.environ[variable]
        if trusted is not None:
            os.environ[variable] = trusted
