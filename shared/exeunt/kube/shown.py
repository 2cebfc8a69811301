"""What has been shown of a collection: of each object only its name, uid and version. Pure.

So of a new list no more than the news is handed over, what is no longer there is told, and a history that has gone back
is noticed (ADR 22).
"""

from collections import defaultdict

from msgspec import Struct

from exeunt.kube.changes import Missing
from exeunt.kube.errors import Rewound


class _Known(Struct, gc=False):
    """An object as it was last, and the list that it was in last."""

    uid: str
    version: int | str
    listed: int


class Shown:
    """`what` it is a collection of, for errors; `latest` is the resourceVersion that was heard last."""

    def __init__(self, what: str) -> None:
        self.latest = ""
        self._what = what
        self._known: defaultdict[str, dict[str, _Known]] = defaultdict(dict)  # by namespace and name
        self._lists = 0  # the number of the present list

    def begin_list(self) -> None:
        self._lists += 1

    def page(self, resource_version: str) -> None:
        """A page of the list is there. Raises Rewound."""
        if _is_older(_version(resource_version), _version(self.latest)):
            raise Rewound(f"{self._what}: listed at version {resource_version} after {self.latest} was seen")

    def show(self, namespace: str, name: str, uid: str, resource_version: str) -> tuple[bool, Missing | None]:
        """Whether this listed object is news, and the one of that name that it has replaced. Raises Rewound."""
        known, version = self._known[namespace].get(name), _version(resource_version)
        if known is None or known.uid != uid:
            self._known[namespace][name] = _Known(uid, version, self._lists)
            return True, None if known is None else Missing((namespace, name), known.uid)
        if _is_older(version, known.version):
            raise Rewound(f"{self._what}: {namespace}/{name} is at version {version} after {known.version} was seen")
        news, known.version, known.listed = known.version != version, version, self._lists
        return news, None

    def end_list(self, resource_version: str) -> list[Missing]:
        """What the list that has just ended did not show."""
        self.latest = resource_version
        missing = [
            Missing((namespace, name), known.uid)
            for namespace, names in self._known.items()
            for name, known in names.items()
            if known.listed != self._lists
        ]
        for gone in missing:
            self.drop(*gone.key)
        return missing

    def keep(self, namespace: str, name: str, uid: str, resource_version: str) -> None:
        """A watch has shown it."""
        known, version = self._known[namespace].get(name), _version(resource_version)
        if known is not None and known.uid == uid:
            known.version = version
        else:
            self._known[namespace][name] = _Known(uid, version, self._lists)

    def drop(self, namespace: str, name: str) -> str | None:
        """A watch has shown that it is deleted; its uid, if it was known."""
        names = self._known[namespace]
        known = names.pop(name, None)
        if not names:
            del self._known[namespace]
        return known.uid if known else None

    def uids(self) -> set[str]:
        return {known.uid for names in self._known.values() for known in names.values()}


def _version(resource_version: str) -> int | str:
    """A number, which is smaller, where it is one."""
    return int(resource_version) if resource_version.isdecimal() else resource_version


def _is_older(version: int | str, than: int | str) -> bool:
    """Whether a resourceVersion is older than another one of the same collection.

    Kubernetes lets its clients compare them as numbers since 1.35 (KEP-5504), and on etcd they always were. What is not
    such a number is not compared: then only what is missing from a list tells.
    """
    return isinstance(version, int) and isinstance(than, int) and version < than
