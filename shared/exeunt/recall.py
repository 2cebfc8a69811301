"""What the stream RUNS has of a run: the snapshot that a fact was said with."""

import structlog

from exeunt.bus.publisher import StoredMessage
from exeunt.codec import read_fact
from exeunt.errors import PoisonEvent
from exeunt.snapshot import Snapshot

log = structlog.get_logger()


def snapshot_of(message: StoredMessage | None) -> Snapshot | None:
    """None where there is no such message, or it is no fact: then the log tells why."""
    if message is None:
        return None
    try:
        return read_fact(message.headers, message.data).snapshot
    except PoisonEvent as error:
        log.warning("what the stream remembers is no event", sequence=message.sequence, error=str(error))
        return None
