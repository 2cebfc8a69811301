"""The demo: the call of bobrapet #87, without Exeunt and with it. `make demo` runs it.

Kubernetes, NATS, LiveKit and Exeunt's services are real processes of this machine, and so are the caller and the bot,
who meet in a real room with LiveKit's own SDK. Played are the impulse, which hears LiveKit's real webhooks, and the
operator with its engrams (`actors`). What an act shows was measured while it was played: cancel_observed_at and the
writer of the last status are read from the StoryRun, what the services did from their events in the streams RUNS and
SIGNALS.

Exits with 0 when the calls ended as promised, 1 when they did not, 130 after Ctrl-C.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from actors.admin import admin_client
from actors.call import Call, create_story
from actors.history import Event, history, last_signal
from actors.impulse import Impulse
from actors.kubernetes import Kubernetes
from actors.livekit_room import LiveKitRoom
from actors.names import CANCEL_OBSERVED_AT, compose_name
from actors.operator import Operator
from actors.recorder import Recorder
from exeunt.errors import ExeuntError
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.mesh import LIVEKIT_BRIDGE, SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port, tail

NAMESPACE = "livekit-voice"
STORY = "voice"
DRAIN = 12
REPORTED_DRAIN = 120
SHUTDOWN_TIMEOUT = 3
TALK = timedelta(milliseconds=500)
LONG = timedelta(seconds=2)
STYLES = {"caller": "cyan", "impulse": "yellow", "operator": "yellow"} | dict.fromkeys(
    [*SERVICES, LIVEKIT_BRIDGE], "green"
)

INTRODUCTION = f"""\
Exeunt: they all leave.

