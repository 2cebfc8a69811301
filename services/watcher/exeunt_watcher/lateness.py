"""How late a stop ended, by whomever: what the promise is measured by. Pure.

A stop is due when its run is canceled and its topology gone, or at its shutdown deadline, whichever comes first. The
watcher measures it, because it outlives whoever should have ended the run, and sees what bobrapet ended in its place.
"""

from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from exeunt.clock import parse_instant
from exeunt.events import Fact
from exeunt.snapshot import Snapshot
from exeunt_watcher.facts import holds


class Late(NamedTuple):
    """What was measured of one stop. `cause` is what made it due: the cancel, its topology that went, the deadline."""

    cause: Literal["cancel", "gone", "deadline"]
    ended_by: Literal["exeunt", "other"]
    by: timedelta


class Lateness:
    """Remembers since when the topologies of unfinished runs have been gone."""

    def __init__(self) -> None:
        self._gone_since: dict[str, datetime] = {}

    def see(self, previous: Snapshot | None, current: Snapshot, now: datetime) -> Late | None:
        """Take in how a run has changed; how late it ended, if that is the change and its stop was due."""
        uid = current.run.uid
        if current.run.terminal:
            return _late(previous, current, self._gone_since.pop(uid, None), now)
        if current.topology.gone is None:
            self._gone_since.pop(uid, None)
        else:
            self._gone_since.setdefault(uid, now)
        return None

    def forget(self, uid: str) -> None:
        """The run was deleted."""
        self._gone_since.pop(uid, None)


def _late(previous: Snapshot | None, current: Snapshot, gone_since: datetime | None, now: datetime) -> Late | None:
    if previous is None or not (
        holds(Fact.CANCEL_REQUESTED, previous) and previous.run.enabled and previous.story.enabled
    ):
        return None  # it was no stop, or none of Exeunt's
    canceled_at, deadline = previous.run.canceled_at, previous.deadline
    if canceled_at is None or deadline is None:
        return None
    canceled = parse_instant(canceled_at)
    cause: Literal["cancel", "gone", "deadline"] = "deadline"
    due = deadline
    if gone_since is not None and max(gone_since, canceled) <= deadline:
        due = max(gone_since, canceled)
        cause = "gone" if gone_since > canceled else "cancel"
    if due > now:
        return None  # it ended by itself, before anybody had to end it
    return Late(cause, "exeunt" if current.run.ended_by_exeunt else "other", now - due)
