"""What is true of the runs, told by the objects and signals themselves, without a line of the product's rules: since when
it is evident that a topology is gone, and which timeouts a stop may have.
"""

from typing import Final

import msgspec

from exeunt import bobrapet
from exeunt.clock import parse_instant
from exeunt.events import Fact
from exeunt.kube.models import StepRun, Story, TransportBinding
from exeunt.signals import TOPOLOGY_GONE, TOPOLOGY_UP
from exeunt.subjects import RUNS, SIGNALS
from simulation.apiserver import STORY, STORY_RUN, ApiServer, Change, Document
from simulation.clockwork import Clockwork, seconds
from simulation.jetstream import JetStream, StoredMessage
from simulation.operator import hub_says_gone

_TIMEOUTS: Final[dict[object, float]] = {"5s": 5.0, "2m0s": 120.0, "3s": 3.0, "10s": 10.0, "40s": 40.0}


class Signaled(msgspec.Struct, frozen=True):
    at: float
    gone: bool
    by_token: bool


class Truth:
    """Of one attempt of a run. `evident`: its topology is gone, on evidence that somebody may have; `evident_until`: or
    was so until then. `known_since`: it is gone, on evidence that Exeunt must have, since then; None while it is not.
    """

    def __init__(self, attempt: int, started_at: float) -> None:
        self.attempt = attempt
        self.started_at = started_at
        self.established = False
        self.had_steps = False
        self.evident = False
        self.evident_until = float("-inf")
        self.known_since: float | None = None
        self.signals: list[Signaled] = []
        self.timeouts: set[float] = set()
        """Those that its Story had until the cancel was published."""
        self.had_no_story = False
        self.is_fixed = False
        self.established_published = False
        self.terminated_unestablished = False
        """It was published as gone by a signal, before any binding was seen (a known weakness)."""


class Truths:
    def __init__(self, clock: Clockwork, api: ApiServer, nats: JetStream) -> None:
        self.of_uid: dict[str, Truth] = {}
        self._clock = clock
        self._api = api
        self._nats = nats
        api.on_change.append(self._see)
        api.on_restore.append(self._restored)
        nats.on_stored.append(self._stored)

    def of(self, document: Document) -> Truth:
        uid, attempt = document["metadata"]["uid"], document["metadata"].get("attempt", 0)
        truth = self.of_uid.get(uid)
        if truth is None or truth.attempt != attempt:
            before, truth = truth, Truth(attempt, self._clock.now)
            if before is not None:  # known weakness: what a watcher still sees counts for the next attempt
                truth.established, truth.had_steps = before.established, before.had_steps
            if before is not None and attempt <= 1:
                truth.signals = before.signals
            self.of_uid[uid] = truth
        return truth

    def _see(self, change: Change) -> None:
        found = change.object
        if change.kind == STORY_RUN:
            self._look(found.metadata.name)
        elif isinstance(found, StepRun):
            self._look(found.spec.story_run_ref.name)
        elif isinstance(found, TransportBinding) and (ref := found.spec.story_run_ref) and ref.name:
            self._look(ref.name)
        elif change.kind == STORY:
            for name in self._api.documents:
                self._look(name)

    def _restored(self, _: float) -> None:
        for truth in self.of_uid.values():
            truth.is_fixed = False
        for name in self._api.documents:
            self._look(name)

    def _look(self, name: str) -> None:
        document = self._api.documents.get(name)
        if document is None:
            return
        truth, now = self.of(document), self._clock.now
        if not truth.is_fixed or self._nats.wiped_at:  # without RUNS nobody knows what it was at the cancel
            truth.timeouts.add(self._timeout(document))
            truth.had_no_story |= document["spec"]["storyRef"]["name"] not in self._api.objects[STORY]
        uid = document["metadata"]["uid"]
        connected = any((ref := each.spec.story_run_ref) and ref.uid == uid for each in self._api.bindings(name))
        live = any(is_live(each, uid) for each in self._api.step_runs(name))
        truth.established |= connected
        truth.had_steps |= live
        by_hub = hub_says_gone(document)
        evident = (
            by_hub
            or (truth.established and not connected)
            or bool(document["spec"].get("cancelRequested") and truth.had_steps and not live)
            or _newest(truth.signals)
        )
        if evident or truth.evident:
            truth.evident_until = now
        truth.evident = evident
        known = by_hub or self._is_known(truth, document, connected=connected)
        truth.known_since = (now if truth.known_since is None else truth.known_since) if known else None

    def _is_known(self, truth: Truth, document: Document, *, connected: bool) -> bool:
        started = (document.get("status") or {}).get("startedAt")
        since = seconds(parse_instant(started)) + 2 if started else float("inf")
        first = truth.attempt <= 1
        signals = [each for each in truth.signals if each.at >= since or (first and each.by_token)]
        if _newest(signals):
            return True
        return truth.established_published and not connected and not truth.terminated_unestablished

    def _timeout(self, document: Document) -> float:
        story = self._api.objects[STORY].get(document["spec"]["storyRef"]["name"])
        policy = story.spec.policy if isinstance(story, Story) else None
        said = policy.timeouts.graceful_shutdown_timeout if policy and policy.timeouts else None
        return _TIMEOUTS.get(said, 20.0)

    def _stored(self, stream: str, message: StoredMessage) -> None:
        if stream == SIGNALS:
            self._signaled(message)
        elif stream == RUNS and ".outcome." not in message.subject:
            _, _, _, name, uid, _, event_type = message.subject.split(".")
            truth = self.of_uid.get(uid)
            if truth is None:
                return
            if event_type == Fact.CANCEL_REQUESTED:
                truth.is_fixed = True
            elif event_type == Fact.TOPOLOGY_ESTABLISHED:
                truth.established_published = True
            elif event_type == Fact.TOPOLOGY_TERMINATED and b'"established":true' not in message.payload:
                truth.terminated_unestablished = True
            self._look(name)

    def _signaled(self, message: StoredMessage) -> None:
        if message.headers.get("ce-type") not in (TOPOLOGY_GONE, TOPOLOGY_UP):
            return
        gone = message.headers["ce-type"] == TOPOLOGY_GONE
        at = seconds(parse_instant(message.headers["ce-time"]))
        for name, document in self._api.documents.items():
            token = document["metadata"]["annotations"].get(bobrapet.TRIGGER_TOKEN)
            if message.subject in (f"exeunt.signals.voice.{name}", f"exeunt.signals._trigger_token.{token}"):
                by_token = "_trigger_token" in message.subject
                self.of(document).signals.append(Signaled(at, gone, by_token))
                self._look(name)


def _newest(signals: list[Signaled]) -> bool:
    return max(signals, key=lambda each: each.at).gone if signals else False


def is_live(step: StepRun, uid: str) -> bool:
    owners = [owner.uid for owner in step.metadata.owner_references]
    phase = step.status.phase if step.status else None
    return (not owners or uid in owners) and not step.metadata.deletion_timestamp and not bobrapet.is_terminal(phase)
