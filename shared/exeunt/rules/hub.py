"""The hub's word in a run's conditions that its topology is gone. Pure.

Judged by the watcher, and again by the terminator before it writes: the whole array belongs to whoever wrote it last
(contract §9.2), so what the hub said can be gone again.
"""

from typing import Final

import msgspec

from exeunt.clock import readable_instant
from exeunt.run import bobrapet
from exeunt.run.models import Condition
from exeunt.run.snapshot import RunState

_CONDITIONS: Final = msgspec.json.Decoder(list[Condition] | None)


def topology_terminated(run: RunState) -> str | None:
    """The hub's message, if it has set Degraded with reason TopologyTerminated in this attempt (contract §3.4)."""
    if bobrapet.TOPOLOGY_TERMINATED_REASON.encode() not in bytes(run.conditions):
        return None
    for condition in _CONDITIONS.decode(run.conditions) or []:
        if (
            condition.type == bobrapet.DEGRADED
            and condition.status == "True"
            and condition.reason == bobrapet.TOPOLOGY_TERMINATED_REASON
            and not _is_before(condition.last_transition_time, run.started_at)
        ):
            return condition.message or "the hub says that all streams have ended"
    return None


def _is_before(text: str | None, limit_text: str | None) -> bool:
    # The kube-apiserver takes times that nobody can read, such as year 9999 with a zone: they count as absent.
    instant, limit = readable_instant(text), readable_instant(limit_text)
    return instant is not None and limit is not None and instant < limit
