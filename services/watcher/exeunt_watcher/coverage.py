"""Which namespaces the watcher is not let into, and why events of the others may be missed or late now: for /readyz.

Each namespace is by itself, so that one that is forbidden or deleted does not keep the others waiting; it is asked
again with back-off, and joins when it answers.
"""

from collections.abc import Iterable
from typing import Any, Final

from exeunt.kube.list_watch import ListWatch
from exeunt.process.health import InPart
from exeunt_watcher.machine import Watching

_NAMED: Final = 5
"""How many things a trouble names; of hundreds of namespaces each has four watches."""


class Coverage:
    """Looks at the watches of one namespace, of several, or of all of them as one (None), and at their machine."""

    def __init__(self, watches: Iterable[ListWatch[Any]], machine: Watching) -> None:
        self.watches = list(watches)
        self._machine = machine

    @property
    def served(self) -> list[ListWatch[Any]]:
        """The watches of the namespaces that we are let into; if there are none, all of them, for none is served."""
        closed = {watch.namespace for watch in self.watches if watch.refused}
        return [watch for watch in self.watches if watch.namespace not in closed] or self.watches

    @property
    def closed(self) -> InPart | None:
        """The namespaces that refuse to be watched while others are served, each with its reason."""
        served = {watch.namespace for watch in self.served}
        closed = [watch for watch in self.watches if watch.refused and watch.namespace not in served]
        reasons = {watch.namespace: f"{watch.namespace} ({watch.error})" for watch in closed}
        return InPart(f"not watched: {_some(reasons.values())}") if reasons else None

    @property
    def unavailable_reason(self) -> str | None:
        """Why events may be missed or late now in what is served."""
        served = self.served
        missing = [f"{watch} ({watch.error})" if watch.error else str(watch) for watch in served if not watch.synced]
        missing += [] if self._machine.signals_heard else ["signals"]
        if missing:
            return f"not listed yet: {_some(missing)}"
        if self._machine.recalls({watch.namespace for watch in served}):
            return "not listed yet: what the stream remembers"
        troubles = ((watch, watch.unavailable_reason) for watch in served)
        return next((f"{watch}: {trouble}" for watch, trouble in troubles if trouble), None)


def _some(names: Iterable[str]) -> str:
    every = sorted(names)
    return ", ".join(every[:_NAMED]) + (f" and {len(every) - _NAMED} more" if len(every) > _NAMED else "")
