"""Run the watcher: `exeunt-watcher` or `python -m exeunt_watcher`."""

from typing import NoReturn

from exeunt.service import main as serve
from exeunt_watcher.app import compose


def main() -> NoReturn:
    """Run until SIGTERM."""
    serve("exeunt-watcher", compose)


if __name__ == "__main__":
    main()
