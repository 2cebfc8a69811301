"""The fields of bobrapet's kinds that Exeunt uses, as msgspec structs; everything else is skipped. Pure.

Required here is only what the kube-apiserver guarantees on every stored object. Where each kind lives,
and how its bytes become these structs (a JSON null reads as an absent field), is told in `resources`.
Times stay RFC 3339 text as read: the pure cores parse them. Contract 1 (kinds), 2.2 (status of a
canceled run), 3 (relations), 4 (timeouts).
"""

from typing import Any

import msgspec


class _Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Settings shared by all models; gc=False is safe because decoded JSON has no reference cycles."""


def _own(model: _Model, field: str) -> None:
    """Replace a Raw field by a copy: as decoded it would keep the whole response buffer alive."""
    raw: msgspec.Raw = getattr(model, field)
    msgspec.structs.force_setattr(model, field, raw.copy())


class OwnerReference(_Model, frozen=True, kw_only=True):
    kind: str
    name: str
    uid: str


class ObjectMeta(_Model, frozen=True, kw_only=True):
    """Identity and history of an object.

    `resource_version` is compared by `list_watch` alone (ADR 22). `managed_fields` is the JSON array as read
    (empty when there is none): it tells who set `spec.cancelRequested` and when, as long as cancel_observed_at does
    not (contract §4.4).
    """

    name: str
    namespace: str = ""
    uid: str
    resource_version: str
    generation: int = 0
    deletion_timestamp: str | None = None
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    managed_fields: msgspec.Raw = msgspec.Raw()

    def __post_init__(self) -> None:
        _own(self, "managed_fields")

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name): unique among the living objects of a kind; the uid is unique for ever."""
        return self.namespace, self.name


class KubeObject(_Model, frozen=True, kw_only=True):
    """What every kind below has."""

    metadata: ObjectMeta


class Condition(_Model, frozen=True, kw_only=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class TraceInfo(_Model, frozen=True, kw_only=True):
    """The OpenTelemetry context that the operator recorded: lower-case hex, 32 and 16 digits (contract §6)."""

    trace_id: str = ""
    span_id: str = ""
    sampled: bool = False


class StoryRef(_Model, frozen=True, kw_only=True):
    """A Story by name; in the run's own namespace when `namespace` is None."""

    name: str
    namespace: str | None = None


class StoryRunSpec(_Model, frozen=True, kw_only=True):
    story_ref: StoryRef
    cancel_requested: bool = False


class StoryRunStatus(_Model, frozen=True, kw_only=True):
    """A run's status; `phase` is None before the operator has started it, never the empty string.

    `conditions` are the very bytes as read, because what the conditional patch tests is taken from them; they are
    `null` when absent, which is also what its test must say then (contract §10).
    """

    phase: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    message: str | None = None
    trace: TraceInfo | None = None
    conditions: msgspec.Raw = msgspec.Raw(b"null")

    def __post_init__(self) -> None:
        _own(self, "conditions")


class StoryRun(KubeObject, frozen=True, kw_only=True):
    spec: StoryRunSpec
    status: StoryRunStatus | None = None


class StoryRunRef(_Model, frozen=True, kw_only=True):
    """A StoryRun by name, in the namespace of the object that refers to it."""

    name: str


class StepRunSpec(_Model, frozen=True, kw_only=True):
    story_run_ref: StoryRunRef


class StepRunStatus(_Model, frozen=True, kw_only=True):
    phase: str | None = None


class StepRun(KubeObject, frozen=True, kw_only=True):
    spec: StepRunSpec
    status: StepRunStatus | None = None


class BindingRunRef(_Model, frozen=True, kw_only=True):
    """The run a binding belongs to; only a matching `uid` makes it evidence for that run (contract §3.6)."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None


class BindingSpec(_Model, frozen=True, kw_only=True):
    """`engram_name` is the name of the StepRun that owns the binding (contract §3.2)."""

    story_run_ref: BindingRunRef | None = None
    engram_name: str = ""


class BindingStatus(_Model, frozen=True, kw_only=True):
    conditions: list[Condition] = []


class TransportBinding(KubeObject, frozen=True, kw_only=True):
    spec: BindingSpec
    status: BindingStatus | None = None


class StoryTimeouts(_Model, frozen=True, kw_only=True):
    """`graceful_shutdown_timeout` is as written, of any JSON type: the timeout rules judge it."""

    graceful_shutdown_timeout: Any = None


class StoryPolicy(_Model, frozen=True, kw_only=True):
    timeouts: StoryTimeouts | None = None


class StorySpec(_Model, frozen=True, kw_only=True):
    """`pattern` is `batch` or `realtime`; Exeunt never touches runs of a batch Story (contract §4.1).

    `transports` are as written, of any shape: only `drain` looks at them, for reporting.
    """

    pattern: str = "batch"
    policy: StoryPolicy | None = None
    transports: Any = None


class Story(KubeObject, frozen=True, kw_only=True):
    spec: StorySpec = StorySpec()
