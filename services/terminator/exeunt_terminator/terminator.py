"""The terminator's shell: a fact in, its outcome recorded, an answer to the stream. What lies between is a `walk`."""

from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from msgspec.structs import replace

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, DeadLetter, Delivery, Retry, again
from exeunt.bus.errors import BusUnavailable, PublishRefused
from exeunt.bus.messages import Message
from exeunt.bus.publisher import AlreadyStored, Stored, publish
from exeunt.clock import format_instant
from exeunt.codec import FactEvent, outcome_message, read_fact
from exeunt.events import DRY_RUN, Verdict
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, ApiUnavailable, Undecodable
from exeunt.logs import bind_run
from exeunt.metrics import OUTCOMES
from exeunt.settings import Settings
from exeunt.tracing import Hop, processing
from exeunt_terminator.kubernetes_events import KubernetesEvents
from exeunt_terminator.walk import NoLongerGone, Walk

SOURCE: Final = "/exeunt/terminator"
DURABLE: Final = "terminator"
_PUBLISH_DEADLINE: Final = 20.0
"""Seconds to record an outcome before its fact goes back to the stream."""

log = structlog.get_logger()


class Terminator:
    """Answers facts. Any number of instances may run: the conditional write lets one of them win."""

    def __init__(self, kube: KubeClient, bus: Bus, settings: Settings, events: KubernetesEvents) -> None:
        self._kube = kube
        self._bus = bus
        self._settings = settings
        self._events = events

    async def handle(self, delivery: Delivery) -> Ack | Retry | DeadLetter:
        """Answer one delivery; what is returned tells the stream what to do with it. Raises PoisonEvent."""
        event = read_fact(delivery.headers, delivery.data)
        bind_run(event.snapshot.run.episode)
        with processing(
            event.fact, event.snapshot, delivery.headers, consumer=DURABLE, delivery=delivery.num_delivered
        ) as hop:
            return await self._stop(event, delivery, hop)

    async def _stop(self, event: FactEvent, delivery: Delivery, hop: Hop) -> Ack | Retry | DeadLetter:
        walk = Walk(self._kube, self._bus, self._settings, event, delivery)
        try:
            await walk.to_its_end()
            if self._settings.propagate_cancel and not self._settings.dry_run:
                await walk.cancel_children()
        except NoLongerGone as error:
            log.info("stop not due yet", fact=event.fact, why=str(error))
            hop.drop()
            return again(delivery.num_delivered, error)
        except (ApiUnavailable, ApiError, BusUnavailable, Undecodable) as error:
            log.warning("stop not done yet", fact=event.fact, error=str(error))
            hop.failed(error)
            if not walk.wrote:
                return again(delivery.num_delivered, error)
        outcome, now = walk.outcome(), datetime.now(UTC)
        hop.decided(outcome.trail)
        retry = again(delivery.num_delivered, outcome.why) if walk.may_pass else None
        if retry is not None:
            outcome = replace(outcome, next_at=format_instant(now + timedelta(seconds=retry.delay)))
            if not _is_recorded(outcome.attempt):
                log.warning("stop not done yet", fact=event.fact, error=outcome.why, next_at=outcome.next_at)
                hop.failed(outcome.rule)
                return retry
        episode = event.snapshot.run.episode
        message = outcome_message(outcome, episode, event.fact, source=SOURCE, now=now, context=hop.headers)
        try:
            anew = walk.wrote or outcome.verdict is Verdict.FAILED
            recorded = await self._record(message, delivery, anew=anew)
        except BusUnavailable as error:
            hop.failed(error)
            return again(delivery.num_delivered, error)
        except PublishRefused as error:  # what was done is done, and the other runs' stops go on
            log.error("outcome not recorded", fact=event.fact, error=str(error))  # noqa: TRY400 - no bug of ours
            hop.failed(error)
            recorded = False
        log.info(outcome.verdict, fact=event.fact, rule=outcome.rule, why=outcome.why, next_at=outcome.next_at,
                 stop_latency_ms=outcome.stop_latency_ms, step_runs=outcome.deleted_step_runs)  # fmt: skip
        if recorded and (retry is None or outcome.attempt == 1):
            OUTCOMES.add(cause=str(event.fact), verdict=DRY_RUN if outcome.dry_run else str(outcome.verdict))
            self._events.tell(event.snapshot.run, outcome)
        if outcome.verdict is Verdict.FAILED:
            hop.failed(outcome.rule)
            return retry or DeadLetter(outcome.why)
        if walk.wrote:
            # The redelivery reads the run, finds it finished and deletes what is left.
            return Retry(delay=self._settings.second_look.total_seconds(), reason="second look for late StepRuns")
        return Ack()

    async def _record(self, message: Message, delivery: Delivery, *, anew: bool) -> bool:
        """Store an outcome; False when the fact was answered before. Raises BusUnavailable, PublishRefused.

        `anew`: an earlier saying of this fact came to nothing (ADR 16, or a dry run), but this one ended the run; or it
        was refused, once more.
        """

        def done(answer: Stored | AlreadyStored) -> bool:
            # What has come after the fact, when this is its first delivery, was stored by a try that got no answer.
            own = answer.sequence > delivery.stream_sequence and delivery.num_delivered == 1
            return isinstance(answer, Stored) or (anew and own)

        answer = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE)
        if anew and not done(answer):
            message = replace(message, expected_last_subject_sequence=answer.sequence)
            answer = await publish(self._bus, message, deadline=_PUBLISH_DEADLINE)
        return done(answer)


def _is_recorded(attempt: int) -> bool:
    """The first, second, fourth, eighth try and so on: a right that is missing for days must not fill the history."""
    return attempt & (attempt - 1) == 0
