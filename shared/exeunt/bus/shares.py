"""Who is next where places are few: fair shares of them for all groups. Pure.

No group may hold more places than are free (the dynamic threshold by which switches share a buffer, Choudhury and Hahne
1998): alone it has half of them, and with others that are greedy, too, each has as much as stays free. So there is
always a place for a group that has none, however long the others hold theirs. Among those that wait the group with the
fewest places is next, in turn; within it whoever has waited longest. Two that are about one thing never have places at
the same time, since one would only spoil what the other does.
"""

from collections import Counter, deque
from typing import Generic, NamedTuple, TypeVar


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
        self._held: Counter[str] = Counter()
        self._groups: dict[str, deque[Share]] = {}  # what waits and may be next, by group; longest served first
        self._waiting: dict[Share, deque[T]] = {}  # for one thing, which holds a place or is waiting
        self._busy: set[Share] = set()

    def wait(self, who: T, share: Share) -> None:
        """Stand in line."""
        self._waiting.setdefault(share, deque()).append(who)
        if len(self._waiting[share]) == 1 and share not in self._busy:
            self._groups.setdefault(share.group, deque()).append(share)

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

    def done(self, share: Share) -> None:
        """Its place is free again."""
        self.free += 1
        self._held[share.group] -= 1
        if not self._held[share.group]:
            del self._held[share.group]
        self._busy.remove(share)
        if self._waiting[share]:
            self._groups.setdefault(share.group, deque()).append(share)
        else:
            del self._waiting[share]

    def _poorest(self) -> str | None:
        poorest = None
        for group in self._groups:
            if not self._held[group]:  # nobody has less: no need to look at the others
                return group
            if poorest is None or self._held[group] < self._held[poorest]:
                poorest = group
        return poorest
