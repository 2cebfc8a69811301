"""What anyone with the right NATS credentials may say: "the topology of this run is gone". Pure.

A signal is evidence, the weakest of all (contract §3.5, rank 6). It can only end a run that is canceled anyway: the
rules are asked as for any other evidence, and every test of the finalizing write must still hold. See docs/signals.md.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from exeunt import cloudevents
from exeunt.clock import parse_instant, readable_instant
from exeunt.errors import PoisonEvent
from exeunt.snapshot import Evidence, RunState
from exeunt.subjects import signal_subject

TYPE: Final = "io.bubustack.exeunt.topology-gone.v1"
"""CloudEvents type of a signal; its subject is exeunt.signals.<namespace>.<name>, dots of the name written as "_"."""

TOPOLOGY_GONE: Final = TYPE
TOPOLOGY_UP: Final = "io.bubustack.exeunt.topology-up.v1"
"""CloudEvents types of signals: the topology is gone; it is up (again), which takes back what was said before."""

_SKEW: Final = timedelta(minutes=1)
"""How far ahead of ours a publisher's clock may be."""


class SignalBody(Struct, frozen=True):
    """A run whose topology is gone, by name and where known by uid. Since when, the CloudEvent's `time` says."""

    namespace: str
    name: str
    uid: str | None = None
    detail: str = ""


class Signal(Struct, frozen=True):
    """A run, by name and where known by uid; since when its topology is gone; and what its publisher says of it."""

    namespace: str
    name: str
    uid: str | None
    gone_at: datetime
    evidence: Evidence

    def objection(self, run: RunState, now: datetime) -> str | None:
        """Why the signal says nothing about this run, or None when it counts."""
        if self.uid is not None and self.uid != run.uid:
            return "it is about another StoryRun of this name"
        if self.gone_at > now + _SKEW:
            return "it lies in the future"
        started = readable_instant(run.started_at)
        if started is None:
            return "when its run started is not known"
        if self.gone_at < started:
            return "it is older than the run's start"
        return None


_BODY: Final = msgspec.json.Decoder(SignalBody)


def read_signal(subject: str, headers: Mapping[str, str], payload: bytes) -> Signal:
    """Understand a message as a signal. Raises PoisonEvent that says what is wrong with it.

    Subject and body must name the same run: who may publish on which subject is what NATS is told.
    """
    attributes = cloudevents.from_headers(headers)
    if attributes.type != TYPE:
        raise PoisonEvent(f"event type {attributes.type!r} is no signal; {TYPE!r} is")
    try:
        body = _BODY.decode(payload)
        gone_at = parse_instant(attributes.time)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"the signal does not decode: {error}") from error
    if subject != signal_subject(body.namespace, body.name):
        raise PoisonEvent(f"the signal is about {body.namespace}/{body.name}, but was sent on {subject}")
    detail = f"{attributes.source}: {body.detail}" if body.detail else attributes.source
    return Signal(body.namespace, body.name, body.uid, gone_at, Evidence("signal", 6, detail[:256]))
