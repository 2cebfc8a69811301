"""Takes events from the stream and carries out what their stops ask for. `machine` decides, `calls` asks."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, DeadLetter, Delivery, DeliveryAnswer, Retry, back_off
from exeunt.bus.errors import BusUnavailable, PublishRefused
from exeunt.bus.publisher import Stored, publish_own
from exeunt.events.codec import ReceivedEvent, outcome_message, read_event
from exeunt.events.event_types import DRY_RUN
from exeunt.events.subjects import RUNS, TERMINATOR
from exeunt.kube.client import KubeClient
from exeunt.settings import Settings
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.metrics import OUTCOMES
from exeunt.telemetry.tracing import Hop, processing
from exeunt_terminator import commands
from exeunt_terminator.calls import Calls
from exeunt_terminator.commands import SOURCE, Delivered, End, Failed, GiveBack, Input, Record, SecondLook
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.machine import Stopping
from exeunt_terminator.measures import report
from exeunt_terminator.remembered import Remembered

_PUBLISH_DEADLINE: Final = 20.0
"""Seconds to record an outcome before its event goes back to the stream."""

log = structlog.get_logger()


class Terminator:
    """Answers events. Any number of instances may run: the conditional write lets one of them win."""

    def __init__(
        self, kube: KubeClient, bus: Bus, settings: Settings, events: KubernetesEvents, remembered: Remembered
    ) -> None:
        self._kube = kube
        self._bus = bus
        self._settings = settings
        self._events = events
        self._remembered = remembered

    def clock_trouble(self) -> str | None:
        """Why no run is ended by its deadline here, if none is."""
        return self._kube.clock.differs(self._settings.clock_tolerance.total_seconds())

    async def handle(self, delivery: Delivery) -> DeliveryAnswer:
        """Answer one delivery; what is returned tells the stream what to do with it. Raises PoisonEvent."""
        event = read_event(delivery.headers, delivery.data)
        self._remembered.keep(event)
        bind_run(event.snapshot.run.cancellation)
        with processing(
            event.event_type, event.snapshot, delivery.headers, consumer=TERMINATOR, delivery=delivery.num_delivered
        ) as hop:
            end = await self._stop(event, delivery, hop)
        match end:
            case commands.Ack():
                return Ack()
            case SecondLook():
                return Retry(self._settings.second_look.total_seconds(), "second look for late sub-stories")
            case commands.DeadLetter(why):
                return DeadLetter(why)
            case GiveBack(why, after, not_yet):
                return Retry(after.total_seconds(), why, failed=not not_yet)

    async def _stop(self, event: ReceivedEvent, delivery: Delivery, hop: Hop) -> End:
        """To the end of the stop, as far as this delivery brings it."""
        settings = self._settings
        stopping = Stopping(event, dry_run=settings.dry_run, propagate_cancel=settings.propagate_cancel)
        calls = Calls(self._kube, self._bus, settings)
        deliveries = delivery.num_delivered
        delivered = Delivered(
            delivery.stream_sequence,
            deliveries,
            delivery.timestamp,
            back_off=timedelta(seconds=back_off(deliveries)),
            clock_trouble=self.clock_trouble(),
        )
        end = await calls.carry_out(stopping, event, delivered, partial(self._record, event, calls, hop))
        outcome = report(event, stopping, end, hop, error=calls.error)
        if outcome is not None:
            OUTCOMES.add(cause=str(event.event_type), verdict=DRY_RUN if outcome.dry_run else str(outcome.verdict))
            self._events.publish(event.snapshot.run, outcome)
        return end

    async def _record(self, event: ReceivedEvent, calls: Calls, hop: Hop, command: Record) -> Input:
        message = outcome_message(
            command.outcome,
            event.snapshot.run.cancellation,
            event.event_type,
            source=SOURCE,
            now=datetime.now(UTC),
            context=hop.headers,
        )
        message = replace(message, expected_last_subject_sequence=command.after)
        try:
            answer = await publish_own(self._bus, RUNS, message, deadline=_PUBLISH_DEADLINE)
        except BusUnavailable as error:
            calls.error = error
            return Failed(str(error))
        except PublishRefused as error:  # what was done is done, and the other runs' stops go on
            log.error("outcome not recorded", event_type=event.event_type, error=str(error))  # noqa: TRY400 - no bug
            hop.failed(error)
            return commands.NotStored()
        return commands.Stored() if isinstance(answer, Stored) else commands.AlreadyStored(answer.sequence)
