"""Ends runs without the bus: the watcher's, the timeout-scheduler's and this service's machines in one process, for as
long as an outage of JetStream lasts (ADR 25).

Nothing is decided here. What the watcher's machine wants published goes straight to a stop; deadlines are held in
memory; what a stop wants recorded is kept until there is somebody to take it. Whatever only the bus could know is
answered with "nothing is known": no signal, and of what was published before only what this process has heard. So
nothing is taken for gone earlier than with the bus. A topology that was gone before it was seen here is no evidence,
and its run ends at its deadline.
"""

import asyncio
from collections import deque
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from msgspec.structs import replace

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import back_off
from exeunt.cancelled import cancellation_kept
from exeunt.events.codec import ReceivedEvent, event_message, read_event
from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Outcome, cancellation_of
from exeunt.events.messages import Message
from exeunt.events.subjects import armed_subject, event_subject
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, Rewound, Undecodable
from exeunt.kube.list_watch import ListWatch
from exeunt.run.snapshot import Snapshot
from exeunt.settings import Settings
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.tracing import processing
from exeunt_terminator import commands
from exeunt_terminator.calls import Calls
from exeunt_terminator.commands import Delivered, End, GiveBack, Input, Record, SecondLook
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.machine import Stopping
from exeunt_terminator.remembered import Remembered
from exeunt_terminator.unpublished import Done, Unpublished
from exeunt_timeout_scheduler import calls as scheduler_calls
from exeunt_timeout_scheduler import commands as deadline
from exeunt_timeout_scheduler.calls import hold
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.way import HEARD
from exeunt_watcher import calls as watcher_calls
from exeunt_watcher import commands as watch
from exeunt_watcher.offers import StreamState
from exeunt_watcher.watches import watches, watching

SOURCE: Final = "/exeunt/terminator"
CONSUMER: Final = "without-bus"
"""What stands for the consumer in spans."""
MOST_EVENTS: Final = 10_000
"""Events that are remembered as published; one that is older is acted on again when a sweep offers it, and finds
nothing to do.
"""
_TICK: Final = 1.0
"""Seconds between looks at what only time changes."""
_GRACE: Final = 10.0
"""Seconds that stops in progress have at the end. What is left of them the stream brings up again."""

log = structlog.get_logger()


class _Stopped(Exception):
    """Ends the task group."""


