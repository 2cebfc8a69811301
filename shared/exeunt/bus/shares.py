"""Who is next where places are few: fair shares of them for all groups. Pure.

No group may hold more places than are free (the dynamic threshold by which switches share a buffer, Choudhury and Hahne
1998): alone it has half of them, and with others that are greedy, too, each has as much as stays free. So there is
always a place for a group that has none, however long the others hold theirs. Among those that wait the group with the
fewest places is next, in turn; within it whoever has waited longest. Two that are about one thing never have places at
the same time, since one would only spoil what the other does.

What a group does with its places may be in vain, and cost all others by what it asks of a server that they share. So a
group has half as many after each failure, one at the least, and one more after each success, as TCP does it; and of
one that has few, only so many may wait here.
"""

from collections import Counter, deque
from typing import Final, Generic, NamedTuple, TypeVar

_WAITING: Final = 100
"""Things of a group in trouble that may wait: what stands in the line is not seen behind."""
_MOST_IN_TROUBLE: Final = 10_000
"""Groups that are remembered."""


class Share(NamedTuple):
    """Whose place it is, and what it is about: for example a run's namespace, and the run itself."""

    group: str
    about: str


T = TypeVar("T")


class Shares(Generic[T]):
    """`places` and those that wait for one. Each is reported when it has its place, and tells when it needs it no
    more.
    """

    def __init__(self, places: int) -> None:
        self.free = places
        self._places = places
        self._allowed: dict[str, int] = {}  # places of each group in trouble
        self._held: Counter[str] = Counter()
        self._groups: dict[str, deque[Share]] = {}  # what waits and may be next, by group; longest served first
        self._waiting: dict[Share, deque[T]] = {}  # for one thing, which holds a place or is waiting
        self._busy: set[Share] = set()

    def wait(self, who: T, share: Share) -> bool:
        """Stand in line. Not where so many of a group in trouble do already."""
        if share.group in self._allowed and len(self._groups.get(share.group, ())) >= _WAITING:
            return False
        self._waiting.setdefault(share, deque()).append(who)
        if len(self._waiting[share]) == 1 and share not in self._busy:
            self._groups.setdefault(share.group, deque()).append(share)
        return True

    def next(self) -> tuple[T, Share] | None:
        """Who has a place from now on; None when nobody may."""
        group = self._poorest()
        if group is None or self._held[group] >= self.free:
            return None
        line = self._groups.pop(group)
        share = line.popleft()
        if line:
            self._groups[group] = line  # behind the others
        who = self._waiting[share].popleft()
        self._busy.add(share)
        self._held[group] += 1
        self.free -= 1
        return who, share

    def done(self, share: Share, *, failed: bool | None = None) -> list[T]:
        """Its place is free again; what was done there has `failed`, if anything was done. Those that are returned wait
        no more.
        """
        self.free += 1
        self._held[share.group] -= 1
        if not self._held[share.group]:
            del self._held[share.group]
        self._busy.remove(share)
        if self._waiting[share]:
            self._groups.setdefault(share.group, deque()).append(share)
        else:
            del self._waiting[share]
        if failed is None:
            return []
        return self._shrink(share.group) if failed else self._grow(share.group)

    def _grow(self, group: str) -> list[T]:
        allowed = self._allowed.pop(group, self._places) + 1
        if allowed < self._places:
            self._allowed[group] = allowed
        return []

    def _shrink(self, group: str) -> list[T]:
        self._allowed[group] = max(1, self._allowed.pop(group, self._places) // 2)
        if len(self._allowed) > _MOST_IN_TROUBLE:
            del self._allowed[next(iter(self._allowed))]
        line, away = self._groups.get(group, deque()), list[T]()
        while len(line) > _WAITING:
            away += self._waiting.pop(line.pop())
        return away

    def _poorest(self) -> str | None:
        poorest = None
        for group in self._groups:
            if not self._held[group]:  # nobody has less: no need to look at the others
                return group
            if self._held[group] >= self._allowed.get(group, self._places):
                continue
            if poorest is None or self._held[group] < self._held[poorest]:
                poorest = group
        return poorest
