"""The stream RUNS and a watcher without I/O, for searches by hypothesis.

Plays `exeunt_watcher.watcher` and its `fact_publisher` step for step: the pure modules are the real ones, and what the
stream keeps has been encoded and is decoded by the real codec.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from core.objects import FENCE_WAIT
from exeunt.bus.messages import Message
from exeunt.codec import fact_message, read_fact
from exeunt.episodes import Episode
from exeunt.events import Fact
from exeunt.snapshot import Snapshot, Topology
from exeunt.subjects import fact_subject
from exeunt_watcher.facts import facts_between, standing
from exeunt_watcher.projection import Key, Projection


class Stream:
    """RUNS: a message is kept if the last one on its subject is the one that is expected, mostly none (ADR 3)."""

    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        """The last one on each subject; outcomes are not among them."""
        self.sequences: dict[str, int] = {}
        self.last = 0

    def publish(self, message: Message) -> bool:
        """Whether it was stored."""
        assert message.expected_last_subject_sequence is not None
        stored = self.next(message.subject, after=message.expected_last_subject_sequence)
        if stored:
            self.messages[message.subject] = message
        return stored

    def next(self, subject: str, *, after: int) -> bool:
        """Give the next sequence to a message, if the last on its subject is that one."""
        if self.sequences.get(subject, 0) != after:
            return False
        self.last += 1
        self.sequences[subject] = self.last
        return True

    def said(self, episode: Episode, fact: Fact) -> Snapshot | None:
        """The snapshot that `fact` was said with, if it was."""
        message = self.messages.get(fact_subject(episode, fact))
        return None if message is None else read_fact(message.headers, message.payload).snapshot


class Watcher:
    """One process of the watcher, from its start on. `told` hears every fact before it is published."""

    def __init__(self, stream: Stream, told: Callable[[Fact, Snapshot], None] = lambda *_: None) -> None:
        self.projection = Projection(
            default_timeout=timedelta(seconds=20), fence_wait=FENCE_WAIT, heartbeats_stale_after=None
        )
        self._stream = stream
        self._told = told

    def touched(self, keys: Iterable[Key], now: datetime) -> None:
        for key in keys:
            projected = self.projection.project(key, now)
            if projected is not None:
                for fact in facts_between(*projected):
                    self.say(fact, projected[1], now)

    def deleted(self, key: Key, now: datetime) -> None:
        last = self.projection.run_gone(key)
        if last is not None and last.realtime:
            self.say(Fact.RUN_DELETED, last, now)

    def recall(self, now: datetime) -> None:
        """Every kind has been listed and every signal heard: recall what the stream knows, then say what holds."""
        for key in list(self.projection.known_runs()):
            seen = self.projection.peek(key, now)
            if seen is None or not (seen.realtime or seen.story.resource_version is None):
                continue
            said = self._stream.said(seen.run.life_episode, Fact.TOPOLOGY_ESTABLISHED)
            if seen.topology.established or said is not None:
                self.projection.remember(seen.run.uid, Topology(established=True, step_runs_seen=True))
        self.touched(list(self.projection.known_runs()), now)

    def sweep(self, now: datetime) -> None:
        """Look again at what time alone changes, and offer what holds."""
        self.touched(self.projection.canceled(), now)
        for key in self.projection.canceled():
            snapshot = self.projection.snapshot(key)
            if snapshot is not None:
                for fact in standing(snapshot):
                    self.say(fact, snapshot, now)

    def say(self, fact: Fact, snapshot: Snapshot, now: datetime) -> None:
        self._told(fact, snapshot)
        stored = self._stream.publish(fact_message(fact, snapshot, source="/watcher", now=now, context={}))
        if not stored and fact is Fact.CANCEL_REQUESTED and snapshot.topology.gone is not None:
            winner = self._stream.said(snapshot.run.episode, fact)
            if winner is None or winner.topology.gone is None:
                self.say(Fact.TOPOLOGY_TERMINATED, snapshot, now)
