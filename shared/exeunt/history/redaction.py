"""Histories that may leave the house: names and free text are replaced, what decisions stand on stays. Pure.

Allowed is what is listed here: fields that this version does not know, and records that it does not understand, are
left out. The same name gets the same replacement everywhere in a file, so a redacted history can
be read and decided again. Uids, times, phases and rules stay.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from exeunt.errors import PoisonEvent
from exeunt.events import cloudevents
from exeunt.events.event_types import Outcome, Verdict
from exeunt.events.subjects import event_subject, outcome_subject
from exeunt.history.event import Event, RunEvent, understand
from exeunt.history.record import Record
from exeunt.run import bobrapet
from exeunt.run.snapshot import Evidence, RunState, Snapshot, StepRunRef

_TEXT = "redacted"


class Names:
    """Replacements, in the order in which names were met: namespace-1, run-1, step-run-2."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def __call__(self, kind: str, name: str) -> str:
        number = 1 + sum(known == kind for known, _ in self._known)
        return self._known.setdefault((kind, name), f"{kind}-{number}")


def redacted(records: Iterable[Record]) -> Iterator[Record]:
    """The records without names and free text; those that cannot be understood are left out."""
    names = Names()
    for record in records:
        try:
            event = understand(record)
        except PoisonEvent:
            continue
        yield _record(event, names)


def _record(event: Event, names: Names) -> Record:
    namespace, name = names("namespace", event.cancellation.namespace), names("run", event.cancellation.name)
    cancellation = replace(event.cancellation, namespace=namespace, name=name)
    attributes = replace(cloudevents.from_headers(event.record.headers), subject=f"{namespace}/{name}")
    if isinstance(event, RunEvent):
        subject, data = (
            event_subject(cancellation, event.event_type),
            msgspec.json.encode(_snapshot(event.snapshot, names)),
        )
    else:
        subject = outcome_subject(cancellation, event.cause)
        data = msgspec.json.encode(_outcome(event.outcome, names))
    return Record(
        sequence=event.record.sequence,
        time=event.record.time,
        subject=subject,
        headers=cloudevents.to_headers(attributes),
        data=data,
    )


def _snapshot(snapshot: Snapshot, names: Names) -> Snapshot:
    story, topology = snapshot.story, snapshot.topology
    return replace(
        snapshot,
        run=_run(snapshot.run, names),
        story=replace(
            story,
            namespace=names("namespace", story.namespace),
            name=names("story", story.name),
            enabled_unclear=_free(story.enabled_unclear),
        ),
        shutdown=replace(
            snapshot.shutdown,
            rejected=tuple(replace(item, value=_TEXT, why=_TEXT) for item in snapshot.shutdown.rejected),
        ),
        topology=replace(topology, gone=_evidence(topology.gone)),
        step_runs=None
        if snapshot.step_runs is None
        else tuple(StepRunRef(names("step-run", ref.name), ref.uid) for ref in snapshot.step_runs),
    )


def _run(run: RunState, names: Names) -> RunState:
    conditions: list[dict[str, Any]] | None = msgspec.json.decode(run.conditions)
    kept = ("type", "status", "reason", "lastTransitionTime", "observedGeneration")
    if conditions is not None:
        conditions = [{key: value for key, value in item.items() if key in kept} for item in conditions]
    return replace(
        run,
        namespace=names("namespace", run.namespace),
        name=names("run", run.name),
        # bobrapet's words for a canceled run are constant, and decide; any other text is free.
        message=run.message if run.message in (None, bobrapet.CANCELED_MESSAGE) else _TEXT,
        enabled_unclear=_free(run.enabled_unclear),
        enabled_as_read=_free(run.enabled_as_read),
        conditions=Raw(msgspec.json.encode(conditions)),
        trace=None,
        trigger_token=run.trigger_token and names("trigger-token", run.trigger_token),
    )


def _outcome(outcome: Outcome, names: Names) -> Outcome:
    # The reason of a refused write is what the kube-apiserver said, with names in it.
    trail = tuple(
        replace(
            step,
            why=_TEXT if step.verdict is Verdict.FAILED else step.why,
            reread=_snapshot(step.reread, names) if step.reread else None,
        )
        for step in outcome.trail
    )
    return replace(
        outcome,
        trail=trail,
        deleted_step_runs=tuple(names("step-run", name) for name in outcome.deleted_step_runs),
        canceled_children=tuple(names("run", name) for name in outcome.canceled_children),
    )


def _free(text: str | None) -> str | None:
    return None if text is None else _TEXT


def _evidence(evidence: Evidence | None) -> Evidence | None:
    return replace(evidence, detail=_TEXT, traceparent=None) if evidence else None
