"""How a service starts: what libraries read while they are imported is looked at before they are."""

import os
import sys
from importlib import import_module
from typing import NoReturn

from exeunt.errors import UsageError
from exeunt.telemetry.variables import check_telemetry, forget_empty


def start(service: str, app: str) -> NoReturn:
    """Run `serve` of the module `app`, which never returns. A wrong variable of telemetry is code 2 and one line."""
    try:
        forget_empty(os.environ)
        check_telemetry(os.environ)
    except UsageError as error:
        sys.stderr.write(f"{service}: {error}\n")
        sys.exit(2)
    import_module(app).serve()  # OpenTelemetry is imported only now
    raise AssertionError("a service exits")
