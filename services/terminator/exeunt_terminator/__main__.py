"""Run the terminator: `exeunt-terminator` or `python -m exeunt_terminator`."""

from typing import NoReturn

from exeunt.service import main as serve
from exeunt_terminator.app import compose


def main() -> NoReturn:
    """Run until SIGTERM."""
    serve("exeunt-terminator", compose)


if __name__ == "__main__":
    main()
