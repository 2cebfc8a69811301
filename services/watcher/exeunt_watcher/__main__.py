"""Run the watcher: `exeunt-watcher` or `python -m exeunt_watcher`."""

from typing import NoReturn

from exeunt.process.start import start


def main() -> NoReturn:
    """Run until SIGTERM."""
    start("exeunt-watcher", "exeunt_watcher.app")


if __name__ == "__main__":
    main()
