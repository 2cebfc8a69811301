"""Deadlines on their way: the real machine, each of whose commands is carried out on the simulated kube-apiserver, and
on streams: JetStream's, or those that a terminator has in its memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from exeunt.run.models import StoryRun
from exeunt.run.snapshot import RunState, read_run, read_story
from exeunt_timeout_scheduler import way
from exeunt_timeout_scheduler.commands import (
    Ack,
    Arm,
    DeadLetter,
    Disarm,
    End,
    Failed,
    Found,
    GetAckFloor,
    GetRun,
    GetStory,
    GiveBack,
    HeldUntil,
    Hold,
    Input,
    LastMessage,
    NotFound,
    Publish,
    RunRead,
    StoryRead,
)
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.sweeping import Listed, LookAfter, NotListed, Sweeping
from simulation import settings
from simulation.apiserver import ApiServer
from simulation.clockwork import seconds
from simulation.processes import Process

Then = Callable[[Input], None]


class Streams(Protocol):
    """Where deadlines are armed and published; each answers `then`."""

    def arm(self, asked: Arm, then: Then) -> None: ...

    def disarm(self, run: RunState, then: Then) -> None: ...

    def publish_reached(self, asked: Publish, then: Then) -> None: ...

    def look_up(self, asked: LastMessage | GetAckFloor, then: Then) -> None: ...


def always() -> bool:
    return True


class Deadlines:
    """Carries out what the deadlines of a process ask for, as long as it is `wanted`."""

    def __init__(
        self, process: Process, api: ApiServer, streams: Streams, *, wanted: Callable[[], bool] = always
    ) -> None:
        self.held_back: set[str] = set()
        """By uid: runs whose overdue event waited for what the terminators had not acknowledged, of whichever run."""
        self._process = process
        self._api = api
        self._streams = streams
        self._wanted = wanted

    def sweep(self) -> None:
        """At once, and then at every interval."""
        if not self._wanted():
            return
        self._process.later(settings.SWEEP_INTERVAL.total_seconds(), self.sweep)
        sweeping = Sweeping(())
        for _ in sweeping.begin():
            self._api.ask(
                self._process, self._list, partial(self._listed, sweeping), lambda why: NotListed(why, away=True)
            )

    def _list(self) -> Listed | NotListed:
        return Listed(self._api.unfinished_runs())

    def _listed(self, sweeping: Sweeping, heard: Listed | NotListed) -> None:
        for command in sweeping.receive(heard):
            self._process.clock.happened[f"scheduler: {type(command).__name__}"] += 1
            if isinstance(command, LookAfter):
                self._look_after(command.run)

    def _look_after(self, run: StoryRun) -> None:
        found = Found(run, settings.DEFAULT_TIMEOUT, settings.FENCE_WAIT, settings.OVERDUE_AFTER)
        self.begin(found, lambda _: None)

    def begin(self, heard: Input, end: Callable[[End], None], wanted: Callable[[], bool] = always) -> None:
        """One deadline, from what begins it to its `end`, as long as it is `wanted`."""
        self._hear(Scheduling(), end, wanted, heard)

    def _hear(
        self, scheduling: Scheduling, end: Callable[[End], None], wanted: Callable[[], bool], heard: Input
    ) -> None:
        if not (self._wanted() and wanted()):
            return
        process, api, clock = self._process, self._api, self._process.clock
        command = scheduling.receive(heard, process.now())
        clock.happened[f"scheduler hears: {type(heard).__name__}"] += 1
        clock.happened[f"scheduler: {type(command).__name__}"] += 1
        if way.Result.UNSETTLED in scheduling.trail:
            self.held_back.add(scheduling.snapshot.run.uid)
        if not isinstance(command, Hold):
            clock.note(process.name, f"{type(heard).__name__} -> {type(command).__name__}")
        then = partial(self._hear, scheduling, end, wanted)
        match command:
            case Hold(until):
                remaining = seconds(until) - seconds(process.now())
                process.later(min(max(0.001, remaining), 1.0), lambda: then(HeldUntil()))
            case GetRun():
                api.ask(process, partial(self._get, command), then, Failed)
            case GetStory(_, name):
                api.ask(process, lambda: StoryRead(api.story(name)), then, Failed)
            case Arm():
                self._streams.arm(command, then)
            case Disarm(run):
                self._streams.disarm(run, then)
            case Publish():
                self._streams.publish_reached(command, then)
            case LastMessage() | GetAckFloor():
                self._streams.look_up(command, then)
            case Ack() | DeadLetter() | GiveBack():
                end(command)

    def _get(self, asked: GetRun) -> Input:
        run = self._api.run(asked.run.name)
        if run is None:
            return NotFound()
        now = self._process.now()
        state = read_run(run, first_seen=asked.first_seen, now=now, fence_wait=settings.FENCE_WAIT)
        story = self._api.story(run.spec.story_ref.name) if asked.story else None
        return RunRead(state, read_story(run, story) if story else None)
