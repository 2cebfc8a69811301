"""How a service starts: what libraries read while they are imported is looked at before they are."""

import os
import sys
from importlib import import_module
from typing import NoReturn

from exeunt.errors import UsageError
from exeunt.telemetry_variables import check_telemetry, forget_empty


def start(service: str, app: str) -> NoReturn:
    """Run what `compose` in the module `app` makes, and exit. A wrong variable of telemetry is code 2 and one line."""
    try:
        forget_empty(os.environ)
        check_telemetry(os.environ)
    except UsageError as error:
        sys.stderr.write(f"{service}: {error}\n")
        sys.exit(2)
    from exeunt.service import main  # noqa: PLC0415 - imports OpenTelemetry

    main(service, import_module(app).compose)
