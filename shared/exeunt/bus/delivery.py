"""A message on its way to a handler, and what the handler may answer.

`pull` makes deliveries, `acknowledge` carries the answers out. Handlers see only these values, so the deciding
code needs neither NATS nor this package's loops.
"""

import dataclasses
from datetime import datetime
from typing import Final

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from exeunt.back_off import BackOff

_BACK_OFF: Final = BackOff(2, 30)

log = structlog.get_logger(__name__)


class Ack(msgspec.Struct, frozen=True):
    """Done: never deliver it again."""


class Retry(msgspec.Struct, frozen=True):
    """Not now: deliver it again after `delay` seconds, to whoever asks then. `failed`: what was tried was in vain, and
    so may be the same for others (`shares`).
    """

    delay: float
    reason: str
    failed: bool = False


def again(num_delivered: int, reason: object) -> Retry:
    """Not now, with a back-off."""
    return Retry(delay=back_off(num_delivered), reason=str(reason))


def back_off(num_delivered: int) -> float:
    """Seconds: twice as long after each delivery, 30 s at the most, with jitter."""
    return _BACK_OFF.wait(num_delivered - 1)


class DeadLetter(msgspec.Struct, frozen=True):
    """Never: set it aside with the reason, and go on."""

    reason: str


DeliveryAnswer = Ack | Retry | DeadLetter


@dataclasses.dataclass(eq=False, slots=True, frozen=True)
class Delivery:
    """One delivery of one stored message. `headers` has lower-case keys; `timestamp` is the server's, in UTC.

    `num_delivered` counts from 1. `data` is the body as published.
    """

    stream: str
    subject: str
    headers: dict[str, str]
    data: bytes
    stream_sequence: int
    num_delivered: int
    timestamp: datetime
    ack_subject: str
    _nc: Client

    @classmethod
    def of(cls, message: Msg, nc: Client) -> "Delivery":
        metadata = message.metadata
        return cls(
            stream=metadata.stream,
            subject=message.subject,
            headers={key.lower(): value for key, value in (message.headers or {}).items()},
            data=message.data,
            stream_sequence=metadata.sequence.stream,
            num_delivered=metadata.num_delivered,
            timestamp=metadata.timestamp,
            ack_subject=message.reply,
            _nc=nc,
        )

    async def in_progress(self) -> None:
        """Answer the server that the handler is still at it; the ack wait starts anew."""
        await self.send(b"+WPI")

    async def nak(self, delay: float = 0.0) -> None:
        """Give it back, to be delivered again after `delay` seconds."""
        await self.send(b"-NAK" if delay <= 0 else b'-NAK {"delay": %d}' % int(delay * 1e9))

    async def send(self, word: bytes) -> None:
        """Send one word of the ack protocol. Were it lost, the message would come back after its ack wait."""
        try:
            await self._nc.publish(self.ack_subject, word)
        except nats.errors.Error as error:
            log.warning("answer lost", subject=self.subject, sequence=self.stream_sequence, error=str(error))
