"""A shutdown deadline as a value, and what is decided about it. Pure. `way` is what it goes through."""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from exeunt.clock import format_instant, parse_instant
from exeunt.errors import PoisonEvent
from exeunt.events.codec import whole
from exeunt.events.event_types import EventType
from exeunt.events.messages import Message
from exeunt.events.subjects import armed_subject, due_subject
from exeunt.rules.closed import CLOSED, Case, Decision, first_that_applies
from exeunt.run.snapshot import Snapshot

LEAD: Final = timedelta(milliseconds=300)
"""How far ahead of the deadline a schedule is armed: the server's scheduler ticks every 250 ms."""
LONGEST_SILENCE: Final = timedelta(hours=1)
"""Between two events of an overdue run, at the most."""
UNSETTLED: Final = timedelta(minutes=5)
"""For so long an event is taken for one that the terminators still have, if nothing says more of it: ten times what an
ordinary redelivery takes, and short enough that a neighbour's failing writes keep nobody's stop waiting for long.
"""


class Deadline(Struct, frozen=True):
    """The body of a schedule: the instant (RFC 3339) and the run as it was when the schedule was armed."""

    at: str
    snapshot: Snapshot

    @property
    def instant(self) -> datetime:
        return parse_instant(self.at)


_DEADLINE: Final = msgspec.json.Decoder(Deadline)


def closed(snapshot: Snapshot, armed: Snapshot | None = None) -> Decision | None:
    """Why there is nothing to wait for, or None while the stop is open. `armed` is what the deadline was set for."""
    cancellation = (armed or snapshot).run.cancellation
    return first_that_applies(CLOSED, Case(EventType.DEADLINE_REACHED, cancellation, snapshot))


def publish_again_at(deadline: datetime, published_at: datetime, overdue_after: timedelta) -> datetime:
    """When a run that is still unfinished is published as overdue (again), its deadline being published at
    `published_at`.

    Each wait is as long as all those before together, an hour at the most: what is refused each time, by a policy of
    the cluster for example, must not fill the history and the dead letters for as long as that takes. One that was
    published early, by a clock that is ahead, is not published again before the deadline.
    """
    return max(deadline, published_at + max(overdue_after, min(published_at - deadline, LONGEST_SILENCE)))


def schedule(deadline: Deadline, at: datetime | None, headers: dict[str, str]) -> Message:
    """The message that arms a deadline once, to fire at `at`: a second one for the same cancellation is refused while
    it is pending. One that fires at once needs no schedule: its message goes straight to where a fired one would.
    """
    cancellation = deadline.snapshot.run.cancellation
    subject, due = armed_subject(cancellation), due_subject(cancellation)
    if at is not None:
        headers = {**headers, "Nats-Schedule": f"@at {format_instant(at)}", "Nats-Schedule-Target": due}
    return Message(
        subject=due if at is None else subject,
        payload=msgspec.json.encode(deadline),
        headers=headers,
        expected_last_subject_sequence=0,
    )


def read_deadline(payload: bytes) -> Deadline:
    """Understand a fired schedule. Raises PoisonEvent that says what is wrong with it."""
    try:
        deadline = _DEADLINE.decode(payload)
        deadline.instant  # noqa: B018 - a body without a readable instant is poison, too
        deadline.snapshot.check()
        return replace(deadline, snapshot=whole(deadline.snapshot))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"a fired schedule does not decode: {error}") from error
