"""What is true of the runs, told by the objects and signals themselves, without a line of the product's rules: since
when it is evident that a topology is gone, and which timeouts a stop may have.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from exeunt.clock import parse_instant
from exeunt.events.event_types import EventType
from exeunt.events.signals import TOPOLOGY_GONE, TOPOLOGY_UP
from exeunt.events.subjects import RUNS, SIGNALS
from exeunt.run import bobrapet
from exeunt.run.models import StepRun, Story, TransportBinding
from simulation.apiserver import STORY, STORY_RUN, ApiServer, Change, Document
from simulation.clockwork import Clockwork, seconds
from simulation.jetstream import JetStream, StoredMessage
from simulation.operator import hub_says_gone

_TIMEOUTS: Final[dict[object, float]] = {"5s": 5.0, "2m0s": 120.0, "3s": 3.0, "10s": 10.0, "40s": 40.0}


_UNHEARD: Final = 2.0
"""Seconds that a signal may be on its way to the watchers."""
_STARTING_OVER: Final = 20.0
"""Seconds in which watchers that have forgotten the cluster have not recalled all of it yet."""


class Signaled(NamedTuple):
    """`at` by the clock of whoever said it, `stored_at` in truth."""

    at: float
    stored_at: float
    gone: bool


class Truth:
    """Of one attempt of a run. `evident`: its topology is gone, on evidence that somebody may have; `evident_until`: or
    was so until then. `known_since`: it is gone, on evidence that Exeunt must have, since then; None while it is not.
    """

    def __init__(self, attempt: int, started_at: float) -> None:
        self.attempt = attempt
        self.started_at = self.created_at = started_at
        self.connected = self.established = False
        self.had_steps = False
        self.evident = False
        self.evident_until = float("-inf")
        self.known_since: float | None = None
        self.timeouts: set[float] = set()
        """Those that its Story had until the cancel was published."""
        self.later_timeouts: set[float] = set()
        """Known weakness: those since then, by which a terminator without the bus goes that has not heard of the cancel
        (ADR 25).
        """
        self.had_no_story = False
        self.later_had_no_story = False
        """Known weakness: the same, of an opt-out that the Story had (ADR 25)."""
        self.is_signaled = False
        self.taken_back_at = float("inf")
        """When a signal that its topology is gone was taken back first."""
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
        self._restored_at = float("-inf")
        self._signals: defaultdict[str, list[Signaled]] = defaultdict(list)
        self._hidden: set[Signaled] = set()
        """Known weakness: what poison hides on its subject from those who read the last message there."""
        self._unowned: set[str] = set()
        """Runs that had a StepRun which nobody owns: to a watcher that is behind, the next one of the name had it."""
        api.on_change.append(self._see)
        api.on_restore.append(self._restored)
        nats.on_stored.append(self._stored)
        nats.on_wipe.append(self._wiped)

    def of(self, document: Document) -> Truth:
        uid, attempt = document["metadata"]["uid"], document["metadata"].get("attempt", 0)
        truth = self.of_uid.get(uid)
        if truth is None or truth.attempt != attempt:
            before, truth = truth, Truth(attempt, self._clock.now)
            truth.created_at = before.created_at if before else self._clock.now
            if before is not None:  # known weakness: what a watcher still sees counts for the next attempt
                truth.established, truth.had_steps = before.established, before.had_steps
            self.of_uid[uid] = truth
        return truth

    def _see(self, change: Change) -> None:
        found = change.object
        if change.kind == STORY_RUN:
            self._look(found.metadata.name)
        elif isinstance(found, StepRun):
            if not found.metadata.owner_references:
                self._unowned.add(found.spec.story_run_ref.name)
            self._look(found.spec.story_run_ref.name)
        elif isinstance(found, TransportBinding) and (ref := found.spec.story_run_ref) and ref.name:
            self._look(ref.name)
        elif change.kind == STORY:
            for name in self._api.documents:
                self._look(name)

    def _restored(self, _: float) -> None:
        self._restored_at = self._clock.now
        stored = [subject.split(".") for subject in self._nats.streams[RUNS].last]
        established = {subject[4] for subject in stored if subject[-1] == EventType.TOPOLOGY_ESTABLISHED}
        for uid, truth in self.of_uid.items():
            truth.is_fixed = False
            truth.established_published &= uid in established
        self._look_at_all()

    def _wiped(self) -> None:
        """What the stream knew of topologies that are gone is lost, where watchers have just started over."""
        for truth in self.of_uid.values() if self._clock.now - self._restored_at < _STARTING_OVER else ():
            truth.established_published &= truth.connected
        self._look_at_all()

    def _look_at_all(self) -> None:
        for name in self._api.documents:
            self._look(name)

    def _look(self, name: str) -> None:
        document = self._api.documents.get(name)
        if document is None:
            return
        truth, now = self.of(document), self._clock.now
        has_no_story = document["spec"]["storyRef"]["name"] not in self._api.objects[STORY]
        if not truth.is_fixed or self._nats.wiped_at:  # without RUNS nobody knows what it was at the cancel
            truth.timeouts.add(self._timeout(document))
            truth.had_no_story |= has_no_story
        truth.later_had_no_story |= has_no_story
        truth.later_timeouts.add(self._timeout(document))
        uid = document["metadata"]["uid"]
        connected = any((ref := each.spec.story_run_ref) and ref.uid == uid for each in self._api.bindings(name))
        live = any(is_live(each, uid) for each in self._api.step_runs(name))
        truth.connected = connected
        truth.established |= connected
        truth.had_steps |= live or name in self._unowned
        by_hub = hub_says_gone(document)
        signaled = self._is_signaled(truth, document)
        if truth.is_signaled and not signaled:
            truth.taken_back_at = min(truth.taken_back_at, now)
        truth.is_signaled = signaled
        evident = (
            by_hub
            or (truth.established and not connected)
            or bool(document["spec"].get("cancelRequested") and truth.had_steps and not live)
            or signaled
        )
        if evident or truth.evident:
            truth.evident_until = now
        truth.evident = evident
        known = by_hub or self._is_known(truth, document, connected=connected)
        truth.known_since = (now if truth.known_since is None else truth.known_since) if known else None

    def _is_known(self, truth: Truth, document: Document, *, connected: bool) -> bool:
        sure = self._sure_signals(truth, document)
        # Known weakness: a signal that is lost with NATS before a watcher has heard it is not known to anybody, and one
        # that is hidden not to a terminator whose event stands on something else.
        wiped_at, hidden = self._nats.wiped_at, self._hidden
        lost = [each for each in sure if each in hidden or any(0 <= at - each.stored_at < _UNHEARD for at in wiped_at)]
        if _newest([each for each in sure if each not in lost]):
            return True
        return truth.established_published and not connected and not truth.terminated_unestablished

    def _is_signaled(self, truth: Truth, document: Document) -> bool:
        """By signals that are sure to be about this attempt, or by those that may be."""
        by_name, by_token = map(self._unhidden, self._named(document))
        started_at = truth.started_at - 5 if truth.attempt > 1 else float("-inf")
        perhaps = [each for each in (*by_name, *by_token) if each.stored_at >= max(started_at, truth.created_at)]
        sure = self._sure_signals(truth, document)
        return _newest(sure) or _newest(self._unhidden(sure)) or _newest(perhaps)

    def _unhidden(self, said: Iterable[Signaled]) -> list[Signaled]:
        """Without those of "up again" that nobody reads any more."""
        return [each for each in said if each.gone or each not in self._hidden]

    def _sure_signals(self, truth: Truth, document: Document) -> list[Signaled]:
        by_name, by_token = self._named(document)
        started = (document.get("status") or {}).get("startedAt")
        since = seconds(parse_instant(started)) + 1 if started else float("inf")
        late = [each for each in (*by_name, *by_token) if each.at >= since]
        return [*late, *(each for each in by_token if each.at < since)] if truth.attempt <= 1 else late

    def _named(self, document: Document) -> tuple[list[Signaled], list[Signaled]]:
        """The signals that name the run, or its trigger token."""
        token = document["metadata"]["annotations"].get(bobrapet.TRIGGER_TOKEN)
        by_name = self._signals.get(f"exeunt.signals.voice.{document['metadata']['name']}", [])
        return by_name, self._signals.get(f"exeunt.signals._trigger_token.{token}", [])

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
            if event_type == EventType.CANCEL_REQUESTED:
                truth.is_fixed = True
            elif event_type == EventType.TOPOLOGY_ESTABLISHED:
                truth.established_published = True
            elif event_type == EventType.TOPOLOGY_TERMINATED and b'"established":true' not in message.payload:
                truth.terminated_unestablished = True
            self._look(name)

    def _signaled(self, message: StoredMessage) -> None:
        if message.headers.get("ce-type") not in (TOPOLOGY_GONE, TOPOLOGY_UP):
            self._hidden.update(self._signals[message.subject])
        else:
            gone = message.headers["ce-type"] == TOPOLOGY_GONE
            at = seconds(parse_instant(message.headers["ce-time"]))
            self._signals[message.subject].append(Signaled(at, self._clock.now, gone))
        for name in self._api.documents:
            self._look(name)


def _newest(signals: list[Signaled]) -> bool:
    return max(signals).gone if signals else False


def is_live(step: StepRun, uid: str) -> bool:
    owners = [owner.uid for owner in step.metadata.owner_references]
    phase = step.status.phase if step.status else None
    return (not owners or uid in owners) and not step.metadata.deletion_timestamp and not bobrapet.is_terminal(phase)
