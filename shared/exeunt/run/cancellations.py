"""Which stop is meant: a stop is one cancellation of one run. Pure.

The key is uid + cancel_observed_at, because a redrive cancels the same uid again, and delete + recreate gives a new uid
to the same name (contract §4.5). Before bobrapet has observed the cancel, what happens belongs to the run's *attempt*:
from its creation, or from the last redrive that bobrapet carried out.
"""

from collections.abc import Mapping
from hashlib import sha256

from msgspec import Struct

from exeunt.clock import parse_instant
from exeunt.run import bobrapet


class Cancellation(Struct, frozen=True, order=True):
    """One cancellation (or, before bobrapet has observed the cancel, one attempt) of one StoryRun."""

    namespace: str
    name: str
    uid: str
    token: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} ({self.uid}, {self.token})"


def cancel_observed_at_of(annotations: Mapping[str, str]) -> str | None:
    """The cancel_observed_at as bobrapet wrote it; one that does not parse counts as absent, as it does there (contract
    §4.4).
    """
    cancel_observed_at = annotations.get(bobrapet.CANCEL_OBSERVED_AT, "")
    try:
        parse_instant(cancel_observed_at)
    except ValueError:
        return None
    return cancel_observed_at


def attempt_of(annotations: Mapping[str, str]) -> str:
    """A token for the run's attempt: "first", or one for the redrives that bobrapet has carried out."""
    observed = [annotations.get(observed, "") for _, observed in bobrapet.REDRIVE]
    return f"redrive-{sha256(repr(observed).encode()).hexdigest()[:12]}" if any(observed) else bobrapet.FIRST_ATTEMPT


def token_of(cancel_observed_at: str | None, attempt: str) -> str:
    """One NATS subject token (no dot, no space) for the cancellation."""
    return cancel_observed_at.strip().replace(".", "_") if cancel_observed_at else attempt
