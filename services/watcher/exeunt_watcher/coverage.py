"""Which namespaces the watcher can speak for, and which it is not let into.

A namespace is covered when every kind in it has been listed and what the stream remembers of its runs is known: until
then a list that has not come yet looks like "gone". Each namespace is by itself, so that one that is forbidden or
deleted does not keep the others waiting; it is asked again with back-off, and joins when it answers.
"""

from collections.abc import Iterable
from typing import Any, Final

from exeunt.health import InPart
from exeunt.kube.list_watch import ListWatch

_NAMED: Final = 5
"""How many things a trouble names; of hundreds of namespaces each has four watches."""


class Coverage:
    """Keeps the books on the watches of one namespace, of several, or of all of them as one (None).

    `besides` is what each namespace waits for, beside its lists.
    """

    def __init__(self, watches: Iterable[ListWatch[Any]], *, besides: Iterable[object] = ()) -> None:
        self.watches = list(watches)
        self._unlisted: dict[str | None, set[object]] = {watch.namespace: set(besides) for watch in self.watches}
        for watch in self.watches:
            self._unlisted[watch.namespace].add(watch)
        self.namespaces = tuple(self._unlisted)
        self._uncovered = set(self._unlisted)

    def listed(self, namespace: str | None, what: object) -> bool:
        """Take in that something is there; True when it is the last that its namespace has lacked."""
        lacking = self._unlisted[namespace]
        if what not in lacking:
            return False
        lacking.discard(what)
        return not lacking

    def cover(self, namespace: str | None) -> None:
        """From now on this namespace is spoken for."""
        self._uncovered.discard(namespace)

    def covers(self, *namespaces: str) -> bool:
        """Whether what is known of all of these is all there is; of one that is not watched nothing ever will be."""
        return self._uncovered.isdisjoint((None, *namespaces))

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
    def trouble(self) -> str | None:
        """Why facts may be missed or late now in what is served."""
        served = self.served
        namespaces = {watch.namespace for watch in served}
        if unlisted := {what for namespace in namespaces for what in self._unlisted[namespace].copy()}:
            return f"not listed yet: {_some(map(_with_error, unlisted))}"
        if not namespaces.isdisjoint(self._uncovered.copy()):
            return "not listed yet: what the stream remembers"
        return next((f"{watch}: {watch.error}" for watch in served if watch.error), None)


def _with_error(what: object) -> str:
    error = what.error if isinstance(what, ListWatch) else None
    return f"{what} ({error})" if error else str(what)


def _some(names: Iterable[str]) -> str:
    every = sorted(names)
    return ", ".join(every[:_NAMED]) + (f" and {len(every) - _NAMED} more" if len(every) > _NAMED else "")
