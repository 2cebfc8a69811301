"""Run the timeout-scheduler: `exeunt-timeout-scheduler` or `python -m exeunt_timeout_scheduler`."""

from typing import NoReturn

from exeunt.service import main as serve
from exeunt_timeout_scheduler.app import compose


def main() -> NoReturn:
    """Run until SIGTERM."""
    serve("exeunt-timeout-scheduler", compose)


if __name__ == "__main__":
    main()
