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
class Page(Generic[T]):
    """A page of a list, which is made at the start and whenever a watch cannot go on; only the last one is `complete`.
    A list that fails half-way is made again from its beginning.

    `items` are as they are now; what has not changed since it was handed over is left out. `missing` was known before
    and is not there any more; a name may be in both, under another uid. That is one change, because half of it is a
    state that there never was: a replaced object is gone, say. So is what has gone from one page before what has come
    in its place is told by another one: whoever judges by what is not there waits for the last page.
    """

    items: list[T]
    missing: tuple[Missing, ...] = ()
    complete: bool = True


Change = Page[T] | Changed[T] | Removed[T] | Missing
