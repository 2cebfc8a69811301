"""For how long JetStream may fail before a terminator goes on without it, and work before it is trusted again. Pure."""

from typing import Final

BACK_AFTER: Final = 2.0
"""Seconds that JetStream has to work again: shorter is a blip, and each end of an outage lists everything anew."""


class Patience:
    """Told of every look, says whether JetStream is away. Times are seconds of one clock, whichever."""

    def __init__(self, patience: float) -> None:
        self.away = False
        self._patience = patience
        self._since: float | None = None  # of what speaks against the state that it is in

    def look(self, *, works: bool, now: float, since: float | None = None) -> bool:
        """Whether JetStream is away, after it was seen to work, or not to, at `now`; not to `since` then, if somebody
        knows.
        """
        if works is not self.away:
            self._since = None
            return self.away
        self._since = min(each for each in (now, since, self._since) if each is not None)
        if now - self._since >= (BACK_AFTER if self.away else self._patience):
            self.away, self._since = not self.away, None
        return self.away