A voice call on Kubernetes is a StoryRun of the operator bobrapet: a caller and a bot in a room of LiveKit. Its Story
has a transport with a drain window, a knob for upgrades: {DRAIN} s in this demo, {REPORTED_DRAIN} s in the reported
case (bobrapet #87). Its graceful shutdown timeout is {SHUTDOWN_TIMEOUT} s.

Kubernetes, NATS, LiveKit, the caller, the bot and Exeunt are real here; the impulse and the operator are played.\
"""


class Line(NamedTuple):
    """Who did what, and when."""

    at: datetime
    who: str
    what: str


@dataclass(frozen=True)
class Act:
    """One call from what the caller did, which had it canceled, to its end."""

    done: datetime
    cancel_observed_at: datetime
    ended: datetime
    ended_by: str
    lines: list[Line]

    @property
    def took(self) -> timedelta:
        return self.ended - self.done


class Stage:
    """What an act is played on: a LiveKit server, the impulse that it tells of its rooms, and the cluster."""

    def __init__(
        self, console: Console, kubernetes: Kubernetes, nats_url: str, livekit: LiveKitServer, impulse: Impulse
    ) -> None:
        self._console = console
        self._kubernetes = kubernetes
        self._nats_url = nats_url
        self._livekit = livekit
        self._impulse = impulse

    async def play(self, name: str, *, hang_up: bool, exeunt: bool) -> Act:
        """Plays a call in the room of that name, which the caller leaves, or else stays in without a microphone."""
        async with Recorder(self._kubernetes, NAMESPACE) as recorder, LiveKitRoom(self._livekit, name) as room:
            caller = await room.join("alice")
            sid = caller.room_sid
            call = await self._impulse.call(sid)
            # So the livekit-bridge engram of that step names itself.
            bot = await room.join(f"bubu-agent-{compose_name(call.name, call.staging.steps[0])}-3f2a1c")
            await caller.publish_microphone()
            await asyncio.sleep(TALK.total_seconds())
            with waiting(self._console, "canceled, and not ended yet"):
                if hang_up:
                    lines = [Line(done := await caller.leave(), "caller", "leaves the room of LiveKit; the bot stays")]
                else:
                    done = await caller.unpublish_microphone()
                    lines = [Line(done, "caller", "unpublishes the microphone, and stays in the room of LiveKit")]
                run = await call.wait_finished(within=DRAIN + 10)
                gone = await call.wait_cleaned_up(within=5)
            await bot.leave()  # its Pod is gone
            events = await history(self._nats_url, NAMESPACE, call.name, _whole_story) if exeunt else []
            if exeunt and hang_up:
                lines += await self._bridge_published(sid)
        cancel = self._impulse.cancels[sid]
        what = f"hears {cancel.event} of {cancel.identity} and cancels the run: spec.cancelRequested is true"
        cancel_observed_at = datetime.fromisoformat(run["metadata"]["annotations"][CANCEL_OBSERVED_AT])
        ended, ended_by = _end(recorder, call, events)
        lines += [
            Line(cancel.at, "impulse", what),
            Line(cancel_observed_at, "operator", f"takes note, and means to wait for the drain window of {DRAIN} s"),
            Line(ended, ended_by, "writes the end: Finished, Canceled"),
            *(Line(event.at, event.who, what) for event in events if (what := in_words(event))),
            Line(gone, "operator", "has taken down the last step and its connection"),
        ]
        lines.sort(key=lambda line: line.at)
        return Act(done, cancel_observed_at, ended, ended_by, lines)

    async def _bridge_published(self, sid: str) -> list[Line]:
        signal = await last_signal(self._nats_url, sid)
        return [Line(signal.at, LIVEKIT_BRIDGE, f"publishes: {signal.kind}, nobody who counts is left in the room")]


def _end(recorder: Recorder, call: Call, events: list[Event]) -> tuple[datetime, str]:
    """When the run became terminal, and who made it so; raises AssertionError when it did more than once."""
    end, *more = recorder.terminal_transitions(call.uid)
    if more:
        raise AssertionError(f"{call.name} ended more than once: by {[state.written_by for state in [end, *more]]}")
    # The watcher may have seen the end a moment before the demo did.
    at = min([end.at, *(event.at for event in events if event.kind == "run-terminal")])
    return at, actor(end.written_by)


def _whole_story(events: list[Event]) -> bool:
    """The watcher has said that the run is over, and the terminator why."""
    return {"run-terminal", "finalize"} <= {event.kind for event in events}


def in_words(event: Event) -> str:
    data = event.data
    match event.kind:
        case "cancel-requested":
            timeout, rule = data["shutdown"]["timeout"], data["shutdown"]["rule"]
            return f"publishes: cancel requested, shutdown timeout {timeout} ({rule})"
        case "wait":
            return f"waits: {data['why']}"
        case "topology-terminated":
            return f"publishes: topology terminated ({data['topology']['gone']['kind']})"
        case "deadline-reached":
            return "publishes: shutdown deadline reached"
        case "finalize":
            return f"records: {data['why']}; {len(data['deleted_step_runs'])} StepRuns deleted"
        case "run-terminal":
            return "publishes: the run is over"
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
    before = act.done
    for line in act.lines:
        if line.at < act.done:
            continue  # said when the call began
        if line.at - before > LONG:
            console.print(
                Text(f"{'':13}... nothing happens for {(line.at - before).total_seconds():.1f} s", style="dim")
            )
        before = line.at
        text = Text(f"  {(line.at - act.done).total_seconds():+8.3f} s  ")
        text.append(f"{line.who:<18}", style=STYLES.get(line.who, "red"))
        text.append(line.what, style="bold" if line.at == act.ended and line.who == act.ended_by else "")
        console.print(text)


def compare(console: Console, alone: Act, stopped: Act, stayed: Act) -> None:
    """The durations side by side, and what they mean with the drain window of the reported case."""
    rows = (
        ("1 without Exeunt", alone, f"after the caller had left; {REPORTED_DRAIN} s in the reported case"),
        ("2 with Exeunt", stopped, "after the caller had left"),
        ("3 nobody leaves", stayed, f"its shutdown deadline, {SHUTDOWN_TIMEOUT} s after cancel_observed_at"),
    )
    bar = "=" if console.options.ascii_only else "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
    console.print(Text("\nHow long it took until Finished", style="bold"))
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
    if stopped.took > timedelta(seconds=1) or stopped.ended_by != "terminator":
        yield f"with Exeunt, the call should have ended at once: {stopped.took}, by {stopped.ended_by}"
    lateness = stayed.ended - stayed.cancel_observed_at - timedelta(seconds=SHUTDOWN_TIMEOUT)
    if not timedelta(0) <= lateness < timedelta(seconds=0.5) or stayed.ended_by != "terminator":
        yield f"where nobody left, the deadline should have ended it: {stayed.took}, by {stayed.ended_by}"


@asynccontextmanager
async def calling(
    folder: Path, binary: Path, kubernetes: Kubernetes, *told_first: str
) -> AsyncIterator[tuple[LiveKitServer, Impulse]]:
    """A LiveKit server that tells the impulse of its rooms, and before it whoever listens at `told_first`."""
    port = free_port()
    async with (
        LiveKitServer(folder, binary=binary, webhook_urls=[*told_first, Impulse.url_at(port)]) as livekit,
        # Without the pattern it takes the bot for a caller.
        Impulse(kubernetes, NAMESPACE, STORY, livekit=livekit, port=port, self_identities=["bubu-agent*"]) as impulse,
    ):
        yield livekit, impulse


async def demo(console: Console) -> int:
    """Sets the stage, plays the three acts and clears everything away; returns the exit code."""
    console.print(INTRODUCTION)
    servers, livekit_server = await binaries.prepare(), await binaries.prepare_livekit()
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
            await create_story(kubernetes, NAMESPACE, STORY, drain=DRAIN, shutdown_timeout=f"{SHUTDOWN_TIMEOUT}s")

            async with calling(folder / "livekit-alone", livekit_server, kubernetes) as (livekit, impulse):
                stage = Stage(console, kubernetes, nats_server.url, livekit, impulse)
                alone = await stage.play("without-exeunt", hang_up=True, exeunt=False)
            show(console, "1. Without Exeunt", alone)

            port = free_port()
            told_first = f"http://127.0.0.1:{port}/webhook"
            livekit, impulse = await enter(calling(folder / "livekit", livekit_server, kubernetes, told_first))
            mesh = await enter(Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url))
            stage = Stage(console, kubernetes, nats_server.url, livekit, impulse)
            with waiting(console, f"starting {', '.join(SERVICES)} and {LIVEKIT_BRIDGE}"):
                for service in SERVICES:
                    await mesh.start(service)
                await mesh.start_livekit_bridge(livekit, port)
            try:
                stopped = await stage.play("with-exeunt", hang_up=True, exeunt=True)
                show(console, "2. With Exeunt, the same call", stopped)
                stayed = await stage.play("nobody-leaves", hang_up=False, exeunt=True)
                show(console, "3. With Exeunt, and nobody leaves", stayed)
            except (AssertionError, TimeoutError):
                sys.stderr.writelines(f"{tail(mesh.log(service))}\n" for service in (*SERVICES, LIVEKIT_BRIDGE))
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
