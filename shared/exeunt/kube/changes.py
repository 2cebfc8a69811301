"""What happens to a collection on the kube-apiserver, as values. Pure. `list_watch` brings them about."""

from dataclasses import dataclass
from typing import Generic

from exeunt.kube.resources import T


@dataclass(frozen=True, slots=True)
class Changed(Generic[T]):
    """An object was created or modified."""

    object: T


@dataclass(frozen=True, slots=True)
class Removed(Generic[T]):
    """An object was deleted; this is its last state."""

    object: T


@dataclass(frozen=True, slots=True)
class Missing:
    """A known object is not in a new list: it was deleted, or it merely left the list's selector."""

    key: tuple[str, str]
    uid: str


@dataclass(frozen=True, slots=True)
class Relisted(Generic[T]):
    """The complete list, at the start and whenever a watch cannot go on; never one that failed half-way.

    `missing` was known before; a name may be in both, under another uid. It is one change, because half of it is a
    state that there never was: a replaced object is gone, say.
    """

    items: list[T]
    missing: tuple[Missing, ...] = ()


Change = Relisted[T] | Changed[T] | Removed[T] | Missing
