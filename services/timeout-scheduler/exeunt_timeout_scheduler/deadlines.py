"""What a shutdown deadline goes through, as a table, and the decisions on the way. Pure.

A deadline is a JetStream message schedule (ADR 5): durable, never early, up to 250 ms late. So it is armed a little
ahead, its delivery is held until the very instant, the run is read again (a schedule that was purged late may still
fire), and only then is the deadline said to be reached (ADR 13). `docs/stop.md` is generated from the table.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from exeunt.bus.messages import Message
from exeunt.clock import format_instant, parse_instant
from exeunt.errors import PoisonEvent
from exeunt.events import Fact
from exeunt.rules import CLOSED, Case, Decision, first_that_applies
from exeunt.snapshot import Snapshot
from exeunt.subjects import armed_subject, due_subject

LEAD: Final = timedelta(milliseconds=300)
"""How far ahead of the deadline a schedule is armed: the server's scheduler ticks every 250 ms."""


_LONGEST_SILENCE: Final = timedelta(hours=1)


class State(StrEnum):
    """Where a deadline is, and what is done there."""

    NONE = "none"
    """There is no deadline."""
    ARMED = "armed"
    """A schedule is pending in the stream DEADLINES."""
    HELD = "held"
    """The schedule has fired, a little ahead; its delivery is held in process until the instant."""
    CHECKING = "checking"
    """The run is read again."""
    SAYING = "saying"
    """"deadline-reached" is said, for the terminator to finalize the run."""
    REACHED = "reached"
    """It is said."""


class Happening(StrEnum):
    """What moves it."""

    CANCELED = "run canceled"
    CANCELED_LATE = "run canceled, its deadline nearer than the lead"
    ENDED = "run ended"
    DUE = "schedule fires"
    INSTANT = "fence + shutdown timeout"
    OPEN = "still stopping"
    CLOSED = "closed by a rule"
    SAID = "said"
    OVERDUE = "unfinished at a later sweep"


TRANSITIONS: dict[State, dict[Happening, State]] = {
    State.NONE: {Happening.CANCELED: State.ARMED, Happening.CANCELED_LATE: State.HELD},
    State.ARMED: {Happening.DUE: State.HELD, Happening.ENDED: State.NONE},
    State.HELD: {Happening.INSTANT: State.CHECKING},
    State.CHECKING: {Happening.OPEN: State.SAYING, Happening.CLOSED: State.NONE},
    State.SAYING: {Happening.SAID: State.REACHED},
    State.REACHED: {Happening.OVERDUE: State.SAYING},
}
"""The whole way, as `docs/stop.md` draws it. `scheduler` walks HELD, CHECKING and SAYING by it. The other states are in
the streams: facts arm and disarm a schedule there, the server fires it, and the sweep sees what was said.
"""

HAPPENINGS: Final = {
    Fact.CANCEL_REQUESTED: Happening.CANCELED,
    Fact.RUN_TERMINAL: Happening.ENDED,
    Fact.RUN_DELETED: Happening.ENDED,
}
"""What each fact means for a deadline; the timeout-scheduler hears these facts and no others."""


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
    episode = (armed or snapshot).run.episode
    return first_that_applies(CLOSED, Case(Fact.DEADLINE_REACHED, episode, snapshot))


def say_again_at(deadline: datetime, said_at: datetime, overdue_after: timedelta) -> datetime:
    """When a run that is still unfinished is said to be overdue (again), after its deadline was said at `said_at`.

    Each wait is as long as all those before together, an hour at the most: what is refused each time, by a policy of
    the cluster for example, must not fill the history and the dead letters for as long as that takes.
    """
    return said_at + max(overdue_after, min(said_at - deadline, _LONGEST_SILENCE))


def schedule(snapshot: Snapshot, deadline: datetime, now: datetime, headers: dict[str, str]) -> Message:
    """The message that arms a deadline once: a second one for the same episode is refused while it is pending.

    A deadline nearer than the lead needs no schedule: its message goes straight to where a fired one would.
    """
    episode = snapshot.run.episode
    due = due_subject(episode)
    body = msgspec.json.encode(Deadline(format_instant(deadline), snapshot))
    if deadline - LEAD <= now:
        return Message(subject=due, payload=body, headers=headers, expected_last_subject_sequence=0)
    timing = {"Nats-Schedule": f"@at {format_instant(deadline - LEAD)}", "Nats-Schedule-Target": due}
    return Message(
        subject=armed_subject(episode),
        payload=body,
        headers={**headers, **timing},
        expected_last_subject_sequence=0,
    )


def read_deadline(payload: bytes) -> Deadline:
    """Understand a fired schedule. Raises PoisonEvent that says what is wrong with it."""
    try:
        deadline = _DEADLINE.decode(payload)
        deadline.instant  # noqa: B018 - a body without a readable instant is poison, too
        deadline.snapshot.check()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"a fired schedule does not decode: {error}") from error
    return deadline
