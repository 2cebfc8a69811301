"""`exeunt` and its commands. Our own errors end it with their message, bugs with a traceback.

Exit codes: 0 ok; 1 a history is decided otherwise today, or the command failed; 2 wrong usage; 3 not found; 4 NATS
cannot be reached or read. Commands with a module of their own are loaded when they are called.
"""

import asyncio
import os
import sys
from pathlib import Path

import structlog
from cyclopts import App, CycloptsError
from rich.markup import escape
from rich.padding import Padding

import exeunt
from exeunt.bus.errors import BusError
from exeunt.errors import ExeuntError, UsageError, said_by
from exeunt.telemetry.variables import check_what_imports_read, forget_empty
from exeunt_cli.completion import SCRIPTS, Shell
from exeunt_cli.errors import NotFound
from exeunt_cli.options import examples
from exeunt_cli.settings import documented

app = App(
    name="exeunt",
    help="Ends canceled realtime StoryRuns of bobrapet as soon as their topology is gone.",
    help_epilogue=examples("exeunt up", "exeunt runs -A --since 1d", "exeunt explain livekit-voice/call-7"),
    version=exeunt.__version__,
)
for _where, _help, _first, *_others in (
    ("runs:runs", "List recent stops.", "exeunt runs -A --since 1d", "exeunt runs -n livekit-voice -f"),
    ("timeline:timeline", "Show the stops of a run.", "exeunt timeline call-7", "exeunt timeline run.jsonl -o wide"),
    (
        "tail:tail",
        "Show what is published, as it is published.",
        "exeunt tail -n livekit-voice",
        "exeunt tail call-7 -o jsonl",
    ),
    (
        "explain:explain",
        "Explain in sentences what happened, and which rule won.",
        "exeunt explain livekit-voice/call-7",
        "exeunt explain call-7 --context production -o json",
    ),
    ("export:export", "Write the whole history of a run to a file.", "exeunt export call-7 --redact --to run.jsonl"),
    (
        "replay:replay",
        "Walk through a history, or decide it again.",
        "exeunt replay run.jsonl --check",
        "exeunt replay call-7 --what-if shutdown-timeout=5s",
    ),
    ("report:report", "Show the stops of a run as one page, with pictures.", "exeunt report call-7 --to stop.html"),
    ("plan:plan", "Show what would be done now about every canceled run.", "exeunt plan -A --context production"),
):
    app.command(f"exeunt_cli.{_where}", help=_help, help_epilogue=examples(_first, *_others))
app.command(
    "exeunt_cli.deadletters:deadletters", name="deadletters", help="Look at what was set aside, or republish it."
)


@app.command(help_epilogue=examples("exeunt up", "exeunt up --prometheus --folder state"))
def up(
    *, prepare_only: bool = False, prometheus: bool = False, livekit: bool = False, folder: Path | None = None
) -> None:
    """Run Kubernetes, NATS and the three services on this machine, without a cluster.

    Parameters
    ----------
    prepare_only
        Only find or build the servers: minutes the first time, nothing later.
    prometheus
        A Prometheus, too, that scrapes the services; it has no pages, but answers queries and Grafana.
    livekit
        A LiveKit server, too, and the bridge that tells the services which of its rooms are over.
    folder
        Where objects, streams and logs are kept for the next time; by default they are not.
    """
    try:
        import exeunt_local.up  # noqa: PLC0415 - it needs what only the extra `local` installs
    except ModuleNotFoundError as error:
        if error.name not in ("trustme", "exeunt_local"):  # the image has neither
            raise
        raise UsageError(f"{error.name} is not installed: it comes with Exeunt's extra `local`") from error
    asyncio.run(exeunt_local.up.up(prepare_only=prepare_only, prometheus=prometheus, livekit=livekit, folder=folder))


@app.command(help_epilogue=examples("exeunt nats-credentials credentials", "kubectl apply -k credentials"))
def nats_credentials(folder: Path, /, *, namespace: str | None = None, name: tuple[str, ...] = ()) -> None:
    """Make nkeys and certificates for an installation, to be applied with `kubectl apply -k FOLDER`.

    Run again, it keeps the nkeys, the authority and FOLDER/kustomization.yaml, and issues the certificate of the NATS
    servers anew, for the names that it had and those that are new.

    Parameters
    ----------
    folder
        Where they are written; keep it as you keep other secrets.
    namespace
        Of the installation: by default that of an earlier run, else "exeunt".
    name
        A further DNS name or address under which clients reach the NATS servers; may be repeated.
    """
    try:
        from exeunt_cli.nats_credentials import write_credentials  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name != "cryptography":
            raise
        raise UsageError(f"{error.name} is not installed: it comes with Exeunt's extra `local`") from error
    try:
        write_credentials(folder, namespace=namespace, names=name)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write credentials to {folder}: {said_by(error)}") from error
    sys.stdout.write(f"Written to {folder}. Next: kubectl apply -k {folder}\n")


@app.command(help_epilogue=examples("source <(exeunt completion bash)", "exeunt completion fish | source"))
def completion(shell: Shell, /) -> None:
    """Print the completion script of a shell, which completes the names of runs, too.

    `kubectl exeunt` is completed by kubectl itself, which finds `kubectl_complete-exeunt` beside this command.
    """
    sys.stdout.write(SCRIPTS[shell])


@app.command(name="settings", help_epilogue=examples("exeunt settings | less"))
def show_settings() -> None:
    """Print every setting of the services: variable, default, meaning."""
    from exeunt_cli.output import console  # noqa: PLC0415 - only commands that show something need it

    screen = console(markup=True, soft_wrap=False)
    for setting in documented():
        screen.print(f"[bold]{setting.variable}[/bold]={escape(setting.default)}")
        screen.print(Padding(escape(setting.meaning), (0, 0, 1, 4)))


def main() -> None:
    """Run the command line and exit with the code that tells how it went."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # beside what was asked for
    try:
        forget_empty(os.environ)
        check_what_imports_read(os.environ)  # they are imported by some of the commands
        app(exit_on_error=False)
    except CycloptsError:  # told on stderr already
        sys.exit(2)
    except ExeuntError as error:
        sys.stderr.write(f"exeunt: {error}\n")
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is buffered cannot be written, and must not be tried at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def exit_code(error: ExeuntError) -> int:
    """The code for an error, by whose fault it is."""
    match error:
        case UsageError():
            return 2
        case NotFound():
            return 3
        case BusError():
            return 4
        case _:
            return 1


if __name__ == "__main__":
    main()
