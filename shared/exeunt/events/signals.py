"""What anyone with the right NATS credentials may publish about a run: its topology is gone, or it is up again. Pure.

A signal is evidence, the weakest of all (contract §3.5, rank 6). It can only end a run that is canceled anyway: the
rules are asked as for any other evidence, and every test of the finalizing write must still hold. See docs/signals.md.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from exeunt.clock import format_instant, parse_instant, readable_instant
from exeunt.errors import PoisonEvent
from exeunt.events import cloudevents
from exeunt.events.subjects import signal_subject, trigger_token_subject
from exeunt.run import bobrapet
from exeunt.run.snapshot import LONGEST_TRIGGER_TOKEN, Evidence, RunState

TOPOLOGY_GONE: Final = "io.bubustack.exeunt.topology-gone.v1"
TOPOLOGY_UP: Final = "io.bubustack.exeunt.topology-up.v1"
"""CloudEvents types of signals: the topology is gone; it is up (again), which takes back what was published before."""

_SKEW: Final = timedelta(minutes=1)
"""How far ahead of NATS' clock a publisher's may be."""
_MOST_DETAIL: Final = 512
"""Characters of a publisher's own words that go into the history."""
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL.pattern}(\.{_LABEL.pattern})*", re.ASCII)


class SignalBody(Struct, frozen=True, omit_defaults=True):
    """The run that a signal is about, and what its publisher publishes about it.

    Named by `namespace` and `name`, or by `trigger_token`: the run's annotation
    `storyrun.bubustack.io/trigger-token`, a LiveKit room's sid for example. `uid` and `detail` are optional; null and
    "" are the same as absent.
    """

    namespace: str | None = None
    name: str | None = None
    trigger_token: str | None = None
    uid: str | None = None
    detail: str | None = None


class Signal(Struct, frozen=True, kw_only=True):
    """One signal as it was received.

    `run` is the namespace and name that it names, or None where it names a trigger token. `at` is when it was true, the
    CloudEvent's time. `traceparent` is W3C trace context: of the hop that published it.
    """

    run: tuple[str, str] | None
    trigger_token: str | None
    uid: str | None
    gone: bool
    at: datetime
    detail: str
    traceparent: str | None = None

    def counts_for(self, run: RunState) -> bool:
        """Whether it is about this run, in its present attempt."""
        by_token = self.run is None
        names = self.trigger_token == run.trigger_token if by_token else self.run == (run.namespace, run.name)
        if not names or self.uid not in (None, run.uid):
            return False
        first = run.attempt == bobrapet.FIRST_ATTEMPT
        if by_token and first:
            return True  # nothing else was started for the token: it may even be over before its run exists
        # Kubernetes cuts the start to a whole second: what was published in that second may be of what was there
        # before.
        slack = timedelta(0) if self.uid and first else timedelta(seconds=1)
        started = readable_instant(run.started_at)
        return started is not None and self.at >= started + slack

    def is_ahead_of(self, stored: datetime) -> bool:
        """Whether it claims to have been true long after NATS had it: nobody can know that."""
        return self.at > stored + _SKEW

    @property
    def evidence(self) -> Evidence | None:
        """What it proves; None when it says that the topology is up."""
        if not self.gone:
            return None
        return Evidence("signal", 6, self.detail, since=format_instant(self.at), traceparent=self.traceparent)


def newest(signals: Iterable[Signal], run: RunState) -> Signal | None:
    """Of the signals that are about this run in its present attempt, the one that counts."""
    return max((signal for signal in signals if signal.counts_for(run)), key=lambda signal: signal.at, default=None)


_BODY: Final = msgspec.json.Decoder(SignalBody)
_GONE: Final = {TOPOLOGY_GONE: True, TOPOLOGY_UP: False}


def read_signal(subject: str, headers: Mapping[str, str], payload: bytes) -> Signal:
    """Understand a message as a signal. Raises PoisonEvent that says what is wrong with it.

    Subject and body must name the same run: who may publish on which subject is what NATS knows.
    """
    attributes = cloudevents.from_headers(headers)
    if attributes.type not in _GONE:
        raise PoisonEvent(f"event type {attributes.type!r} is no signal; {' and '.join(map(repr, _GONE))} are")
    try:
        body = _BODY.decode(payload)
        at = parse_instant(attributes.time)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PoisonEvent(f"the signal does not decode: {error}") from error
    run, about, right_subject = _named(body)
    if subject != right_subject:
        raise PoisonEvent(f"the signal is about {about}, but was sent on {subject}; it belongs on {right_subject}")
    detail = f"{attributes.source}: {body.detail}" if body.detail else attributes.source
    return Signal(
        run=run,
        trigger_token=None if run else body.trigger_token,
        uid=body.uid or None,
        gone=_GONE[attributes.type],
        at=at,
        detail=_line(detail[:_MOST_DETAIL]),
        traceparent=headers.get("traceparent"),
    )


def _line(text: str) -> str:
    """One line that does nothing to a terminal: it is somebody's word, and is printed where an operator looks."""
    return "".join(character if character.isprintable() else " " if character.isspace() else "?" for character in text)


def _named(body: SignalBody) -> tuple[tuple[str, str] | None, str, str]:
    """The run's namespace and name, where they are given; whom the signal is about in words; and its subject."""
    if body.trigger_token and not (body.namespace or body.name):
        token = body.trigger_token
        if len(token) > LONGEST_TRIGGER_TOKEN:
            raise PoisonEvent(f"trigger_token has {len(token)} characters; {LONGEST_TRIGGER_TOKEN} are the most")
        return None, f"the run with trigger token {token!r}", trigger_token_subject(token)
    if body.trigger_token or not (body.namespace and body.name):
        raise PoisonEvent('a signal names its run by "namespace" and "name", or by "trigger_token", and not by both')
    if not _LABEL.fullmatch(body.namespace):
        raise PoisonEvent(f"{body.namespace[:64]!r} can be no namespace")
    if not _SUBDOMAIN.fullmatch(body.name):
        raise PoisonEvent(f"{body.name[:256]!r} can be no name of a StoryRun")
    about = f"{body.namespace}/{body.name}"
    return (body.namespace, body.name), about, signal_subject(body.namespace, body.name)