class StandIn:
    """Stands in for the bus once. Any number of processes may: the conditional write lets one of them win."""

    def __init__(
        self,
        kube: KubeClient,
        bus: Bus,
        settings: Settings,
        *,
        events: KubernetesEvents,
        remembered: Remembered,
        unpublished: Unpublished,
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._kubernetes_events = events
        self._remembered = remembered
        self._unpublished = unpublished
        self._deadlines = scheduler_calls.Calls(kube, bus, settings)
        self._reads = watcher_calls.Calls(kube, bus, on_failure=lambda: None)
        self._namespaces = settings.namespaces or (None,)
        self._machine = watching(self._namespaces, settings)
        self._published: dict[str, int] = {}  # by subject, in place of the stream's sequences
        self._snapshots: dict[int, Snapshot] = {}
        self._events = 0
        self._armed: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._at_work: set[asyncio.Task[Any]] = set()
        self._tasks = asyncio.TaskGroup()
        self._stopping = asyncio.Event()
        self._watches: list[ListWatch[Any]] = []

    @property
    def unavailable_reason(self) -> str | None:
        """Why runs may be ended late, or not at all."""
        if missing := [str(watch.error or watch) for watch in self._watches if watch.error or not watch.synced]:
            return f"not listed yet, or not watched now: {', '.join(sorted(missing)[:5])}"
        return None

    def stop(self) -> None:
        """Begin nothing more: the bus is back, or this process has to end. `run` ends soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop`, and a little longer for the stops that are in progress."""
        try:
            async with self._tasks:
                watching = self._tasks.create_task(self._watch())
                await self._stopping.wait()
                watching.cancel()
                if self._at_work:
                    await asyncio.wait(self._at_work, timeout=_GRACE)
                raise _Stopped  # noqa: TRY301 - so that the group cancels what waits for anything
        except* _Stopped:
            pass

    # What the watcher would do.

    async def _watch(self) -> None:
        self._hear(watch.AllSignalsHeard())
        while True:
            self._watches = list(watches(self._namespaces, self._kube))
            async with cancellation_kept():
                try:
                    async with asyncio.TaskGroup() as tasks:
                        for each in self._watches:
                            tasks.create_task(self._follow(each))
                        tasks.create_task(self._tick())
                except* Rewound as rewound:
                    log.warning("etcd was restored from a backup: starting over", found=str(rewound.exceptions[0]))
            self._hear(watch.Restored())

    async def _follow(self, each: ListWatch[Any]) -> None:
        async with aclosing(aiter(each)) as changes:
            async for change in changes:
                self._hear(watch.Seen(each.resource, each.namespace, change))
                del change  # a page may be large, and the next change far away

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._hear(watch.Tick())

    def _hear(self, heard: watch.Input) -> None:
        inputs = deque([heard])
        while inputs:
            for command in self._machine.receive(inputs.popleft(), datetime.now(UTC)):
                match command:
                    case watch.Publish():
                        inputs.append(self._publish(command))
                    case watch.Recall(event_type, snapshot):
                        subject = event_subject(cancellation_of(event_type, snapshot.run), event_type)
                        inputs.append(watch.Recalled(command, self._remembered.at(subject)))
                    case watch.MessageAt(sequence):
                        inputs.append(watch.MessageRead(command, self._snapshots.get(sequence)))
                    case watch.GetStream():
                        inputs.append(watch.StreamRead(command, self._as_stream()))
                    case watch.GetRun():
                        self._tasks.create_task(self._read(command))
                    case watch.Covered(namespace, unfinished_runs):
                        log.info("watching without the bus", namespace=namespace, unfinished_runs=unfinished_runs)

    async def _read(self, asked: watch.GetRun) -> None:
        self._hear(await self._reads.answer(asked))

    def _publish(self, asked: watch.Publish) -> watch.Stored | watch.AlreadyStored:
        subject = event_subject(cancellation_of(asked.event_type, asked.snapshot.run), asked.event_type)
        if (sequence := self._published.get(subject)) is not None:
            return watch.AlreadyStored(asked, sequence)
        self._events += 1
        self._published[subject], self._snapshots[self._events] = self._events, asked.snapshot
        if len(self._published) > MOST_EVENTS:
            del self._snapshots[self._published.pop(next(iter(self._published)))]
        self._act_on(asked.event_type, asked.snapshot)
        return watch.Stored(asked, self._events)

    def _as_stream(self) -> StreamState:
        """What is remembered as published."""
        return StreamState("", next(iter(self._published.values()), self._events + 1), self._events, 0)

    def _act_on(self, event_type: EventType, snapshot: Snapshot) -> None:
        """What the consumers of the stream would do."""
        now = datetime.now(UTC)
        message = event_message(event_type, snapshot, source=SOURCE, now=now, context={})
        event = read_event(message.headers, message.payload)
        if event_type in STOPPING_EVENT_TYPES:
            self._remembered.keep(event)
            self._tasks.create_task(self._stop(message, event, now))
        if event_type in HEARD:
            self._tasks.create_task(self._schedule(deadline.Heard(event)))

    # What the timeout-scheduler would do.

    async def _schedule(self, begins: deadline.Heard | deadline.Fired) -> None:
        """Carry out what a deadline asks for, again for as long as something fails."""
        bind_run((begins.event if isinstance(begins, deadline.Heard) else begins.deadline).snapshot.run.cancellation)
        failures = 0
        while True:
            scheduling = Scheduling()
            command = scheduling.receive(begins, datetime.now(UTC))
            while not isinstance(command, deadline.End):
                command = scheduling.receive(await self._ask(command), datetime.now(UTC))
            if not isinstance(command, deadline.GiveBack):
                return
            failures += 1
            log.warning("deadline not published yet", error=command.why)
            await asyncio.sleep(back_off(failures))

    async def _ask(self, asked: deadline.Question) -> deadline.Input:
        match asked:
            case deadline.Arm(armed):
                subject = armed_subject(armed.snapshot.run.cancellation)
                if subject in self._armed:
                    return deadline.AlreadyStored()
                self._armed[subject] = self._tasks.create_task(self._schedule(deadline.Fired(armed)))
                return deadline.Stored()
            case deadline.Disarm(run):
                task = self._armed.pop(armed_subject(run.cancellation), None)
                return deadline.Purged(int(task is not None and task.cancel()))
            case deadline.Hold(until):
                return await hold(until)
            case deadline.GetRun():
                try:
                    return await self._deadlines.get_run(asked)
                except (ApiError, ApiUnavailable, Undecodable) as error:
                    return deadline.Failed(str(error))
            case deadline.Publish(snapshot):
                self._act_on(EventType.DEADLINE_REACHED, snapshot)
                return deadline.Stored()
        raise AssertionError(f"only a sweep asks for {asked}")

    # What the stream and this service do.

    async def _stop(self, message: Message, event: ReceivedEvent, since: datetime) -> None:
        """One stop, again for as long as it is given back, and once more for the second look."""
        bind_run(event.snapshot.run.cancellation)
        outcomes: list[Outcome] = []
        deliveries = 0
        while not self._stopping.is_set():
            deliveries += 1
            async with self._slots:
                work = self._tasks.create_task(self._try(message, event, since, deliveries, outcomes))
                self._at_work.add(work)
                work.add_done_callback(self._at_work.discard)
                end = await work
            match end:
                case SecondLook():
                    await asyncio.sleep(self._settings.second_look.total_seconds())
                case GiveBack(_, after):
                    await asyncio.sleep(after.total_seconds())
                case _:
                    return

    async def _try(
        self, message: Message, event: ReceivedEvent, since: datetime, deliveries: int, outcomes: list[Outcome]
    ) -> End:
        settings = self._settings
        stopping = Stopping(event, dry_run=settings.dry_run, propagate_cancel=settings.propagate_cancel)
        calls = Calls(self._kube, None, settings)
        delivered = Delivered(
            0,
            deliveries,
            since,
            back_off=timedelta(seconds=back_off(deliveries)),
            clock_trouble=self._kube.clock.differs(settings.clock_tolerance.total_seconds()),
        )
        with processing(
            event.event_type, event.snapshot, message.headers, consumer=CONSUMER, delivery=deliveries
        ) as hop:

            async def record(command: Record) -> Input:
                if len(outcomes) > command.after:
                    return commands.AlreadyStored(len(outcomes))
                hop.decided(command.outcome.trail)
                outcomes.append(command.outcome)
                marked = replace(command.outcome, without_bus=True)
                self._unpublished.add(Done(message, event, marked, SOURCE, datetime.now(UTC)))
                return commands.Stored()

            end = await calls.carry_out(stopping, event, delivered, record)
            if stopping.failure is not None:
                hop.failed(calls.error or stopping.failure)
        self._report(event, stopping)
        return end

    def _report(self, event: ReceivedEvent, stopping: Stopping) -> None:
        if stopping.failure is not None:
            log.warning("stop not done yet", fact=event.event_type, error=stopping.failure, next_at=stopping.next_at)
        if not stopping.recorded:
            return
        outcome = stopping.outcome()
        log.info(outcome.verdict, fact=event.event_type, rule=outcome.rule, why=outcome.why, without_bus=True,
                 stop_latency_ms=outcome.stop_latency_ms, step_runs=outcome.deleted_step_runs)  # fmt: skip
        self._kubernetes_events.publish(event.snapshot.run, outcome)
