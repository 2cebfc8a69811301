"""Run the timeout-scheduler: `exeunt-timeout-scheduler` or `python -m exeunt_timeout_scheduler`."""

from typing import NoReturn

from exeunt.process.start import start


def main() -> NoReturn:
    """Run until SIGTERM."""
    start("exeunt-timeout-scheduler", "exeunt_timeout_scheduler.app")


if __name__ == "__main__":
    main()
