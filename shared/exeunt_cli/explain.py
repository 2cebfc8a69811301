"""`exeunt explain`: a stop in sentences; for one that goes on, what it waits for, until when, and what would end it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Literal

from cyclopts import Parameter

from exeunt.clock import elapsed_in_words, format_instant, in_words, parse_instant
from exeunt.errors import ExeuntError
from exeunt.events.event_types import Verdict
from exeunt.history.event import OutcomeEvent
from exeunt.history.lateness import due, late_by
from exeunt.history.refusals import attempt_in_words, next_try
from exeunt.history.rendering import cause_in_words, deleted_step_runs, detour, milliseconds, render, why
from exeunt.history.stops import Ending, Stop
from exeunt.run.bobrapet import TOPOLOGY_TERMINATED_REASON
from exeunt.run.snapshot import Snapshot
from exeunt.settings import Settings
from exeunt_cli.errors import NotFound
from exeunt_cli.hanging import hangs_on
from exeunt_cli.live import look, services_settings
from exeunt_cli.options import Cluster, Run, Where
from exeunt_cli.output import LATE, console, print_note, print_one, print_problems
from exeunt_cli.plan import plan_for
from exeunt_cli.source import connected, is_file, load
from exeunt_terminator.decision import RULES

_EVERYWHERE, _CURRENT = Where(), Cluster()
Explained = Literal["text", "json", "jsonl", "yaml"]
_LIVE_HELP = "Look at the StoryRun in the cluster, too (KUBECONFIG); what is in a file is reported without."


async def explain(
    run: Run = "@latest",
    *,
    where: Where = _EVERYWHERE,
    cluster: Cluster = _CURRENT,
    live: Annotated[bool, Parameter(help=_LIVE_HELP)] = True,
    output: Annotated[Explained, Parameter(alias="-o", help="Sentences, or the stop and them as one object.")] = "text",
) -> None:
    """Explain in sentences what happened in the latest stop of a run, and which rule won at each step."""
    loaded = await load(run, where)
    print_problems(loaded.problems)
    if not loaded.stops:
        raise NotFound(f"nothing of {run} can be understood, so nothing can be explained")
    stop = loaded.stops[-1]
    settings = services_settings()
    now = await _look(stop, settings, where, cluster) if live and not is_file(run) else None
    at = loaded.looked_at
    message = list(explained(stop, now, settings, at))
    hangs = hangs_on(stop, at, settings.overdue_after)
    if print_one({"stop": render(stop, at), "hangs_on": hangs, "explained": message}, output):
        return
    screen = console()
    screen.soft_wrap = False  # sentences are for people: they break where the terminal ends
    for sentence in message:
        screen.print(sentence, style=LATE if ", late by " in sentence else None)


async def _look(stop: Stop, settings: Settings, where: Where, cluster: Cluster) -> Snapshot | None:
    """The run in the cluster, when it is still this one."""
    try:
        async with connected(where) as bus:
            found = await look(stop.cancellation.namespace, stop.cancellation.name, bus, settings, cluster)
    except ExeuntError as error:
        print_note(f"explained without the live object: {error}")
        return None
    return found if found is not None and found.run.uid == stop.cancellation.uid else None


def explained(stop: Stop, live: Snapshot | None, settings: Settings, now: datetime) -> Iterator[str]:
    """All sentences about a stop. `live` is the run in the cluster, where it was looked at."""
    yield from sentences(stop)
    yield _ending(stop, live, now)
    yield from outlook(stop, live, settings, now)


def sentences(stop: Stop) -> Iterator[str]:
    """What happened, one sentence for each event."""
    story = stop.run_events[-1].snapshot.story if stop.run_events else None
    of = f" of the Story {story.namespace}/{story.name}" if story else ""
    yield f"{stop.run} (uid {stop.cancellation.uid}) is a realtime run{of}."
    for recorded in stop.by_time:
        if isinstance(recorded, OutcomeEvent):
            yield _decision(stop, recorded)
        else:
            since = elapsed_in_words(milliseconds(recorded.at - stop.started_at))
            yield f"{since}: the {recorded.service} published {recorded.event_type} - {why(recorded)}."


def _decision(stop: Stop, recorded: OutcomeEvent) -> str:
    outcome = recorded.outcome
    since = elapsed_in_words(milliseconds(recorded.at - stop.started_at))
    number = next((number for number, rule in enumerate(RULES, 1) if rule.name == outcome.rule), None)
    won = f"rule {number} of {len(RULES)}, {outcome.rule}, won" if number else f"no rule applied ({outcome.rule})"
    if outcome.verdict is Verdict.FAILED:
        won = "the kube-apiserver had the last word"
    before = "; ".join(detour(step) for step in outcome.trail[:-1])
    tried = f" Before that: {before}." if before else ""
    deleted = f" StepRuns deleted: {deleted_step_runs(outcome)}." if outcome.deleted_step_runs else ""
    dry = " Nothing was written: that was a dry run (EXEUNT_DRY_RUN)." if outcome.dry_run else ""
    verb = _VERBS[outcome.verdict]
    if outcome.verdict is Verdict.FAILED:
        verb = "try again later" if outcome.next_at else "give up and set the event aside as a dead letter"
        deleted = f" That was {attempt_in_words(outcome)}."
    return f"{since}: the {recorded.service} decided to {verb}: {won}: {outcome.why}.{tried}{deleted}{dry}"


_VERBS = {
    Verdict.FINALIZE: "finalize the run",
    Verdict.WAIT: "wait",
    Verdict.LEAVE: "leave it alone",
    Verdict.ALREADY_TERMINAL: "write nothing, for it had ended",
    Verdict.GONE: "write nothing, for it was gone",
    Verdict.SUPERSEDED: "write nothing, for this stop was over",
    Verdict.FAILED: "give up",
}


def _ending(stop: Stop, live: Snapshot | None, now: datetime) -> str:
    """How it ended, or how far it has come; `live` is the run in the cluster, which may know more than was said."""
    if stop.ending is Ending.RUNNING:
        asked = live.run.canceled_at if live is not None else None
        return f"Its cancel was asked for at {asked}." if asked else "Nobody has asked for its cancel."
    cause = f": {cause}" if (cause := cause_in_words(stop)) else ""
    late = f", late by {in_words(by)}" if (by := late_by(stop, now)) is not None else ""
    if late and (at := due(stop)) is not None:
        why = "when its deadline came" if at == stop.deadline else "when it was canceled and its topology gone"
        late += f" (it was due at {format_instant(at)}, {why})"
    if stop.latency is None:
        return f"So far it is {stop.ending}{late}{cause}."
    spared = stop.deadline - stop.ended_at if stop.deadline and stop.ended_at else timedelta(0)
    before = f", {in_words(spared)} before its shutdown deadline" if spared > timedelta(0) else ""
    ended = "ended by somebody else than Exeunt" if stop.ending is Ending.ENDED_ELSEWHERE else str(stop.ending)
    return f"It was {ended} {in_words(stop.latency)} after the cancel{late}{before}{cause}."


def outlook(stop: Stop, live: Snapshot | None, settings: Settings, now: datetime) -> Iterator[str]:
    """What is still to come, what that hangs on, and what bobrapet alone would have done."""
    if hops := hangs_on(stop, now, settings.overdue_after):
        yield f"Missing: {'; '.join(hops)}"
    snapshot = live or stop.canceled
    if snapshot is not None and stop.ending in _GOES_ON and not snapshot.run.terminal:
        yield from _waiting(stop, snapshot, settings, now, seen="now" if live else "when it was last heard of")
    elif live is not None and stop.ending in _GOES_ON:
        yield f"In the cluster it is {live.run.phase} by now; the watcher has not published it yet."
    yield from _drain(stop, live)


_GOES_ON = (Ending.STOPPING, Ending.FAILED, Ending.LEFT, Ending.RUNNING)


def _waiting(stop: Stop, snapshot: Snapshot, settings: Settings, now: datetime, *, seen: str) -> Iterator[str]:
    decision = plan_for(snapshot, now)
    yield f"As it is {seen}, the terminator would {_VERBS[decision.verdict]} ({decision.rule}): {decision.why}."
    if decision.rule == "opted-out" and stop.canceled is not None and _enabled(stop.canceled):
        yield "The cancel came first: whoever opted it out did so after that."
    if decision.rule == "topology-up":
        names = ", ".join(ref.name for ref in snapshot.step_runs or ())
        yield f"It waits for its topology to go{f'; of its StepRuns these are still there: {names}' if names else ''}."
    if decision.rule == "unfenced" and snapshot.run.canceled_at is not None:
        until = format_instant(parse_instant(snapshot.run.canceled_at) + settings.fence_wait)
        wait = f"EXEUNT_FENCE_WAIT ({in_words(settings.fence_wait)}) after the cancel"
        yield f"It waits for bobrapet's cancel_observed_at until {until}: {wait}."
    if decision.verdict is Verdict.WAIT and (deadline := snapshot.deadline) is not None:
        yield _latest(snapshot, deadline, now)
        yield (
            f"Sooner would end it: the hub's condition {TOPOLOGY_TERMINATED_REASON}, the end of all its"
            " TransportBindings or of all its StepRuns, or a signal that everyone has left. The shutdown timeout was"
            " fixed at the cancel: editing it now changes nothing."
        )
    if decision.verdict is Verdict.FINALIZE:
        yield "That takes milliseconds; if it stays so, look at the terminator's log and at the stream DEADLETTERS."
    if stop.ending is Ending.FAILED and next_try(stop) is None:
        yield "Its event is a dead letter: nothing tries again before the sweep says that the run is overdue."


def _enabled(snapshot: Snapshot) -> bool:
    return snapshot.run.enabled and snapshot.story.enabled


def _latest(snapshot: Snapshot, deadline: datetime, now: datetime) -> str:
    rule = f"{snapshot.shutdown.timeout} after the cancel, by the {snapshot.shutdown.rule}"
    at = format_instant(deadline)
    if deadline > now:
        return f"At the latest it ends at {at}, in {in_words(deadline - now)}: its shutdown deadline, {rule}."
    return (
        f"Its shutdown deadline ({rule}) has passed at {at}, {in_words(now - deadline)} ago. Look at the logs of the"
        " timeout-scheduler and the terminator."
    )


def _drain(stop: Stop, live: Snapshot | None) -> Iterator[str]:
    drain = stop.drain or (timedelta(seconds=live.story.drain) if live and live.story.drain else None)
    if drain is None:
        return
    spared = drain - stop.latency if stop.latency is not None else None
    less = f" It ended {in_words(spared)} earlier than that." if spared is not None and spared > timedelta(0) else ""
    yield f"bobrapet alone would have waited for the drain window of its Story, {in_words(drain)}.{less}"
