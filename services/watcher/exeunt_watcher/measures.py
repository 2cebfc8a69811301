"""What the watcher measures: the stops that are under way, and how its watches do."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from operator import add
from typing import Any

from exeunt.kube.list_watch import ListWatch
from exeunt.telemetry.metrics import (
    STOPS_OVERDUE,
    STOPS_PENDING,
    STOPS_PENDING_AGE,
    WATCH_AGE,
    WATCH_INTERRUPTIONS,
    WATCH_RELISTS,
)
from exeunt_watcher.lateness import Pending


def measure_stops(pending: Pending, now: datetime) -> None:
    """Measure the stops that are under way."""
    STOPS_PENDING.set(pending.stops)
    STOPS_PENDING_AGE.set((now - (pending.canceled_at or now)).total_seconds())
    STOPS_OVERDUE.set(max(now - (pending.due_at or now), timedelta(0)).total_seconds())


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
