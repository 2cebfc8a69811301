"""Run the terminator: `exeunt-terminator` or `python -m exeunt_terminator`."""

from typing import NoReturn

from exeunt.process.start import start


def main() -> NoReturn:
    """Run until SIGTERM."""
    start("exeunt-terminator", "exeunt_terminator.app")


if __name__ == "__main__":
    main()
