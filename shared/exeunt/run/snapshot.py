"""One run as it was read at one moment, with all that a decision about it needs. Pure.

Events carry the snapshot they were decided from (ADR 2), so the terminator needs no read on the fast path, and a replay
can decide again. Kubernetes objects and the time come in as values.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct, field
from msgspec.structs import replace

from exeunt.clock import format_instant, parse_duration, parse_instant
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation, attempt_of, cancel_observed_at_of, token_of
from exeunt.run.drain import drain_of
from exeunt.run.equal import same
from exeunt.run.managed_fields import cancel_written_by, ended_by, tells_something
from exeunt.run.models import Condition, ObjectMeta, OwnerReference, Story, StoryRun, TraceInfo
from exeunt.run.opt_out import is_enabled, unclear
from exeunt.run.shutdown_timeout import ShutdownTimeout, resolve

LONGEST_TRIGGER_TOKEN: Final = 256
"""Characters of a trigger token that a signal can name. NATS ends a connection over a subject that is much longer."""

EvidenceKind = Literal["hub-condition", "bindings-gone", "step-runs-done", "heartbeats-stale", "signal"]

_ALWAYS_THE_SAME: Final = {
    "bindings-gone": "no TransportBinding is left after at least one was seen",
    "step-runs-done": "no live StepRun is left after at least one was seen",
}


class Evidence(Struct, frozen=True, omit_defaults=True, gc=False):
    """Why the topology counts as gone. `rank` 1 is the strongest (contract §3.5). `detail` is what only this one says,
    such as the words of the hub's condition.

    A signal also has `since`, when it was true (RFC 3339), and the trace context of whoever published it.
    """

    kind: EvidenceKind
    rank: int
    detail: str = ""
    since: str | None = None
    traceparent: str | None = None

    def __str__(self) -> str:
        """For people."""
        detail = self.detail or _ALWAYS_THE_SAME.get(self.kind)
        return f"{self.kind}: {detail}" if detail else self.kind


class Topology(Struct, frozen=True, omit_defaults=True, gc=False):
    """The run's live streaming connections.

    `established`: a live TransportBinding was seen in this attempt. `step_runs_seen`: a live StepRun was. `gone`: the
    strongest evidence that all of it has ended.
    """

    established: bool = False
    step_runs_seen: bool = False
    gone: Evidence | None = None

    def with_memory(self, remembered: "Topology") -> "Topology":
        """The same, with what was seen in the same attempt before."""
        return Topology(
            established=self.established or remembered.established,
            step_runs_seen=self.step_runs_seen or remembered.step_runs_seen,
            gone=self.gone,
        )


class StepRunRef(Struct, frozen=True, gc=False):
    """A StepRun that has to go when its run is finalized."""

    name: str
    uid: str


NO_CONDITIONS: Final = Raw(b"null")
"""Of a run that has none, or of one of which they are not told."""


class RunState(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the StoryRun object itself says."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    attempt: str = field(name="life")
    phase: str | None = None
    has_status: bool = True
    message: str | None = None
    ended_by_exeunt: bool = False
    """The phase was last written by a terminator (`managed_fields`)."""
    started_at: str | None = None
    finished_at: str | None = None
    """Both exactly as read. Kubernetes takes times that nobody can read: whoever uses one asks `readable_instant`."""
    conditions: Raw = NO_CONDITIONS
    """`status.conditions` exactly as read, because finalizing tests it; `null` when absent, or not told (`codec`)."""
    deleting: bool = False
    redriving: bool = False
    enabled: bool = True
    enabled_unclear: str | None = None
    """What the annotation `enabled` says where it is neither yes nor no (`opt_out`); that counts as absent."""
    enabled_as_read: str | None = None
    """The annotation exactly as read, because finalizing tests it; None when absent."""
    cancel_requested: bool = False
    cancel_observed_at: str | None = field(default=None, name="fence")
    canceled_at: str | None = None
    """RFC 3339: cancel_observed_at, else when `cancelRequested` was written, else when that was first seen."""
    observation_overdue: bool = field(default=False, name="fence_overdue")
    """No cancel_observed_at, although the cancel is older than the time granted for it (contract §2.6, "why
    cancel_observed_at").
    """
    trace: TraceInfo | None = None
    trigger_token: str | None = None

    @property
    def cancellation(self) -> Cancellation:
        return Cancellation(self.namespace, self.name, self.uid, token_of(self.cancel_observed_at, self.attempt))

    @property
    def attempt_key(self) -> Cancellation:
        """What happens before bobrapet has observed a cancel belongs to the run's attempt."""
        return Cancellation(self.namespace, self.name, self.uid, self.attempt)

    @property
    def terminal(self) -> bool:
        return bobrapet.is_terminal(self.phase)


class StoryState(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the Story says, at the resourceVersion that was read; that is None when no Story was found.

    An event does not tell its namespace where that is the run's, as a StoryRun need not.
    """

    namespace: str = ""
    name: str
    resource_version: str | None = None
    realtime: bool = False
    enabled: bool = True
    enabled_unclear: str | None = None
    """As on the run."""
    drain: float | None = None
    """For reporting only (`drain`): the seconds that bobrapet would have waited, as far as the Story says."""


class Snapshot(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A run, its Story, its topology and its shutdown timeout, as read at one moment."""

    run: RunState
    story: StoryState
    shutdown: ShutdownTimeout
    topology: Topology = Topology()
    streams: bool = False
    """A TransportBinding of this run was seen: it streams, whatever became of its Story (contract §4.1)."""
    step_runs: tuple[StepRunRef, ...] | None = None
    """The StepRuns to delete; None when whoever made this snapshot does not know them."""

    @property
    def realtime(self) -> bool:
        """The Story says so, or the Story is missing and the run has been seen streaming."""
        return self.story.realtime or (self.story.resource_version is None and self.streams)

    @property
    def deadline(self) -> datetime | None:
        """The shutdown deadline, absolute; None while the run is not canceled."""
        if self.run.canceled_at is None:
            return None
        return parse_instant(self.run.canceled_at) + self.shutdown.duration

    def check(self) -> None:
        """Raise ValueError when a value in it cannot be read. For snapshots that were decoded: anybody may have sent
        them, and a decision must not stumble over one. What Kubernetes itself takes unread is no reason.
        """
        run = self.run
        for instant in (run.cancel_observed_at, run.canceled_at):
            if instant is not None:
                parse_instant(instant)
        parse_duration(self.shutdown.timeout)
        # Whole: a decoder of Condition skips what it does not know, and would let bytes pass that are no UTF-8 there.
        msgspec.convert(msgspec.json.decode(run.conditions), list[Condition] | None)


def read_run(run: StoryRun, *, first_seen: datetime, now: datetime, fence_wait: timedelta) -> RunState:
    """Project a StoryRun. `first_seen`, when it was first seen canceled, serves when nothing better is known."""
    meta, status = run.metadata, run.status
    cancel_observed_at = cancel_observed_at_of(meta.annotations)
    canceled_at = cancel_observed_at
    if run.spec.cancel_requested and cancel_observed_at is None:
        canceled_at = format_instant(min(first_seen, cancel_written_by(meta.managed_fields, first_seen)))
    return RunState(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        attempt=attempt_of(meta.annotations),
        phase=status.phase if status else None,
        has_status=status is not None,
        message=status.message if status else None,
        ended_by_exeunt=ended_by(meta.managed_fields) is not None,
        started_at=status.started_at if status else None,
        finished_at=status.finished_at if status else None,
        conditions=status.conditions if status else Raw(b"null"),
        deleting=meta.deletion_timestamp is not None,
        redriving=bobrapet.is_redriving(meta.annotations),
        enabled=is_enabled(meta.annotations),
        enabled_unclear=unclear(meta.annotations),
        enabled_as_read=meta.annotations.get(bobrapet.ENABLED),
        cancel_requested=run.spec.cancel_requested,
        cancel_observed_at=cancel_observed_at if run.spec.cancel_requested else None,
        canceled_at=canceled_at if run.spec.cancel_requested else None,
        observation_overdue=run.spec.cancel_requested
        and cancel_observed_at is None
        and canceled_at is not None
        and now >= parse_instant(canceled_at) + fence_wait,
        trace=status.trace if status else None,
        trigger_token=_trigger_token(meta.annotations),
    )


def _trigger_token(annotations: Mapping[str, str]) -> str | None:
    """None for one that no signal can name, too: whoever may make a run writes what they like."""
    token = annotations.get(bobrapet.TRIGGER_TOKEN)
    return token if token and len(token) <= LONGEST_TRIGGER_TOKEN else None


def essence(run: StoryRun) -> StoryRun:
    """The run without what nobody here looks at: for whoever keeps thousands of them."""
    meta = run.metadata
    return StoryRun(
        metadata=ObjectMeta(
            name=meta.name,
            namespace=same(meta.namespace),
            uid=meta.uid,
            resource_version=meta.resource_version,
            generation=meta.generation,
            deletion_timestamp=meta.deletion_timestamp,
            annotations={name: value for name, value in meta.annotations.items() if name in _ANNOTATIONS},
            owner_references=_NO_OWNERS,
            managed_fields=meta.managed_fields if tells_something(meta.managed_fields) else _NOT_WRITTEN,
        ),
        spec=same(run.spec),
        status=run.status and replace(run.status, phase=same(run.status.phase)),
    )


_ANNOTATIONS: Final = {
    bobrapet.CANCEL_OBSERVED_AT,
    *(name for pair in bobrapet.REDRIVE for name in pair),
    bobrapet.TRIGGER_TOKEN,
    bobrapet.SHUTDOWN_TIMEOUT,
    bobrapet.ENABLED,
}
_NO_OWNERS: Final[list[OwnerReference]] = []
_NOT_WRITTEN: Final = Raw()


def story_key(run: StoryRun) -> tuple[str, str]:
    """Namespace and name of the run's Story; the namespace defaults to the run's own (contract §4.1)."""
    return run.spec.story_ref.namespace or run.metadata.namespace, run.spec.story_ref.name


def read_story(run: StoryRun, story: Story | None) -> StoryState:
    """Project the run's Story, or its absence."""
    namespace, name = story_key(run)
    if story is None:
        return StoryState(namespace=namespace, name=name)
    return StoryState(
        namespace=namespace,
        name=name,
        resource_version=story.metadata.resource_version,
        realtime=story.spec.pattern == "realtime",
        enabled=is_enabled(story.metadata.annotations),
        enabled_unclear=unclear(story.metadata.annotations),
        drain=drain_of(story.spec.transports),
    )


def resolve_shutdown(run: StoryRun, story: Story | None, default: timedelta) -> ShutdownTimeout:
    """Resolve the shutdown timeout from the objects as they are now."""
    return resolve(
        run.metadata.annotations,
        story.metadata.annotations if story else {},
        _policy_timeout(story),
        default,
    )


def _policy_timeout(story: Story | None) -> object:
    if story is None or story.spec.policy is None or story.spec.policy.timeouts is None:
        return None
    return story.spec.policy.timeouts.graceful_shutdown_timeout
