"""What a search has to have seen, else it proves nothing: every way of the machines' tables, every command and input,
every fault, and everything that people do.
"""

from collections import Counter
from typing import Any, Final, get_args

from exeunt_livekit_bridge import machine as bridge
from exeunt_terminator import commands as terminator
from exeunt_terminator import stop
from exeunt_timeout_scheduler import commands as scheduler
from exeunt_timeout_scheduler import way
from exeunt_watcher import commands as watcher
from simulation.faults import Fault
from simulation.world import ACTIONS

TABLES: Final[dict[str, dict[Any, dict[Any, Any]]]] = {
    "terminator": stop.TRANSITIONS,
    "scheduler": way.TRANSITIONS,
}
walked: Counter[str] = Counter()


class _Recorded(dict[Any, Any]):
    """One state of a table, which counts what leads out of it."""

    def __init__(self, service: str, state: Any, ways: dict[Any, Any]) -> None:
        super().__init__(ways)
        self._of = f"{service} {state}"

    def __getitem__(self, result: Any) -> Any:
        walked[f"{self._of}: {result}"] += 1
        return super().__getitem__(result)


def record() -> None:
    """Count from now on, in this process."""
    for service, table in TABLES.items():
        for state, ways in table.items():
            if not isinstance(ways, _Recorded):
                table[state] = _Recorded(service, state, ways)


def expected() -> set[str]:
    """Everything that has to happen."""
    ways = {
        f"{service} {state}: {result}"
        for service, table in TABLES.items()
        for state, results in table.items()
        for result in results
    }
    spoken = {
        "watcher": watcher.Command,
        "watcher hears": watcher.Input,
        "terminator": terminator.Command,
        "terminator hears": terminator.Input,
        "scheduler": scheduler.Command,
        "scheduler hears": scheduler.Input,
        "bridge": bridge.Command,
        "bridge hears": bridge.Input,
    }
    words = {f"{whose}: {word.__name__}" for whose, union in spoken.items() for word in get_args(union)}
    deeds = {f"action: {what}" for what in ACTIONS} | {"a sub-story is canceled", "a run is ended without the bus"}
    return ways | words | deeds | {str(fault) for fault in Fault}
