"""Which stop is meant: an episode is one cancellation of one run. Pure.

The key is uid + fence, because a redrive cancels the same uid again, and delete + recreate gives a new uid to the same
name (contract §4.5). Before there is a fence, what happens belongs to the run's *life*: from its creation, or from the
last redrive that bobrapet carried out.
"""

from collections.abc import Mapping
from hashlib import sha256

from msgspec import Struct

from exeunt import bobrapet
from exeunt.clock import parse_instant


class Episode(Struct, frozen=True, order=True):
    """One cancellation (or, before the fence, one life) of one StoryRun."""

    namespace: str
    name: str
    uid: str
    token: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} ({self.uid}, {self.token})"


def fence_of(annotations: Mapping[str, str]) -> str | None:
    """The fence as bobrapet wrote it; one that does not parse counts as absent, as it does there (contract §4.4)."""
    fence = annotations.get(bobrapet.FENCE, "")
    try:
        parse_instant(fence)
    except ValueError:
        return None
    return fence


def life_of(annotations: Mapping[str, str]) -> str:
    """A token for the run's life: "first", or one for the redrives that bobrapet has carried out."""
    observed = [annotations.get(observed, "") for _, observed in bobrapet.REDRIVE]
    return f"redrive-{sha256(repr(observed).encode()).hexdigest()[:12]}" if any(observed) else bobrapet.FIRST_LIFE


def token_of(fence: str | None, life: str) -> str:
    """One NATS subject token (no dot, no space) for the episode."""
    return fence.strip().replace(".", "_") if fence else life
