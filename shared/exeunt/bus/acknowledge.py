"""Carrying out what a handler answered about its message.

An ack that is lost brings the message back, so handlers are idempotent and nothing here insists for long.
Setting a message aside is the exception: the copy must be stored before the original is given up. `pull`
calls this.
"""

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.delivery import Ack, DeadLetter, Delivery, DeliveryAnswer, Retry
from exeunt.bus.errors import BusUnavailable, PermissionDenied, PublishRefused
from exeunt.bus.publisher import publish
from exeunt.bus.unanswered import asked_of
from exeunt.events.messages import MAX_HEADERS, Message, header_size
from exeunt.telemetry.metrics import DEAD_LETTERS, DELIVERIES, REDELIVERIES

DEADLINE = 10.0  # seconds for storing a dead letter, and for a synchronous ack
RETRY_AFTER = 5.0  # seconds until a message that could not be set aside comes again

_ANSWERS = {Ack: "ack", Retry: "retry", DeadLetter: "dead-letter"}

log = structlog.get_logger(__name__)


async def acknowledge(bus: Bus, delivery: Delivery, answer: DeliveryAnswer, *, durable: str, sync: bool) -> None:
    """Answer the server. `sync` waits for it to confirm an ack, which then survives a crash of a workqueue."""
    message_log = log.bind(
        consumer=durable,
        subject=delivery.subject,
        sequence=delivery.stream_sequence,
        deliveries=delivery.num_delivered,
    )
    DELIVERIES.add(answer=_ANSWERS[type(answer)], consumer=durable)
    if delivery.num_delivered > 1:
        REDELIVERIES.add(consumer=durable)
    match answer:
        case Ack() if sync:
            try:
                await bus.request(delivery.ack_subject, b"+ACK", timeout=DEADLINE)
                bus.change.answered(asked_of(delivery.ack_subject))
            except (BusUnavailable, PermissionDenied) as error:
                message_log.warning("ack unconfirmed", error=str(error))
        case Ack():
            await delivery.send(b"+ACK")
        case Retry(delay, reason):
            message_log.debug("given back", delay_s=delay, reason=reason)  # handlers tell what went wrong
            await delivery.nak(delay)
        case DeadLetter(reason):
            letter = dead_letter(delivery, durable=durable, reason=reason, max_payload=bus.nc.max_payload)
            try:
                await publish(bus, letter, deadline=DEADLINE)
            except (BusUnavailable, PublishRefused, PermissionDenied) as error:
                message_log.error("dead letter not stored", reason=reason, error=str(error))
                await delivery.nak(RETRY_AFTER)
                return
            DEAD_LETTERS.add(consumer=durable)
            message_log.error("dead letter", reason=reason, copied_to=letter.subject)
            await delivery.send(b"+TERM " + _one_line(reason).encode())


def dead_letter(delivery: Delivery, *, durable: str, reason: str, max_payload: int) -> Message:
    """The copy to set aside: body and headers as they came; why and from where in Exeunt-* headers.

    With those it may be larger than NATS takes, which is `max_payload` bytes in all. Then it is cut: of the body it has
    the beginning, of too many headers none, and Exeunt-Cut-From tells how many bytes the original had, with headers.
    Its Nats-Msg-Id makes another copy of the same message a duplicate, within the stream's duplicate window.
    """
    kept = {key: value for key, value in delivery.headers.items() if not key.startswith(("nats-", "exeunt-"))}
    data = delivery.data
    ours = {
        "Exeunt-Reason": _one_line(reason),
        "Exeunt-Stream": delivery.stream,
        "Exeunt-Subject": delivery.subject,
        "Exeunt-Sequence": str(delivery.stream_sequence),
        "Exeunt-Deliveries": str(delivery.num_delivered),
        "Nats-Msg-Id": f"{delivery.stream}:{delivery.stream_sequence}:{durable}",
    }
    size = header_size(kept | ours)
    if size > MAX_HEADERS or size + len(data) > max_payload:
        ours["Exeunt-Cut-From"] = str(header_size(delivery.headers) + len(data))
        if header_size(kept | ours) > MAX_HEADERS:
            kept = {}
        data = data[: max(0, max_payload - header_size(kept | ours))]
    return Message(subject=f"exeunt.deadletters.{durable}", payload=data, headers=kept | ours)


def _one_line(text: str) -> str:
    """`text` fit for a header and for an ack word: one line, and not an endless one."""
    return " ".join(text.split())[:512]
