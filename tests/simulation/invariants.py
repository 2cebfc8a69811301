"""What must never happen, and what must have happened in the end. What is broken is an AssertionError at once."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from exeunt.clock import parse_instant
from exeunt.events.event_types import STOPPING_EVENT_TYPES, EventType, Outcome, Verdict
from exeunt.events.subjects import DEADLINES, LIVEKIT, RUNS, SIGNALS
from exeunt.run import bobrapet
from exeunt.run.models import StepRun
from exeunt.run.snapshot import RunState
from exeunt_watcher.commands import Publish
from simulation.apiserver import STORY, ApiServer, Basis, Document, is_terminal
from simulation.clockwork import Clockwork, seconds
from simulation.jetstream import JetStream, StoredMessage
from simulation.livekit import LiveKit
from simulation.operator import Operator
from simulation.opt_outs import OptOuts
from simulation.people import STORIES
from simulation.terminator import Terminator
from simulation.truth import Truths
from simulation.watcher import Watcher

FENCE_WAIT: Final = 15.0
PROMPT: Final = 75.0
"""Seconds within which a canceled run whose topology is gone ends when nothing fails: the longest back-off, sweeps."""
PATIENCE: Final = 90.0
"""The same after its deadline: overdue, a sweep, and the longest back-off."""
_LONGEST_LAG: Final = 20.0
"""Seconds that a watcher may be behind."""
_ON_ITS_WAY: Final = 20.0
"""Seconds that a request may be on its way."""

_AT_WORK: Final = 5.0
"""Seconds that a terminator may be at work on an event that is no more."""

_OUTCOME: Final = msgspec.json.Decoder(Outcome)


class Invariants:
    """`most_ahead`: seconds that the clock of a process was ahead of the truth, at the most."""

    def __init__(self, clock: Clockwork, api: ApiServer, nats: JetStream, operator: Operator, livekit: LiveKit) -> None:
        self.clock = clock
        self.api = api
        self.nats = nats
        self.operator = operator
        self.livekit = livekit
        self.most_ahead = 0.0
        self.truths = Truths(clock, api, nats)
        self.opt_outs = OptOuts(clock, api)
        self.restored_at: list[float] = []
        self._ended_at: dict[tuple[str, int, str], float] = {}
        self._undone: set[str] = set()
        """By uid: runs whose end, by whomever, is undone: they end at their deadline (ADR 16)."""
        self._written: Counter[tuple[str, str, str]] = Counter()
        """By uid, finishedAt and process: how often, which is more than once only where etcd was restored."""
        self._claims: defaultdict[tuple[str, str, str], set[tuple[str, int]]] = defaultdict(set)
        """By the same: the outcomes that say so, each by its subject and the delivery that it answers."""
        api.on_end.append(self._ended)
        api.on_delete.append(self._deleted)
        api.on_restore.append(self._restored)
        nats.on_stored.append(self._stored)

    # What must never happen.

    def _ended(self, before: Document, after: Document, by: str, basis: Basis) -> None:
        annotations, uid, now = before["metadata"]["annotations"], before["metadata"]["uid"], self.clock.now
        story, looked_at = before["spec"]["storyRef"]["name"], basis.looked_at or now
        truth, stood_in = self.truths.of(before), self.clock.happened["without the bus"]
        had_no_story = truth.had_no_story or (stood_in and truth.later_had_no_story)
        self.clock.note("kube-apiserver", f"{before['metadata']['name']} is ended")
        assert not is_terminal(before), "a run ends once"
        assert before["spec"].get("cancelRequested"), "a run that is not canceled is not ended"
        assert annotations.get(bobrapet.ENABLED) != "false", "a run that is opted out is not ended"
        is_unknown = basis.story_version is None and not had_no_story
        is_left = self.opt_outs.version_is_out(basis.story_version)
        is_left |= is_unknown and self.opt_outs.was_out(uid, truth.started_at)
        assert not is_left, "a run whose Story is opted out is not ended"
        assert STORIES[story][0] == "realtime", "a run that is not realtime is not ended"
        kinds, had = [
            [each["type"] for each in (of.get("status") or {}).get("conditions") or []] for of in (after, before)
        ]
        assert len({*kinds, *had}) == len(kinds), "no condition is lost or doubled"
        cancel_observed_at = annotations.get(bobrapet.CANCEL_OBSERVED_AT)
        key = uid, before["metadata"].get("attempt", 0), cancel_observed_at or ""
        self._ended_at[key] = now
        self._written[uid, after["status"]["finishedAt"], by] += 1
        canceled_at = max(self.api.canceled_at.get(uid, now), truth.started_at if key[1] > 1 else 0.0)
        waited = now + self.most_ahead - canceled_at
        assert cancel_observed_at or waited >= FENCE_WAIT, "no run is ended before its cancel is observed"
        observed = seconds(parse_instant(cancel_observed_at)) if cancel_observed_at else canceled_at
        timeouts = truth.timeouts | truth.later_timeouts if stood_in else truth.timeouts
        due_at = observed + min(timeouts) - self.most_ahead
        # Known weakness: an opt-out of the Story that comes after it was read is not seen by the write.
        read_at = due_at if basis.read_at is None and basis.by_deadline else basis.read_at
        is_overlooked = read_at is not None and self.opt_outs.story_out_since(story) < read_at
        assert not is_overlooked, "a Story that is opted out in the middle of a stop is noticed"
        was_gone = truth.evident or truth.evident_until >= looked_at
        # Known weakness: what takes a signal back is lost with NATS while the event that stands on it is at work, or
        # before those have heard it who are cut off just then.
        lost = any(
            truth.taken_back_at <= at and (now - at < _ON_ITS_WAY or at in self.nats.wiped_unheard)
            for at in self.nats.wiped_at
        )
        undone = any(at >= looked_at for at in self.restored_at)
        assert now >= due_at or was_gone or lost or undone, "no run is ended early"

    def _deleted(self, step: StepRun, run: RunState) -> None:
        document = self.api.documents.get(run.name)
        assert document is not None, "StepRuns of a run that is no more are left alone"
        if any(self.clock.now - at < _ON_ITS_WAY for at in self.restored_at):
            return  # what was written has not happened any more when its StepRuns are deleted
        now = document["metadata"]["uid"], document["metadata"].get("attempt", 0)
        uid, attempt = self.operator.attempt_of.get(step.metadata.uid, now)
        assert uid == run.uid, "no StepRun of another run is deleted"
        if (uid, attempt) == now:
            same = document["metadata"]["annotations"].get(bobrapet.CANCEL_OBSERVED_AT) == run.cancel_observed_at
            assert same or is_terminal(document), "no StepRun of a later attempt is deleted"
            assert is_terminal(document), "StepRuns go after the status was written"

    def _restored(self, then: float) -> None:
        """What was done since then has not happened."""
        self.restored_at.append(self.clock.now)
        for key, at in list(self._ended_at.items()):
            if at > then:
                del self._ended_at[key]
        self._undone |= self.api.undone

    def _stored(self, stream: str, message: StoredMessage) -> None:
        if stream == RUNS and ".outcome." in message.subject:
            outcome = _OUTCOME.decode(message.payload)
            if outcome.verdict is Verdict.FINALIZE and not outcome.dry_run:
                uid = message.subject.split(".")[4]
                own = (uid, outcome.finished_at or "", message.by)
                self._claims[own].add((message.subject, outcome.attempt))
                assert any(own[:2] == each[:2] for each in self._written), "what is recorded as written was written"
                claims = len(self._claims[own])
                assert claims <= self._written[own], "nobody claims what somebody else has written"

    def published(self, told: Publish, shown: str | None) -> None:
        """By a watcher, to which its Story was shown at that version last."""
        known = told.snapshot.story.resource_version
        is_current = None in (known, shown) or known == shown
        assert is_current or told.event_type not in STOPPING_EVENT_TYPES, (
            "what is published has the Story as it was shown"
        )

    def said(self, sid: str, since: float, *, gone: bool) -> None:
        """The bridge publishes that a call is over, or not; it has looked since then."""
        assert self.livekit.was(sid, since, over=gone), "the bridge says what it has seen"

    # What must have happened in the end.

    def stops(self) -> list[str]:
        """The runs that Exeunt has to end."""
        return [
            name
            for name, document in self.api.documents.items()
            if document["spec"].get("cancelRequested")
            and not is_terminal(document)
            and not document["metadata"].get("deletionTimestamp")
            and not bobrapet.is_redriving(document["metadata"]["annotations"])
            and not self.opt_outs.is_out(document)
            and STORIES[document["spec"]["storyRef"]["name"]][0] == "realtime"
        ]

    def check_stops(self, calm_since: float, set_aside: Collection[str], held_back: Collection[str]) -> None:
        """Every stop ends in time, once nothing fails any more; one whose event was `set_aside`, or that was opted out
        for a while since its cancel, at its deadline.
        """
        now = self.clock.now
        for name in self.stops():
            document = self.api.documents[name]
            uid, truth = document["metadata"]["uid"], self.truths.of(document)
            cancel_observed_at = document["metadata"]["annotations"].get(bobrapet.CANCEL_OBSERVED_AT)
            canceled_at = self.api.canceled_at.get(uid, 0.0) + FENCE_WAIT
            observed = seconds(parse_instant(cancel_observed_at)) if cancel_observed_at else canceled_at
            deadline = observed + max(truth.timeouts | {20.0})
            late = max(0.0, calm_since - deadline)
            assert uid in held_back or now <= max(calm_since, deadline) + late + PATIENCE, f"every stop ends: {name}"
            # While NATS is dead nobody knows of signals, or what was published before: what is seen does for deadlines.
            if self.nats.dead:
                continue
            if truth.known_since is None or uid in {*set_aside, *self._undone}:
                continue
            # What is said of a stop while it is opted out is said once.
            if not self.opt_outs.was_out(uid, observed - _LONGEST_LAG):
                begun = max(calm_since, truth.known_since, observed)
                assert now <= begun + PROMPT, f"topology gone and canceled is enough: {name}"

    def leaks(self, watchers: Iterable[Watcher], terminators: Iterable[Terminator]) -> str | None:
        """What is left that should not be, if anything."""
        for consumer in self.nats.consumers.values():
            if consumer.stream != LIVEKIT and consumer.unsettled:
                return f"a message is never settled: {consumer.name} {consumer.unsettled}"
        if any(terminator.unpublished for terminator in terminators):
            return "what was done without the bus is not published"
        unfinished = {name for name, document in self.api.documents.items() if not is_terminal(document)}
        for watcher in watchers:
            known = {name for _, name in watcher.machine._projection.known_runs()}
            if not known <= unfinished:
                return f"a watcher knows runs that are no more: {known - unfinished}"
            if watcher.machine.recalls((None,)) or watcher.machine._reading:
                return "a watcher waits for ever"
            if lost := self._ends_lost(watcher):
                return f"what a watcher saw end is not in the history: {lost}"
        for subject, sequence in self.nats.streams[DEADLINES].last.items():
            message = self.nats.streams[DEADLINES].messages[sequence]
            due = message.headers.get("nats-schedule")
            if due is None or seconds(parse_instant(due.removeprefix("@at "))) + 5 < self.clock.now + self.nats.offset:
                return f"a schedule is left: {subject}"
        lost = {uid for terminator in terminators for uid in terminator.set_aside}
        for name, document in self.api.documents.items():
            if left := self._left_over(name, document, lost):
                return f"nothing is left of a run that is ended: {left}"
        return self._wrong_signal()

    def _ends_lost(self, watcher: Watcher) -> set[str]:
        """Where it has known what is realtime all along: a Story that is deleted does not tell."""
        if self.nats.wiped_at or any(change.gone for change in self.api.changes[STORY]):
            return set()
        return watcher.ends.subjects - self.nats.streams[RUNS].last.keys() - self.nats.refused

    def _left_over(self, name: str, document: Document, lost: set[str]) -> list[str]:
        metadata = document["metadata"]
        key = (
            metadata["uid"],
            metadata.get("attempt", 0),
            metadata["annotations"].get(bobrapet.CANCEL_OBSERVED_AT) or "",
        )
        ended_at = self._ended_at.get(key)
        excused = metadata["uid"] in lost or (ended_at is not None and self.opt_outs.was_out(metadata["uid"], ended_at))
        # Known weakness: what the stream refuses is not said again.
        unsaid = {each for each in self.nats.refused if each.endswith(EventType.STEP_RUNS_LEFT)}
        excused |= metadata["uid"] in {each.split(".")[4] for each in unsaid - self.nats.streams[RUNS].last.keys()}
        disasters = (*self.restored_at, *self.nats.wiped_at)
        if ended_at is None or not is_terminal(document) or excused:
            return []
        if any(-_AT_WORK <= at - ended_at < _ON_ITS_WAY for at in disasters):
            return []  # what a lost volume makes us forget is left to bobrapet
        streaming = {binding.spec.engram_name for binding in self.api.bindings(name)}
        return [
            each.metadata.name
            for each in self.api.step_runs(name)
            if each.metadata.name in streaming or not bobrapet.is_terminal(each.status.phase if each.status else None)
        ]

    def _wrong_signal(self) -> str | None:
        looks, signals = self.nats.streams[LIVEKIT], self.nats.streams[SIGNALS]
        sids = {room.sid for room in self.livekit.rooms.values()}
        for sequence in looks.last.values():
            if (sid := msgspec.json.decode(looks.messages[sequence].payload)["sid"]) not in sids:
                return f"a room that is no more is looked at for ever: {sid}"
        for sid in sids:
            last = signals.last.get(f"exeunt.signals._trigger_token.{sid}")
            gone = last is not None and signals.messages[last].headers["ce-type"].endswith("gone.v1")
            if gone is not self.livekit.is_over(sid):
                return f"what is known of {sid} is wrong: {gone}"
        return None
