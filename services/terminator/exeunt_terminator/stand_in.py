"""Ends runs without the bus: the watcher's, the timeout-scheduler's and this service's machines in one process, for as
long as an outage of JetStream lasts (ADR 25).

Nothing is decided here. What the watcher's machine wants published goes straight to a stop (`local_streams`); deadlines
are held in memory; what a stop wants recorded is kept until there is somebody to take it. Whatever only the bus could
know is answered with "nothing is known": no signal, and of what was published before only what this process has heard,
or can still read of RUNS. So nothing is taken for gone earlier than with the bus. A topology of which it is not known
that it was there is no evidence, and its run ends at its deadline.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import back_off
from exeunt.bus.errors import BusUnavailable, PermissionDenied
from exeunt.bus.recall import recalled
from exeunt.bus.shares import Share
from exeunt.bus.turns import Crowded, Turns
from exeunt.events.event_types import EventType, cancellation_of
from exeunt.events.messages import Message
from exeunt.events.subjects import DEADLINES, armed_subject
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, Undecodable
from exeunt.kube.list_watch import ListWatch
from exeunt.settings import Settings
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.tracing import Hop, processing
from exeunt_terminator.calls import Calls
from exeunt_terminator.commands import AlreadyStored, End, GiveBack, Input, Record, SecondLook, Stored
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.local_streams import LocalEvent, LocalStreams
from exeunt_terminator.machine import Stopping
from exeunt_terminator.measures import report
from exeunt_terminator.remembered import Remembered
from exeunt_terminator.unpublished import Unpublished
from exeunt_timeout_scheduler import calls as scheduler_calls
from exeunt_timeout_scheduler import commands as deadline
from exeunt_timeout_scheduler.calls import hold
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.sweep import Sweep
from exeunt_watcher import calls as watcher_calls
from exeunt_watcher import commands as watch
from exeunt_watcher.watcher import follow, watches, watching

CONSUMER: Final = "without-bus"
"""What stands for the consumer in spans."""
_TICK: Final = 1.0
"""Seconds between looks at what only time changes."""
_MOST_UNSTORED: Final = 1_000
"""Messages that wait to be acted on; what finds no room comes again with the next try to store it."""
_RECALL_PATIENCE: Final = 1.0
"""Seconds for an answer of a stream that may have none."""
_RECALLS_AT_ONCE: Final = 256
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
        self._bus = bus
        self._settings = settings
        self._kubernetes_events = events
        self._unpublished = unpublished
        self._deadlines = scheduler_calls.Calls(kube, bus, settings)
        self._sweep = Sweep(kube, self, settings)
        self._reads = watcher_calls.Calls(kube, bus, on_failure=lambda: None)
        self._namespaces = settings.namespaces or (None,)
        self._streams = LocalStreams(watching(self._namespaces, settings), remembered)
        self._armed: dict[str, asyncio.Task[None]] = {}
        self._turns = Turns(settings.max_in_flight)
        self._at_work: set[asyncio.Task[Any]] = set()
        self._unstored: asyncio.Queue[Message] = asyncio.Queue(_MOST_UNSTORED)
        self._recalls = asyncio.Semaphore(_RECALLS_AT_ONCE)
        self._next_session = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._stopping = asyncio.Event()
        self._watches: list[ListWatch[Any]] = []

    @property
    def unavailable_reason(self) -> str | None:
        """Why runs may be ended late, or not at all."""
        unlisted = [str(each) for each in self._watches if not each.synced]
        silent = [f"{each}: {trouble}" for each in self._watches if (trouble := each.unavailable_reason)]
        if missing := sorted(silent or unlisted):
            return f"not listed yet, or not watched now: {', '.join(missing[:5])}"
        return None

    def stop(self) -> None:
        """Begin nothing more: the bus is back, or this process has to end. `run` ends soon."""
        self._stopping.set()

    def hear(self, message: Message) -> None:
        """Somebody has published this, and it is not stored (`exeunt.bus.hearsay`)."""
        with suppress(asyncio.QueueFull):
            self._unstored.put_nowait(message)

    async def run(self) -> None:
        """Until `stop`, and a little longer for the stops that are in progress."""
        unhook = self._bus.on_session(self._on_session)
        try:
            async with self._tasks:
                first = (self._act_on_unstored(), self._watch(), self._sweep.run())
                begins = [self._tasks.create_task(each) for each in first]
                await self._stopping.wait()
                for each in begins:
                    each.cancel()
                if self._at_work:
                    await asyncio.wait(self._at_work, timeout=_GRACE)
                raise _Stopped  # noqa: TRY301 - so that the group cancels what waits for anything
        except* _Stopped:
            pass
        finally:
            unhook()

    # What the watcher would do.

    async def _watch(self) -> None:
        await self._hear(watch.AllSignalsHeard())
        await follow(self._begin, self._hear, tick=_TICK)

    def _begin(self) -> list[ListWatch[Any]]:
        """New watches."""
        self._watches = list(watches(self._namespaces, self._kube))
        return self._watches

    async def _hear(self, heard: watch.Input) -> None:
        for asked in self._streams.receive(heard, datetime.now(UTC)):
            match asked:
                case watch.GetRun():
                    self._tasks.create_task(self._read(asked))
                case watch.Recall():
                    self._tasks.create_task(self._recall(asked))
                case watch.Covered(namespace, unfinished_runs):
                    log.info("watching without the bus", namespace=namespace, unfinished_runs=unfinished_runs)
                case LocalEvent():
                    self._act_on(asked)

    async def _read(self, asked: watch.GetRun) -> None:
        await self._hear(await self._reads.answer(asked))

    async def _act_on_unstored(self) -> None:
        while True:
            stored = self._streams.take(await self._unstored.get(), datetime.now(UTC))
            if stored is not None:
                self._act_on(stored)

    async def _recall(self, asked: watch.Recall) -> None:
        """Streams may be read although nothing is delivered, or stored: over this connection, or over the next one."""
        known, of = self._streams.recall(asked), cancellation_of(asked.event_type, asked.snapshot.run)
        while known is None:
            next_session = self._next_session
            if self._bus.unavailable_reason is None:
                with suppress(BusUnavailable, PermissionDenied, TimeoutError):
                    async with self._recalls, asyncio.timeout(_RECALL_PATIENCE):
                        known = await recalled(self._bus, of, asked.event_type)
                        break
            await self._hear(watch.Recalled(asked, None))
            await next_session.wait()
            if not self._streams.knows(asked.snapshot.run, datetime.now(UTC)):
                return
        await self._hear(watch.Recalled(asked, known))

    def _on_session(self) -> None:
        self._next_session.set()
        self._next_session = asyncio.Event()

    def _act_on(self, published: LocalEvent) -> None:
        """What the consumers of the stream would do."""
        if published.stops:
            self._tasks.create_task(self._stop(published))
        if published.schedules:
            self._tasks.create_task(self._schedule(deadline.Heard(published.event)))

    # What the timeout-scheduler would do.

    async def _schedule(self, begins: deadline.Heard | deadline.Fired) -> None:
        """Carry out what a deadline asks for, again for as long as something fails."""
        bind_run((begins.event if isinstance(begins, deadline.Heard) else begins.deadline).snapshot.run.cancellation)
        failures = 0
        while True:
            scheduling = Scheduling()
            command = scheduling.receive(begins, datetime.now(UTC))
            while not isinstance(command, deadline.End):
                command = scheduling.receive(await self._ask_for(command), datetime.now(UTC))
            if not isinstance(command, deadline.GiveBack):
                return
            failures += 1
            log.warning("deadline not published yet", error=command.why)
            await asyncio.sleep(back_off(failures))

    async def answer(self, asked: deadline.Question, _: Hop) -> deadline.Input:
        """What a sweep asks for."""
        return await self._ask_for(asked)

    async def get_story(self, asked: deadline.GetStory) -> deadline.StoryRead:
        return await self._deadlines.get_story(asked)

    async def _ask_for(self, asked: deadline.Question) -> deadline.Input:
        match asked:
            case deadline.Arm(armed):
                subject = armed_subject(armed.snapshot.run.cancellation)
                if subject in self._armed:
                    return deadline.AlreadyStored()
                self._armed[subject] = self._tasks.create_task(self._fire(subject, deadline.Fired(armed)))
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
            case deadline.Publish(snapshot, at, after):
                stored = self._streams.store(EventType.DEADLINE_REACHED, snapshot, at, after=after)
                if not isinstance(stored, LocalEvent):
                    return deadline.AlreadyStored()
                self._act_on(stored)
                return deadline.Stored()
            case deadline.LastMessage(subject, stream) if stream == DEADLINES:
                there = deadline.Message(0, datetime.now(UTC), {}, b"")
                return there if subject in self._armed else deadline.NoMessage()
            case deadline.LastMessage() | deadline.GetAckFloor():
                return self._streams.look_up(asked)
            case deadline.GetStory():
                return await self._deadlines.get_story(asked)

    async def _fire(self, subject: str, fired: deadline.Fired) -> None:
        """A deadline that has fired is armed no more."""
        await self._schedule(fired)
        self._armed.pop(subject, None)

    # What the stream and this service do.

    async def _stop(self, published: LocalEvent) -> None:
        """One stop, again for as long as it is given back, and once more for the second look."""
        run = published.event.snapshot.run
        bind_run(run.cancellation)
        try:
            while not self._stopping.is_set():
                match await self._have_a_turn(published, Share(run.namespace, run.name)):
                    case SecondLook():
                        await asyncio.sleep(self._settings.second_look.total_seconds())
                    case GiveBack(_, after):
                        await asyncio.sleep(after.total_seconds())
                    case _:
                        self._streams.settle(published)
                        return
        finally:
            if not published.recorded:
                self._unpublished.add(published.handed_over())

    async def _have_a_turn(self, published: LocalEvent, share: Share) -> End:
        try:
            async with self._turns.turn(share) as turn:
                work = self._tasks.create_task(self._try(published))
                self._at_work.add(work)
                work.add_done_callback(self._at_work.discard)
                end = await work
                turn.failed = isinstance(end, GiveBack) and not end.not_yet
                return end
        except Crowded as crowded:
            return GiveBack(str(crowded), timedelta(seconds=back_off(published.turn_away())))

    async def _try(self, published: LocalEvent) -> End:
        settings, event = self._settings, published.event
        stopping = Stopping(event, dry_run=settings.dry_run, propagate_cancel=settings.propagate_cancel)
        calls = Calls(self._kube, None, settings)
        clock_trouble = self._kube.clock.differs(settings.clock_tolerance.total_seconds())
        delivered = published.deliver(back_off(published.deliveries + 1), clock_trouble)
        with processing(
            event.event_type,
            event.snapshot,
            published.message.headers,
            consumer=CONSUMER,
            delivery=published.deliveries,
        ) as hop:

            async def record(command: Record) -> Input:
                answer = published.record(command, datetime.now(UTC))
                if isinstance(answer, AlreadyStored):
                    return answer
                self._unpublished.add(answer)
                return Stored()

            end = await calls.carry_out(stopping, event, delivered, record)
            outcome = report(event, stopping, end, hop, error=calls.error, without_bus=True)
        if outcome is not None:
            self._kubernetes_events.publish(event.snapshot.run, outcome)
        return end
