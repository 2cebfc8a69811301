"""`exeunt plan`: what the mesh would do now about every canceled run, without doing it.

The cluster is read, and what the streams know of it: that a topology was established, which shutdown timeout was
captured at the cancel, and the last signals. Runs that have ended are left out; so are the StepRuns that may be
left of them.
"""

from datetime import UTC, datetime, timedelta

from msgspec import Struct, field

from exeunt.bus.errors import BusError
from exeunt.clock import format_instant, in_words, parse_instant
from exeunt.events.event_types import EventType, Verdict
from exeunt.kube.resources import STORY_RUNS
from exeunt.run.snapshot import Snapshot
from exeunt_cli.check import first_decision
from exeunt_cli.live import list_canceled, services_settings, watched
from exeunt_cli.options import Cluster, Output, Where
from exeunt_cli.output import Columns, console, print_all, print_note
from exeunt_cli.source import connected

_EVERYWHERE, _CURRENT = Where(), Cluster()


class Planned(Struct, frozen=True, kw_only=True):
    """What would be done about one canceled run. Times are RFC 3339; `step_runs` would be deleted with it."""

    namespace: str
    name: str
    uid: str
    cancellation: str = field(name="episode")
    canceled_at: str | None
    deadline: str | None
    shutdown_timeout: str
    shutdown_rule: str
    evidence: str | None
    verdict: Verdict
    rule: str
    why: str
    step_runs: tuple[str, ...]


async def plan(*, where: Where = _EVERYWHERE, cluster: Cluster = _CURRENT, output: Output = "table") -> None:
    """Show what would be done now about every canceled run (KUBECONFIG, and the services' EXEUNT_* settings)."""
    settings = services_settings()
    namespaces = (where.namespace,) if where.namespace else settings.namespaces
    listed = await list_canceled(namespaces, settings, cluster)
    found: list[Snapshot] = []
    if listed[STORY_RUNS]:
        try:
            async with connected(where) as bus:
                found = await watched(listed, bus, settings)
        except BusError as error:
            print_note(f"planned without what NATS knows: {error}")
            found = await watched(listed, None, settings)
    now = datetime.now(UTC)
    planned = [plan_for(snapshot, now) for snapshot in found]
    _show(sorted(planned, key=lambda each: (each.namespace, each.name)), now, output)


def plan_for(snapshot: Snapshot, now: datetime) -> Planned:
    """As the terminator would decide on the cancel, or on the deadline once that has passed."""
    run, shutdown, deadline, gone = snapshot.run, snapshot.shutdown, snapshot.deadline, snapshot.topology.gone
    event_type = EventType.DEADLINE_REACHED if deadline is not None and deadline <= now else EventType.CANCEL_REQUESTED
    decided = first_decision(event_type, snapshot, now)
    step_runs = snapshot.step_runs or ()
    return Planned(
        namespace=run.namespace,
        name=run.name,
        uid=run.uid,
        cancellation=run.cancellation.token,
        canceled_at=run.canceled_at,
        deadline=format_instant(deadline) if deadline else None,
        shutdown_timeout=shutdown.timeout,
        shutdown_rule=str(shutdown.rule),
        evidence=str(gone) if gone else None,
        verdict=decided.verdict,
        rule=decided.rule,
        why=decided.why,
        step_runs=tuple(ref.name for ref in step_runs) if decided.verdict is Verdict.FINALIZE else (),
    )


def _show(planned: list[Planned], now: datetime, output: Output) -> None:
    if print_all(planned, output):
        return
    if planned:
        header = ("NAMESPACE", "NAME", "CANCELED", "VERDICT", "RULE", "DEADLINE", "WHY")
        wide = output == "wide"
        columns = Columns((*header[:-1], "UID", "EVIDENCE", "STEPRUNS", header[-1]) if wide else header)
        console().print(*columns.lines(_row(each, now, wide=wide) for each in planned), sep="\n")
    else:
        print_note("no canceled run is unfinished: there is nothing to do")


def _row(each: Planned, now: datetime, *, wide: bool) -> tuple[str, ...]:
    row = (
        each.namespace,
        each.name,
        _ago(now - parse_instant(each.canceled_at)) if each.canceled_at else "-",
        str(each.verdict),
        each.rule,
        _ago(now - parse_instant(each.deadline)) if each.deadline else "-",
    )
    more = (each.uid, each.evidence or "-", ",".join(each.step_runs) or "-") if wide else ()
    return (*row, *more, each.why)


def _ago(since: timedelta) -> str:
    return f"{in_words(since)} ago" if since >= timedelta(0) else f"in {in_words(-since)}"
