"""What goes wrong between a process and a server: for a while, with some likelihood, for everybody or for one."""

from enum import StrEnum
from typing import Final, NamedTuple

from simulation.clockwork import Clockwork


class Fault(StrEnum):
    """How one request, or what a process or server does, goes wrong."""

    UNAVAILABLE = "not done, and given up (429, 5xx)"
    SLOW = "done late (429, 5xx, then done)"
    GIVEN_UP = "done, and given up for want of an answer"
    ANSWER_LOST = "done, but its answer was lost, and sent again"
    REQUEST_LOST = "lost, and sent again"
    REFUSED = "422 with causes"
    FORBIDDEN = "403"
    CONFLICT = "409"
    EXPIRED = "a watch ends with 410"
    WATCH_BROKEN = "a watch breaks"
    SLOW_WATCH = "a watch lags"
    SLOW_LIST = "a list comes late"
    PUBLISH_GIVEN_UP = "not stored, and given up"
    PUBLISH_UNANSWERED = "stored, and given up for want of an answer"
    PUBLISH_TWICE = "stored, its answer lost, and published again"
    PUBLISH_REFUSED = "the stream will never take it"
    READ_FAILED = "a stream does not answer a read"
    ACK_LOST = "an acknowledgement is lost"
    DUPLICATE = "a message is delivered twice"
    NO_NATS = "cut off from NATS"
    NO_API = "cut off from the kube-apiserver"
    LIVEKIT_AWAY = "LiveKit does not answer"


PUBLISH: Final = (Fault.PUBLISH_GIVEN_UP, Fault.PUBLISH_UNANSWERED, Fault.PUBLISH_TWICE, Fault.PUBLISH_REFUSED)


class Trouble(NamedTuple):
    """A fault that strikes now, with this likelihood; `process` None is everybody's."""

    fault: Fault
    likelihood: float
    process: str | None


class Troubles:
    """All that strikes at this time."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self.now: list[Trouble] = []
        self.struck_at: dict[Fault, float] = {}
        """When each has struck last."""

    def begin(self, trouble: Trouble, lasting: float) -> None:
        self.now.append(trouble)
        self._clock.after(lasting, lambda: self.now.remove(trouble) if trouble in self.now else None)

    def cease(self) -> None:
        self.now.clear()

    def strikes(self, process: str, *among: Fault) -> Fault | None:
        """The fault, if one of these, that strikes what `process` does now."""
        for fault, likelihood, whom in self.now:
            if fault in among and whom in (None, process) and self._clock.chance.random() < likelihood:
                self._clock.happened[fault] += 1
                self.struck_at[fault] = self._clock.now
                return fault
        return None
