"""A terminator without the bus: the real machines of three services in one process, as `exeunt_terminator.stand_in`
carries them out, with the simulated kube-apiserver around them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from exeunt.events.event_types import EventType
from exeunt.events.messages import Message
from exeunt.events.subjects import DEADLINES, armed_subject
from exeunt.kube.changes import Change
from exeunt.kube.resources import Resource
from exeunt.run.models import StoryRun
from exeunt.run.snapshot import read_run
from exeunt_terminator.commands import AlreadyStored, Command, GiveBack, Record, SecondLook, Stored
from exeunt_terminator.local_streams import Done, LocalEvent, LocalStreams
from exeunt_terminator.machine import Stopping
from exeunt_terminator.remembered import Remembered
from exeunt_timeout_scheduler import commands as deadline
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.sweeping import Listed, LookAfter, NotListed, Sweeping
from exeunt_watcher import commands as watch
from simulation import settings
from simulation.apiserver import ApiServer
from simulation.clockwork import seconds
from simulation.faults import Fault
from simulation.processes import Process
from simulation.stops import Stop, Stops
from simulation.watcher import RESOURCES, new_machine
from simulation.watches import Watch


class StandIn:
    """Stands in once, from when it is made until `stop`. `done` is told what was done."""

    def __init__(
        self, process: Process, api: ApiServer, stops: Stops, remembered: Remembered, done: Callable[[Done], None]
    ) -> None:
        self._process = process
        self._api = api
        self._stops = stops
        self._done = done
        self._streams = LocalStreams(new_machine(), remembered)
        self._armed: dict[str, object] = {}
        self._open: list[LocalEvent] = []
        self._stopped = False
        self.watches: dict[str, Watch] = {}
        process.clock.happened["without the bus"] += 1
        process.clock.note(process.name, "stands in for the bus")
        self._hear(watch.AllSignalsHeard())
        self._watch()
        self._tick()
        self._sweep()

    def stop(self) -> None:
        """What is in progress goes on to its end, and nothing more is begun; what is not done is left to the stream."""
        self._process.clock.note(self._process.name, "stands in no more")
        self._stopped = True
        for each in self.watches.values():
            each.ended = True
        for published in self._open:
            if not published.recorded:
                self._done(published.handed_over())

    def hear(self, message: Message) -> None:
        """Of somebody who cannot store it."""
        published = self._streams.take(message, self._process.now())
        if published is not None:
            self._process.clock.happened["an event that is not stored is acted on"] += 1
            self._act_on(published)

    # What the watcher would do.

    def _watch(self) -> None:
        for each in self.watches.values():
            each.ended = True
        self.watches = {
            kind: Watch(self._api, self._process, kind, partial(self._seen, resource), self._restored)
            for kind, resource in RESOURCES.items()
        }

    def _seen(self, resource: Resource[Any], change: Change[Any]) -> None:
        self._hear(watch.Seen(resource, None, change))

    def _restored(self) -> None:
        self._hear(watch.Restored())
        self._watch()

    def _tick(self) -> None:
        self._hear(watch.Tick())
        self._later(settings.TICK, self._tick)

    def _hear(self, heard: watch.Input) -> None:
        if self._stopped:
            return
        for asked in self._streams.receive(heard, self._process.now()):
            match asked:
                case watch.GetRun():
                    self._read(asked)
                case watch.Recall():
                    self._hear(watch.Recalled(asked, self._streams.recall(asked)))
                case LocalEvent():
                    self._act_on(asked)

    def _read(self, asked: watch.GetRun) -> None:
        _, name = asked.key
        self._api.ask(self._process, lambda: self._api.run(name), partial(self._have_read, asked), _unread)

    def _have_read(self, asked: watch.GetRun, run: StoryRun | Fault | None) -> None:
        if isinstance(run, Fault):
            self._later(self._process.clock.little(0.2, 2), partial(self._read, asked))
        else:
            self._hear(watch.RunRead(asked, run))

    def _act_on(self, published: LocalEvent) -> None:
        self._process.clock.note(self._process.name, f"acts on {published.event.event_type} without the bus")
        if published.stops:
            self._open.append(published)
            self._stop(published)
        if published.schedules:
            self._schedule(deadline.Heard(published.event), lambda: True)

    # What the timeout-scheduler would do.

    def _sweep(self) -> None:
        self._later(settings.SWEEP_INTERVAL.total_seconds(), self._sweep)
        sweeping = Sweeping(())
        for _ in sweeping.begin():
            self._api.ask(self._process, self._list, partial(self._listed, sweeping), _not_listed)

    def _list(self) -> Listed | NotListed:
        return Listed(self._api.unfinished_runs())

    def _listed(self, sweeping: Sweeping, heard: Listed | NotListed) -> None:
        for command in sweeping.receive(heard):
            if isinstance(command, LookAfter):
                self._look_after(command.run)

    def _look_after(self, run: StoryRun) -> None:
        found = deadline.Found(run, settings.DEFAULT_TIMEOUT, settings.FENCE_WAIT, settings.OVERDUE_AFTER)
        self._carry_out(Scheduling(), found, lambda: True, lambda _: None)

    def _schedule(self, begins: deadline.Heard | deadline.Fired, wanted: Callable[[], bool], failures: int = 0) -> None:
        def end(given: deadline.End) -> None:
            if isinstance(given, deadline.GiveBack):
                wait = self._process.clock.little(0.5, min(30.0, 2.0 ** (failures + 1)))
                self._later(wait, partial(self._schedule, begins, wanted, failures + 1))
            elif isinstance(begins, deadline.Fired):  # it is armed no more
                self._armed.pop(armed_subject(begins.deadline.snapshot.run.cancellation), None)

        self._carry_out(Scheduling(), begins, wanted, end)

    def _carry_out(
        self,
        scheduling: Scheduling,
        heard: deadline.Input,
        wanted: Callable[[], bool],
        end: Callable[[deadline.End], None],
    ) -> None:
        if self._stopped or not wanted():
            return
        process, api = self._process, self._api
        command = scheduling.receive(heard, process.now())

        def then(answer: deadline.Input) -> None:
            self._carry_out(scheduling, answer, wanted, end)

        match command:
            case deadline.Hold(until):
                remaining = seconds(until) - seconds(process.now())
                self._later(min(max(0.001, remaining), 1.0), lambda: then(deadline.HeldUntil()))
            case deadline.GetRun():
                api.ask(process, partial(self._get, command), then, deadline.Failed)
            case deadline.GetStory(_, name):
                api.ask(process, partial(self._get_story, name), then, deadline.Failed)
            case deadline.Arm(armed):
                then(self._arm(armed_subject(armed.snapshot.run.cancellation), deadline.Fired(armed)))
            case deadline.Disarm(run):
                then(deadline.Purged(int(self._armed.pop(armed_subject(run.cancellation), None) is not None)))
            case deadline.Publish(snapshot, at, after):
                stored = self._streams.store(EventType.DEADLINE_REACHED, snapshot, at, after=after)
                if isinstance(stored, LocalEvent):
                    self._act_on(stored)
                then(deadline.Stored() if isinstance(stored, LocalEvent) else deadline.AlreadyStored())
            case deadline.LastMessage(subject, stream) if stream == DEADLINES:
                there = deadline.Message(0, process.now(), {}, b"")
                then(there if subject in self._armed else deadline.NoMessage())
            case deadline.LastMessage() | deadline.GetAckFloor():
                then(self._streams.look_up(command))
            case deadline.Ack() | deadline.GiveBack() | deadline.DeadLetter():
                end(command)

    def _arm(self, subject: str, fired: deadline.Fired) -> deadline.Stored | deadline.AlreadyStored:
        if subject in self._armed:
            return deadline.AlreadyStored()
        armed = self._armed[subject] = object()
        self._schedule(fired, lambda: self._armed.get(subject) is armed)
        return deadline.Stored()

    def _get_story(self, name: str) -> deadline.Input:
        return deadline.StoryRead(self._api.story(name))

    def _get(self, asked: deadline.GetRun) -> deadline.Input:
        run = self._api.run(asked.run.name)
        if run is None:
            return deadline.NotFound()
        now = self._process.now()
        return deadline.RunRead(read_run(run, first_seen=asked.first_seen, now=now, fence_wait=settings.FENCE_WAIT))

    # What the stream and the terminator do.

    def _stop(self, published: LocalEvent) -> None:
        if self._stopped:
            return
        stopping = Stopping(published.event, dry_run=False, propagate_cancel=self._stops.propagates)
        stop = Stop(published.event, stopping, partial(self._record, published), partial(self._end, published))
        wait = self._process.clock.little(0.5, min(30.0, 2.0 ** min(10, published.deliveries + 1)))
        self._stops.begin(stop, published.deliver(wait, None))

    def _record(self, published: LocalEvent, stop: Stop, asked: Record) -> None:
        answer = published.record(asked, self._process.now())
        if isinstance(answer, AlreadyStored):
            self._stops.hear(stop, answer)
            return
        if asked.outcome.finished_at is not None:
            self._process.clock.happened["a run is ended without the bus"] += 1
        self._done(answer)
        self._stops.hear(stop, Stored())

    def _end(self, published: LocalEvent, end: Command) -> None:
        match end:
            case SecondLook():
                self._later(settings.SECOND_LOOK.total_seconds(), partial(self._stop, published))
            case GiveBack(_, after):
                self._later(after.total_seconds(), partial(self._stop, published))
            case _:
                self._streams.settle(published)
                self._open.remove(published)

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        self._process.later(delay, lambda: None if self._stopped else act())


def _unread(_: str) -> Fault:
    return Fault.UNAVAILABLE


def _not_listed(why: str) -> NotListed:
    return NotListed(why, away=True)
