"""Takes events of runs, and schedules that have fired, from their streams and carries out what their deadlines ask for.
`machine` decides, `calls` asks. Losing a schedule costs time only: `sweep` arms what is missing.
"""

from datetime import UTC, datetime

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, DeadLetter, Delivery, DeliveryAnswer, again
from exeunt.events.codec import read_event
from exeunt.events.subjects import TIMEOUT_SCHEDULER, TIMEOUT_SCHEDULER_DUE
from exeunt.kube.client import KubeClient
from exeunt.settings import Settings
from exeunt.telemetry.logs import bind_run
from exeunt.telemetry.tracing import Hop, due, processing
from exeunt_timeout_scheduler import commands
from exeunt_timeout_scheduler.calls import AWAY, Calls, hold
from exeunt_timeout_scheduler.commands import Command, End, Failed, Fired, GiveBack, Heard, Hold
from exeunt_timeout_scheduler.deadlines import read_deadline
from exeunt_timeout_scheduler.machine import Scheduling
from exeunt_timeout_scheduler.measures import render


class Scheduler:
    """Arms, disarms and fires deadlines. Any number of instances may run; they share the streams' consumers."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings) -> None:
        self._calls = Calls(kube, bus, settings)

    async def on_event(self, delivery: Delivery) -> DeliveryAnswer:
        """A cancel arms; the run's end disarms. Raises PoisonEvent."""
        event = read_event(delivery.headers, delivery.data)
        bind_run(event.snapshot.run.cancellation)
        with processing(
            event.event_type,
            event.snapshot,
            delivery.headers,
            consumer=TIMEOUT_SCHEDULER,
            delivery=delivery.num_delivered,
        ) as hop:
            scheduling = Scheduling()
            command = scheduling.receive(Heard(event), datetime.now(UTC))
            return await self._carry_out(scheduling, command, delivery, hop)

    async def on_due(self, delivery: Delivery) -> DeliveryAnswer:
        """Hold a fired schedule until its instant; then see whether it still stands. Raises PoisonEvent."""
        deadline = read_deadline(delivery.data)
        bind_run(deadline.snapshot.run.cancellation)
        scheduling = Scheduling()
        command = scheduling.receive(Fired(deadline), datetime.now(UTC))
        while isinstance(command, Hold):  # no span stays open over a wait
            command = scheduling.receive(await hold(command.until), datetime.now(UTC))
        with due(
            deadline.snapshot, delivery.headers, consumer=TIMEOUT_SCHEDULER_DUE, delivery=delivery.num_delivered
        ) as hop:
            return await self._carry_out(scheduling, command, delivery, hop)

    async def _carry_out(
        self, scheduling: Scheduling, command: Command, delivery: Delivery, hop: Hop
    ) -> DeliveryAnswer:
        """To the end; what is returned tells the stream what to do with the delivery."""
        while not isinstance(command, End):
            try:
                heard = await self._calls.answer(command, hop)
            except AWAY as error:
                hop.failed(error)
                heard = Failed(str(error))
            command = scheduling.receive(heard, datetime.now(UTC))
        render(scheduling, hop)
        match command:
            case commands.Ack():
                return Ack()
            case commands.DeadLetter(why):
                return DeadLetter(why)
            case GiveBack(why):
                return again(delivery.num_delivered, why)
