"""A terminator without the bus: the real machines of three services in one process, as `exeunt_terminator.stand_in`
carries them out, with the simulated kube-apiserver around them.
"""

from collections.abc import Callable
from functools import partial

from exeunt.events.event_types import EventType
from exeunt.events.subjects import DEADLINES, armed_subject
from exeunt.run.snapshot import RunState
from exeunt_terminator.commands import AlreadyStored, Command, GiveBack, Record, SecondLook, Stored
from exeunt_terminator.local_streams import Done, LocalEvent, LocalStreams
from exeunt_terminator.machine import Stopping
from exeunt_terminator.remembered import Remembered
from exeunt_timeout_scheduler import commands as deadline
from exeunt_watcher import commands as watch
from simulation import settings
from simulation.apiserver import ApiServer
from simulation.deadlines import Deadlines, Then
from simulation.processes import Process
from simulation.stops import Stop, Stops
from simulation.watcher import new_machine
from simulation.watches import Watches


class StandIn:
    """Stands in once, from when it is made until `stop`. `done` is told what was done."""

    def __init__(
        self, process: Process, api: ApiServer, stops: Stops, remembered: Remembered, done: Callable[[Done], None]
    ) -> None:
        self._process = process
        self._stops = stops
        self._done = done
        self._streams = LocalStreams(new_machine(), remembered)
        self._armed: dict[str, object] = {}
        self._open: list[LocalEvent] = []
        self._stopped = False
        process.clock.happened["without the bus"] += 1
        process.clock.note(process.name, "stands in for the bus")
        self._hear(watch.AllSignalsHeard())
        self.watches = Watches(api, process, self._hear)
        self._deadlines = Deadlines(process, api, self, wanted=lambda: not self._stopped)
        self._tick()
        self._deadlines.sweep()

    def stop(self) -> None:
        """What is in progress goes on to its end, and nothing more is begun; what is not done is left to the stream."""
        self._process.clock.note(self._process.name, "stands in no more")
        self._stopped = True
        self.watches.end()
        for published in self._open:
            if not published.recorded:
                self._done(published.handed_over())

    # What the watcher would do.

    def _tick(self) -> None:
        self._hear(watch.Tick())
        self._later(settings.TICK, self._tick)

    def _hear(self, heard: watch.Input) -> None:
        if self._stopped:
            return
        for asked in self._streams.receive(heard, self._process.now()):
            match asked:
                case watch.GetRun():
                    self.watches.get_run(asked)
                case LocalEvent():
                    self._act_on(asked)

    def _act_on(self, published: LocalEvent) -> None:
        self._process.clock.note(self._process.name, f"acts on {published.event.event_type} without the bus")
        if published.stops:
            self._open.append(published)
            self._stop(published)
        if published.schedules:
            self._schedule(deadline.Heard(published.event), lambda: True)

    # What the timeout-scheduler would do.

    def _schedule(self, begins: deadline.Heard | deadline.Fired, wanted: Callable[[], bool], failures: int = 0) -> None:
        def end(given: deadline.End) -> None:
            if isinstance(given, deadline.GiveBack):
                wait = self._process.clock.little(0.5, min(30.0, 2.0 ** (failures + 1)))
                self._later(wait, partial(self._schedule, begins, wanted, failures + 1))
            elif isinstance(begins, deadline.Fired):  # it is armed no more
                self._armed.pop(armed_subject(begins.deadline.snapshot.run.cancellation), None)

        self._deadlines.begin(begins, end, wanted)

    def arm(self, asked: deadline.Arm, then: Then) -> None:
        subject = armed_subject(asked.deadline.snapshot.run.cancellation)
        if subject in self._armed:
            then(deadline.AlreadyStored())
            return
        armed = self._armed[subject] = object()
        self._schedule(deadline.Fired(asked.deadline), lambda: self._armed.get(subject) is armed)
        then(deadline.Stored())

    def disarm(self, run: RunState, then: Then) -> None:
        then(deadline.Purged(int(self._armed.pop(armed_subject(run.cancellation), None) is not None)))

    def publish_reached(self, asked: deadline.Publish, then: Then) -> None:
        stored = self._streams.store(EventType.DEADLINE_REACHED, asked.snapshot, asked.at, after=asked.after)
        if isinstance(stored, LocalEvent):
            self._act_on(stored)
        then(deadline.Stored() if isinstance(stored, LocalEvent) else deadline.AlreadyStored())

    def look_up(self, asked: deadline.LastMessage | deadline.GetAckFloor, then: Then) -> None:
        if isinstance(asked, deadline.LastMessage) and asked.stream == DEADLINES:
            there = deadline.Message(0, self._process.now(), {}, b"")
            then(there if asked.subject in self._armed else deadline.NoMessage())
        else:
            then(self._streams.look_up(asked))

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
