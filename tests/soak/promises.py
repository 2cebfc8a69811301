"""The promises, checked on what was seen of the objects and the streams. Pure.

`excused` says what a fault is known to cost (docs/architecture.md, what may be lost): nothing else is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from soak.plan import UNTOUCHABLE
from soak.witnessed import Played, Window

EXEUNT: Final = "exeunt-terminator"
GRACE: Final = timedelta(seconds=90)
"""For a stop that faults have held up: a sweep (30 s) finds it overdue (30 s), and a busy machine adds to it."""
_AROUND: Final = timedelta(seconds=15)
"""Before and after the loss of a stream: what was on its way."""
_UNPUBLISHED: Final = timedelta(seconds=45)
"""After an outage of NATS: until what was done without it is published."""
_NATS: Final = ("nats-server", "leader", "all nats-servers", "store full", "streams lost")
_UNWATCHED: Final = ("kube-apiserver killed", "kube-apiserver restarted")
_LISTED: Final = timedelta(seconds=15)
"""After the kube-apiserver is back: until watchers, which have backed off, have listed all there is."""
NEEDED: Final = frozenset({"cancel-requested", "run-terminal"})
"""Events that the history of an ended stop has."""


def broken(runs: Iterable[Played], faults: Sequence[Window], calm_at: datetime, now: datetime) -> Iterator[str]:
    """Each promise that was not kept, of runs that were left to themselves from `calm_at` until `now`."""
    for run in runs:
        for promise in (*_untouched(run), *_never_early(run), *_ended(run, calm_at, now)):
            yield f"{run.way}, {run.name}: {promise}"
        for promise in (*_once(run, faults), *_nothing_left(run, faults), *_complete(run, faults)):
            yield f"{run.way}, {run.name}: {promise}"


def _untouched(run: Played) -> Iterator[str]:
    ours = sorted(manager for manager in run.touched_by if manager.startswith("exeunt"))
    if ours and (run.way in UNTOUCHABLE or (run.asked_at is None and run.redriven_at is None)):
        yield f"touched by {', '.join(ours)}, and is none of their business"


def _never_early(run: Played) -> Iterator[str]:
    if run.given_up is not None:  # what was asked for may have come to nothing, or have been undone
        return
    for end in run.ends:
        deadline = run.deadline(end.cancel_observed_at)
        if end.by != EXEUNT or deadline is None:
            continue
        allowed = min(deadline, run.evident_from or deadline)
        if end.at < allowed or (end.written_at and end.written_at + timedelta(seconds=1) <= allowed):
            yield f"ended at {end.at.time()}, and not before {allowed.time()} was there a reason to"


def _ended(run: Played, calm_at: datetime, now: datetime) -> Iterator[str]:
    if not run.must_end:
        return
    if run.deleted_at is not None:
        if not run.is_deleted and now > max(calm_at, run.deleted_at) + GRACE:
            yield "deleted, and still there"
        return
    last = run.ends[-1] if run.ends else None
    if last is None or (run.redriven_at is not None and last.at < run.redriven_at):
        deadline = run.deadline(None)
        if deadline is not None and now > max(calm_at, deadline) + GRACE:
            yield f"not ended {now - deadline} after its deadline, {now - calm_at} after all faults had ceased"
    elif last.by != EXEUNT:
        yield f"ended by {last.by}"


def _once(run: Played, faults: Sequence[Window]) -> Iterator[str]:
    restored = [fault.ceased for fault in faults if fault.kind == "etcd restored"]
    for cancellation, number in Counter(end.cancel_observed_at for end in run.ends).items():
        ends = [end.at for end in run.ends if end.cancel_observed_at == cancellation]
        undone = sum(ends[0] < at + _AROUND and at - _AROUND < ends[-1] for at in restored)
        if number > 1 + undone:
            yield f"ended {number} times in one cancellation: {', '.join(str(at.time()) for at in ends)}"


def _nothing_left(run: Played, faults: Sequence[Window]) -> Iterator[str]:
    if not run.ends or run.ends[-1].by != EXEUNT:
        return
    if run.armed:
        yield f"{run.armed} schedules are left"
    redriven = run.redriven_at is not None and run.ends[-1].at < run.redriven_at  # those that are there are new
    if run.step_runs_left and not redriven and not _forgotten(run.ends[-1].at, faults):
        yield f"StepRuns are left: {', '.join(run.step_runs_left)}"


def _forgotten(at: datetime, faults: Sequence[Window]) -> bool:
    """Whether what was going on with the run at that time was lost with the streams, or undone by a restore."""
    lost = ("streams lost", "etcd restored")
    return any(fault.began - _AROUND < at < fault.ceased + _AROUND for fault in faults if fault.kind in lost)


def _complete(run: Played, faults: Sequence[Window]) -> Iterator[str]:
    for end in run.ends:
        if end.by != EXEUNT or run.given_up is not None or _history_lost(run, end.at, faults):
            continue
        history = run.histories.get(end.cancel_observed_at)
        events = history.events if history else frozenset()
        missing = NEEDED - events
        if _taken_along("watcher", end.at, faults) or _unseen(run, end.at, faults):
            missing -= {"run-terminal"}
        if missing:
            yield f"the history lacks {', '.join(sorted(missing))}"
        if (not history or not history.ended_by) and not _taken_along("terminator", end.at, faults):
            yield "the history does not say who has ended it"


def _history_lost(run: Played, ended_at: datetime, faults: Sequence[Window]) -> bool:
    since = (run.asked_at or ended_at) - _AROUND
    return any(fault.ceased > since for fault in faults if fault.kind in ("streams lost", "etcd restored"))


def _unseen(run: Played, ended_at: datetime, faults: Sequence[Window]) -> bool:
    """No watcher was shown the end: watches were broken off, the list that comes next leaves out what has ended, and
    before it the run was redriven; or made, and ended by who stands in for NATS (ADR 25).
    """
    if run.redriven_at is not None and ended_at < run.redriven_at:
        first, last = ended_at, run.redriven_at
    elif any(_is_away(fault, ended_at) for fault in faults):
        first, last = run.made_at, ended_at
    else:
        return False
    return any(fault.began < first and last < fault.ceased + _LISTED for fault in faults if fault.kind in _UNWATCHED)


def _taken_along(service: str, ended_at: datetime, faults: Sequence[Window]) -> bool:
    """What was not published yet: a terminator that ends before NATS is back takes with it what it decided meanwhile, a
    watcher which runs it saw end (ADR 25).
    """
    for outage in faults:
        if _is_away(outage, ended_at) and any(
            fault.killed == service and ended_at - _AROUND < fault.began < outage.ceased + _UNPUBLISHED
            for fault in faults
        ):
            return True
    return False


def _is_away(outage: Window, at: datetime) -> bool:
    """Whether NATS is, or was until just now, because of that fault."""
    return outage.kind.startswith(_NATS) and outage.began <= at < outage.ceased + _UNPUBLISHED
