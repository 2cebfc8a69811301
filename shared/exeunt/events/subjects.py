"""Streams and subjects: where everything is published. Pure.

RUNS holds each run's history. A subject names the run, the cancellation and the event, so "the last sequence on this
subject must be 0" makes an event exactly-once (ADR 3), and one run's history is found without a scan.

    exeunt.runs.<namespace>.<name>.<uid>.<cancellation>.<event type>
                                                         events (watcher, timeout-scheduler)
    exeunt.runs.<namespace>.<name>.<uid>.<cancellation>.outcome.<event type>
                                                         what the terminator decided from that event
    exeunt.deadlines.armed.<namespace>.<name>.<uid>.<cancellation>
                                                         a pending message schedule
    exeunt.deadlines.due.<namespace>.<name>.<uid>.<cancellation>
                                                         a schedule that has come due
    exeunt.signals.<namespace>.<name>                    published by others about its topology (`signals`)
    exeunt.signals._trigger_token.<token>                the same, of the runs that were started for a token
    exeunt.livekit.rooms.<sid>                           a room that the LiveKit bridge has to look at
    exeunt.deadletters.<consumer>                        messages set aside, with their reason
    exeunt.unstored                                      without a stream: what is not stored now (`exeunt.bus.hearsay`)

Object names may hold dots, which separate subject tokens; they are written as "_", which no object name may hold. A
trigger token may hold anything: what is not a letter, a digit, "_" or "-" is percent-encoded.
"""

import re
from typing import Final

from exeunt.events.event_types import EventType
from exeunt.run.cancellations import Cancellation

RUNS: Final = "RUNS"
DEADLINES: Final = "DEADLINES"
SIGNALS: Final = "SIGNALS"
DEADLETTERS: Final = "DEADLETTERS"
LIVEKIT: Final = "LIVEKIT"

# Consumers that the instances of a service share.
WATCHER_SIGNALS: Final = "watcher-signals"
"""Gives each signal to one watcher, to be checked."""
TERMINATOR: Final = "terminator"
"""By which the terminators settle the events of RUNS."""
TIMEOUT_SCHEDULER: Final = "timeout-scheduler"
"""By which deadlines are armed and disarmed, from RUNS."""
TIMEOUT_SCHEDULER_DUE: Final = "timeout-scheduler-due"
"""By which they are published, from DEADLINES."""
LIVEKIT_BRIDGE: Final = "livekit-bridge"
"""By which rooms are looked at, from LIVEKIT."""


def _tokens(cancellation: Cancellation) -> str:
    return f"{cancellation.namespace}.{cancellation.name.replace('.', '_')}.{cancellation.uid}.{cancellation.token}"


def event_subject(cancellation: Cancellation, event_type: EventType) -> str:
    return f"exeunt.runs.{_tokens(cancellation)}.{event_type}"


def outcome_subject(cancellation: Cancellation, cause: EventType) -> str:
    return f"exeunt.runs.{_tokens(cancellation)}.outcome.{cause}"


def every(event_type: EventType) -> str:
    """The consumer filter for one event of every run."""
    return f"exeunt.runs.*.*.*.*.{event_type}"


def run_of(subject: str) -> tuple[str, str]:
    """The namespace and the name, as it is written there, of the run that a subject of RUNS is about."""
    _, _, namespace, name, *_ = subject.split(".")
    return namespace, name


def armed_subject(cancellation: Cancellation) -> str:
    return f"exeunt.deadlines.armed.{_tokens(cancellation)}"


def due_subject(cancellation: Cancellation) -> str:
    return f"exeunt.deadlines.due.{_tokens(cancellation)}"


def signal_subject(namespace: str, name: str) -> str:
    return f"exeunt.signals.{namespace}.{name.replace('.', '_')}"


def trigger_token_subject(token: str) -> str:
    """The subject for a token that is not longer than `snapshot.LONGEST_TRIGGER_TOKEN`."""
    return f"exeunt.signals.{BY_TRIGGER_TOKEN}.{_NOT_PLAIN.sub(_percent_encoded, token)}"


def _percent_encoded(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))


BY_TRIGGER_TOKEN: Final = "_trigger_token"  # noqa: S105 - no secret
"""Stands where a namespace would: none may begin with "_"."""
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9_-]")


def look_subject(sid: str) -> str:
    return f"exeunt.livekit.rooms.{_NOT_PLAIN.sub(_percent_encoded, sid)}"


EVERY_DUE: Final = "exeunt.deadlines.due.>"
EVERY_SIGNAL: Final = "exeunt.signals.>"
EVERY_LOOK: Final = "exeunt.livekit.rooms.*"
