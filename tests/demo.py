"""The demo: the canceled call of bobrapet #87, without Exeunt and with it. `make demo` runs it.

Kubernetes, NATS and the three services are real processes of this machine; the user, the hub and the operator are
played (`actors`). What an act shows was measured while it was played: the fence and the writer of the last status are
read from the StoryRun, what the services did from their events in the stream RUNS.

Exits with 0 when the calls ended as promised, 1 when they did not, 130 after Ctrl-C.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from actors.admin import admin_client
from actors.call import Call
from actors.history import Event, history
from actors.kubernetes import Kubernetes
from actors.names import FENCE
from actors.operator import Operator
from actors.recorder import Recorder
from exeunt.errors import ExeuntError
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import tail

NAMESPACE = "livekit-voice"
DRAIN = 12
REPORTED_DRAIN = 120
SHUTDOWN_TIMEOUT = 3
LEAVING = timedelta(milliseconds=300)
LONG = timedelta(seconds=2)
STYLES = {"user": "cyan", "hub": "cyan", "operator": "yellow", "watcher": "green", "terminator": "green"} | {
    "timeout-scheduler": "green"
}

INTRODUCTION = f"""\
Exeunt: they all leave.

A voice call on Kubernetes is a StoryRun of the operator bobrapet. Its Story has a transport with a drain window, a
knob for upgrades: {DRAIN} s in this demo, {REPORTED_DRAIN} s in the reported case (bobrapet #87).
Its graceful shutdown timeout is {SHUTDOWN_TIMEOUT} s.

Kubernetes, NATS and Exeunt are real here; the user, the hub of the streams and the operator are played.\
"""


class Line(NamedTuple):
    """Who did what, and when."""

    at: datetime
    who: str
    what: str


@dataclass(frozen=True)
class Act:
    """One call from its cancel to its end; `left` is when the last participant had gone, if they went at all."""

    canceled: datetime
    left: datetime | None
    ended: datetime
    ended_by: str
    lines: list[Line]

    @property
    def took(self) -> timedelta:
        return self.ended - self.canceled


class Stage:
    """Everything that acts are played on."""

    def __init__(self, console: Console, kubernetes: Kubernetes, nats_url: str) -> None:
        self._console = console
        self._kubernetes = kubernetes
        self._nats_url = nats_url

    async def play(self, name: str, story: str | None, *, hang_up: bool, exeunt: bool) -> tuple[Act, str]:
        """Plays a call; returns the act, and the Story for the next one."""
        async with Recorder(self._kubernetes, NAMESPACE) as recorder:
            call = await Call.start(
                self._kubernetes,
                NAMESPACE,
                name,
                story=story,
                drain=DRAIN,
                shutdown_timeout=f"{SHUTDOWN_TIMEOUT}s",
            )
            with waiting(self._console, "canceled, and not ended yet"):
                canceled, left = await call.cancel(), None
                lines = [Line(canceled, "user", "cancels the run: spec.cancelRequested is true")]
                if hang_up:
                    await asyncio.sleep(LEAVING.total_seconds())  # until here they are saying good-bye
                    left = datetime.now(UTC)
                    await call.signal_topology_terminated()
                    lines.append(Line(left, "hub", "everyone has left: condition TopologyTerminated"))
                run = await call.wait_finished(within=DRAIN + 10)
                gone = await call.wait_cleaned_up(within=5)
                events = await history(self._nats_url, NAMESPACE, name, _whole_story) if exeunt else []
        end, *more = recorder.terminal_transitions(call.uid)
        if more:
            raise AssertionError(f"{name} ended more than once: by {[state.written_by for state in [end, *more]]}")
        # The watcher may have seen the end a moment before the demo did.
        ended = min([end.at, *(event.at for event in events if event.kind == "run-terminal")])
        fence = datetime.fromisoformat(run["metadata"]["annotations"][FENCE])
        lines += [
            Line(fence, "operator", f"takes note, and means to wait for the drain window of {DRAIN} s"),
            Line(ended, actor(end.written_by), "writes the end: Finished, Canceled"),
            *(Line(event.at, event.who, what) for event in events if (what := in_words(event))),
            Line(gone, "operator", "has taken down the last step and its connection"),
        ]
        lines.sort(key=lambda line: line.at)
        return Act(canceled, left, ended, actor(end.written_by), lines), call.story


def _whole_story(events: list[Event]) -> bool:
    """The watcher has said that the run is over, and the terminator why."""
    return {"run-terminal", "finalize"} <= {event.kind for event in events}


def in_words(event: Event) -> str:
    data = event.data
    match event.kind:
        case "cancel-requested":
            return (
                f"says: cancel requested, shutdown timeout {data['shutdown']['timeout']} ({data['shutdown']['rule']})"
            )
        case "wait":
            return f"waits: {data['why']}"
        case "topology-terminated":
            return f"says: topology terminated ({data['topology']['gone']['kind']})"
        case "deadline-reached":
            return "says: shutdown deadline reached"
        case "finalize":
            return f"records: {data['why']}; {len(data['deleted_step_runs'])} StepRuns deleted"
        case "run-terminal":
            return "says: the run is over"
    return ""


def actor(field_manager: str | None) -> str:
    """Who writes under the name of that field manager."""
    return {"bobrapet": "operator", "exeunt-terminator": "terminator"}.get(field_manager or "", f"{field_manager}")


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """On a terminal, the seconds go by."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    disable = not console.is_terminal or console.is_dumb_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        progress.add_task(what)
        yield


def show(console: Console, title: str, act: Act) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    before = act.canceled
    for line in act.lines:
        if line.at < act.canceled:
            continue  # said when the call began
        if line.at - before > LONG:
            console.print(
                Text(f"{'':13}... nothing happens for {(line.at - before).total_seconds():.1f} s", style="dim")
            )
        before = line.at
        text = Text(f"  {(line.at - act.canceled).total_seconds():+8.3f} s  ")
        text.append(f"{line.who:<18}", style=STYLES.get(line.who, "red"))
        text.append(line.what, style="bold" if line.at == act.ended and line.who == act.ended_by else "")
        console.print(text)


def compare(console: Console, alone: Act, stopped: Act, stayed: Act) -> None:
    """The durations side by side, and what they mean with the drain window of the reported case."""
    assert stopped.left is not None
    after = (stopped.ended - stopped.left) / timedelta(milliseconds=1)
    rows = (
        ("1 without Exeunt", alone, f"the drain window; {REPORTED_DRAIN} s in the reported case"),
        ("2 with Exeunt", stopped, f"{after:.0f} ms after everyone had left"),
        ("3 nobody leaves", stayed, "at its shutdown deadline"),
    )
    bar = "=" if console.options.ascii_only else "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
    console.print(Text("\nFrom cancel to Finished", style="bold"))
    for title, act, why in rows:
        seconds = act.took.total_seconds()
        text = Text(f"  {title:<18}{seconds:7.3f} s  ")
        text.append(f"{bar * max(1, round(24 * seconds / DRAIN)):<25}", style=STYLES.get(act.ended_by, "red"))
        console.print(text.append(f" {why}"))
    console.print(
        f"\nWith the {REPORTED_DRAIN} s of the reported case the first call would have taken two minutes, "
        f"the second still {stopped.took.total_seconds():.3f} s."
    )


def broken_promises(alone: Act, stopped: Act, stayed: Act) -> Iterator[str]:
    if alone.took < timedelta(seconds=DRAIN) or alone.ended_by != "operator":
        yield f"alone, the operator should have taken the drain window: {alone.took}, ended by {alone.ended_by}"
    assert stopped.left is not None
    if stopped.ended - stopped.left > timedelta(seconds=1) or stopped.ended_by != "terminator":
        yield f"with Exeunt, the call should have ended at once: {stopped.took}, by {stopped.ended_by}"
    lateness = stayed.took - timedelta(seconds=SHUTDOWN_TIMEOUT)
    if not timedelta(0) <= lateness < timedelta(seconds=0.5) or stayed.ended_by != "terminator":
        yield f"where nobody left, the deadline should have ended it: {stayed.took}, by {stayed.ended_by}"


async def demo(console: Console) -> int:
    """Sets the stage, plays the three acts and clears everything away; returns the exit code."""
    console.print(INTRODUCTION)
    servers = await binaries.prepare()
    with tempfile.TemporaryDirectory(prefix="exeunt-demo-") as temporary:
        async with AsyncExitStack() as stack:
            folder = Path(temporary)
            enter = stack.enter_async_context
            with waiting(console, "starting etcd, kube-apiserver and nats-server"):
                control_plane = await enter(ControlPlane(folder / "kubernetes", binaries=servers))
                nats_server = await enter(NatsServer(folder / "nats", binary=servers.nats_server))
                await control_plane.install_crds(CRDS)
                await control_plane.apply(
                    BASE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
                )
            kubernetes = Kubernetes(await enter(admin_client(control_plane.kubeconfig)))
            await enter(Operator(kubernetes))
            stage = Stage(console, kubernetes, nats_server.url)

            alone, story = await stage.play("without-exeunt", None, hang_up=True, exeunt=False)
            show(console, "1. Without Exeunt", alone)

            mesh = await enter(Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url))
            with waiting(console, f"starting {', '.join(SERVICES)}"):
                for service in SERVICES:
                    await mesh.start(service)
            try:
                stopped, _ = await stage.play("with-exeunt", story, hang_up=True, exeunt=True)
                show(console, "2. With Exeunt, the same call", stopped)
                stayed, _ = await stage.play("nobody-leaves", story, hang_up=False, exeunt=True)
                show(console, "3. With Exeunt, and nobody leaves", stayed)
            except (AssertionError, TimeoutError):
                sys.stderr.writelines(f"{tail(mesh.log(service))}\n" for service in SERVICES)
                raise
        compare(console, alone, stopped, stayed)
    broken = list(broken_promises(alone, stopped, stayed))
    for promise in broken:
        sys.stderr.write(f"demo: {promise}\n")
    return 1 if broken else 0


def main() -> int:
    try:
        return asyncio.run(demo(Console(highlight=False, soft_wrap=True)))
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted; everything that was started is gone\n")
        return 130
    except (ExeuntError, AssertionError, TimeoutError) as error:
        sys.stderr.write(f"demo: {str(error) or repr(error)}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
