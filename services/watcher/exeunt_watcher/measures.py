"""What the watcher measures: the stops that are under way, and how its watches do."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from operator import add
from typing import Any

from exeunt.clock import parse_instant
from exeunt.kube.list_watch import ListWatch
from exeunt.metrics import (
    STOPS_OVERDUE,
    STOPS_PENDING,
    STOPS_PENDING_AGE,
    WATCH_AGE,
    WATCH_INTERRUPTIONS,
    WATCH_RELISTS,
)
from exeunt.snapshot import Snapshot
from exeunt_watcher.lateness import Lateness


def measure_stops(canceled: Iterable[Snapshot], lateness: Lateness, now: datetime) -> None:
    """Measure the stops among unfinished canceled runs."""
    pending = 0
    age = overdue = timedelta(0)
    for snapshot in canceled:
        due = lateness.due(snapshot)
        if due is not None and snapshot.run.canceled_at is not None:
            pending += 1
            age = max(age, now - parse_instant(snapshot.run.canceled_at))
            overdue = max(overdue, now - due.at)
    STOPS_PENDING.set(pending)
    STOPS_PENDING_AGE.set(age.total_seconds())
    STOPS_OVERDUE.set(overdue.total_seconds())


def observe_watches(watches: Callable[[], list[ListWatch[Any]]]) -> None:
    """Have the watches measured whenever somebody asks; those of one kind in several namespaces together."""
    now = asyncio.get_running_loop().time

    def by_resource(
        of: Callable[[ListWatch[Any]], float], together: Callable[[float, float], float]
    ) -> Mapping[tuple[str, ...], float]:
        values: dict[tuple[str, ...], float] = {}
        for watch in watches():
            key = (watch.resource.plural,)
            values[key] = together(values.get(key, 0), of(watch))
        return values

    WATCH_AGE.observe(lambda: by_resource(lambda watch: now() - watch.last_heard, max))
    WATCH_RELISTS.observe(lambda: by_resource(lambda watch: watch.relists, add))
    WATCH_INTERRUPTIONS.observe(lambda: by_resource(lambda watch: watch.interruptions, add))
