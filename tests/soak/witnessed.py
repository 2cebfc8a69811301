"""What was seen of a run, as values, for the promises to be checked on. Pure: `witness` fills them in."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from soak.plan import UNTOUCHABLE, Way


class End(NamedTuple):
    """The run's phase has become terminal, in the cancellation of `cancel_observed_at` (None: not observed yet)."""

    at: datetime
    by: str | None
    cancel_observed_at: datetime | None
    written_at: datetime | None
    """finishedAt: whole seconds, by the clock of whoever wrote it."""


class Decided(NamedTuple):
    """The history of one cancellation: the events that were published of it, and the rules by which Exeunt ended it, or
    found it ended by Exeunt.
    """

    events: frozenset[str]
    ended_by: tuple[str, ...]


@dataclass
class Played:
    """One run, what was done to it, and what was seen of it.

    `asked_at`: the cancel was asked for, then `evident_from` somebody began to make it evident that the topology is
    gone, and at `gone_at` that was done. `attempts` counts its redrives, too. `given_up` says why nobody can tell any
    more what had to come of it.
    """

    name: str
    uid: str
    way: Way
    timeout: timedelta
    made_at: datetime
    asked_at: datetime | None = None
    evident_from: datetime | None = None
    gone_at: datetime | None = None
    given_up: str | None = None
    redriven_at: datetime | None = None
    deleted_at: datetime | None = None
    last_phase: str | None = None
    is_deleted: bool = False
    touched_by: frozenset[str] = frozenset()
    """Field managers."""
    ends: list[End] = field(default_factory=list)
    step_runs_left: tuple[str, ...] = ()
    armed: int = 0
    histories: dict[datetime | None, Decided] = field(default_factory=dict)

    @property
    def must_end(self) -> bool:
        return self.way not in UNTOUCHABLE and self.asked_at is not None and self.given_up is None

    def deadline(self, cancel_observed_at: datetime | None) -> datetime | None:
        """That of the cancellation which was observed then; of the last one where it was not."""
        since = cancel_observed_at or self.asked_at
        return None if since is None else since + self.timeout

    def due(self, end: End) -> datetime | None:
        """When it had to end, at the earliest and, where all is well, at the latest."""
        deadline = self.deadline(end.cancel_observed_at)
        if deadline is None or self.asked_at is None or self.gone_at is None:
            return deadline
        return min(deadline, max(self.gone_at, end.cancel_observed_at or self.asked_at))


class Window(NamedTuple):
    """A fault as it was. `killed`: which service, if one was."""

    kind: str
    began: datetime
    ceased: datetime
    killed: str = ""
