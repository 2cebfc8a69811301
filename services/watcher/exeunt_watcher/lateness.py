"""When a stop is due, and how late it ended, by whomever: what the promise is measured by (ADR 17). Pure.

A stop is due when its run is canceled and its topology gone, or at its shutdown deadline, whichever comes first. The
watcher measures it, because it outlives whoever should have ended the run, and sees what bobrapet ended in its place.
"""

from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from exeunt.clock import parse_instant, readable_instant
from exeunt.run.snapshot import RunState, Snapshot
from exeunt_watcher.event_types import is_stop
from exeunt_watcher.known import Key

Cause = Literal["cancel", "gone", "deadline"]
"""What makes a stop due: the cancel of a run whose topology was gone, its topology that goes, its shutdown deadline."""

_SKEW: Final = timedelta(seconds=1)
"""How far clocks may differ (docs/threats.md); and `finishedAt` is cut to whole seconds."""


class Due(NamedTuple):
    """From when on a run has to be ended, and why."""

    cause: Cause
    at: datetime


class Late(NamedTuple):
    """What was measured of one stop."""

    cause: Cause
    ended_by: Literal["exeunt", "other"]
    by: timedelta


class Pending(NamedTuple):
    """The stops that are under way: how many, since when the first was canceled, and when the first is due."""

    stops: int
    canceled_at: datetime | None
    due_at: datetime | None


class Lateness:
    """Remembers since when the topologies of unfinished runs have been gone, and when stops are due."""

    def __init__(self) -> None:
        self._gone: dict[Key, tuple[str, datetime]] = {}
        self._canceled_at: dict[Key, datetime] = {}  # of the stops that are under way
        self._dues: dict[Key, datetime] = {}

    def see(self, previous: Snapshot | None, current: Snapshot, now: datetime) -> Late | None:
        """Take in how a run has changed; how late it ended, if that is the change and it was a stop."""
        key = (current.run.namespace, current.run.name)
        if current.run.terminal:
            late = _late(previous, current, self._gone_since(current.run), now)
            self.forget(key)
            return late
        if current.topology.gone is None:
            self._gone.pop(key, None)
        elif self._gone_since(current.run) is None:
            self._gone[key] = (current.run.uid, now)
        due = self.due(current) if current.run.cancel_requested else None
        if due is not None and current.run.canceled_at is not None:
            self._canceled_at[key], self._dues[key] = parse_instant(current.run.canceled_at), due.at
        else:
            self._no_stop(key)
        return None

    def due(self, snapshot: Snapshot) -> Due | None:
        """When an unfinished run is due, in the future perhaps; None when it is no stop."""
        return _due(snapshot, self._gone_since(snapshot.run))

    def pending(self) -> Pending:
        """The stops that are under way."""
        return Pending(
            len(self._dues), min(self._canceled_at.values(), default=None), min(self._dues.values(), default=None)
        )

    def forget(self, key: Key) -> None:
        """There is no such run any more."""
        self._gone.pop(key, None)
        self._no_stop(key)

    def _no_stop(self, key: Key) -> None:
        self._canceled_at.pop(key, None)
        self._dues.pop(key, None)

    def _gone_since(self, run: RunState) -> datetime | None:
        uid, since = self._gone.get((run.namespace, run.name), (None, None))
        return since if uid == run.uid else None


def _due(snapshot: Snapshot, gone_since: datetime | None) -> Due | None:
    canceled_at, deadline = snapshot.run.canceled_at, snapshot.deadline
    if not is_stop(snapshot) or canceled_at is None or deadline is None:
        return None
    canceled = parse_instant(canceled_at)
    if gone_since is None or max(gone_since, canceled) > deadline:
        return Due("deadline", deadline)
    return Due("gone", gone_since) if gone_since > canceled else Due("cancel", canceled)


def _late(previous: Snapshot | None, current: Snapshot, gone_since: datetime | None, now: datetime) -> Late | None:
    due = None if previous is None else _due(previous, gone_since)
    if due is None:
        return None
    by_exeunt, ended = current.run.ended_by_exeunt, _ended(current.run, due, now)
    if by_exeunt and ended < due.at - _SKEW:
        due = Due("gone", ended)  # the news of what Exeunt ended it for comes on another watch, and is not here yet
    if ended < due.at and not by_exeunt:
        return None  # it ended by itself, before anybody had to end it
    return Late(due.cause, "exeunt" if by_exeunt else "other", max(ended - due.at, timedelta(0)))


def _ended(run: RunState, due: Due, now: datetime) -> datetime:
    """When it ended: now, unless its status tells that the news of it took long to come here."""
    finished = readable_instant(run.finished_at)
    return now if finished is None or not due.at - _SKEW <= finished <= now - 2 * _SKEW else finished
