"""`exeunt` and its commands. Our own errors end it with their message, bugs with a traceback."""

import asyncio
import sys
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

import exeunt
from exeunt.errors import ExeuntError, UsageError
from exeunt_cli.settings import documented

app = App(
    name="exeunt",
    help="Ends canceled realtime StoryRuns of bobrapet as soon as their topology is gone.",
    version=exeunt.__version__,
)


@app.command
def up(*, prepare_only: bool = False, folder: Path | None = None) -> None:
    """Run Kubernetes, NATS and the three services on this machine, without a cluster.

    Parameters
    ----------
    prepare_only
        Only find or build the servers: minutes the first time, nothing later.
    folder
        Where objects, streams and logs are kept for the next time; by default they are not.
    """
    try:
        import exeunt_local.up  # noqa: PLC0415 - it needs what only the extra `local` installs
    except ModuleNotFoundError as error:
        if error.name != "trustme":
            raise
        raise UsageError(f"{error.name} is not installed: run `pip install 'exeunt[local]'` first") from error
    asyncio.run(exeunt_local.up.up(prepare_only=prepare_only, folder=folder))


@app.command(name="settings")
def show_settings() -> None:
    """Print every setting of the services: variable, default, meaning."""
    console = Console(highlight=False)
    for setting in documented():
        console.print(f"[bold]{setting.variable}[/bold]={escape(setting.default)}")
        console.print(Padding(escape(setting.meaning), (0, 0, 1, 4)))


def main() -> None:
    """Runs the command line: exit code 0, or 1 with the reason on stderr."""
    try:
        app()
    except ExeuntError as error:
        sys.stderr.write(f"exeunt: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
