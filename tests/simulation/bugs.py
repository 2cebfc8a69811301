"""Bugs that are planted to see that the simulation finds them: each is what the promise beside it forbids."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from exeunt.events.subjects import armed_subject
from exeunt.rules.closed import Case
from exeunt.run import bobrapet
from exeunt.run.models import Story
from exeunt.run.snapshot import RunState, Snapshot, StepRunRef
from exeunt_livekit_bridge import machine as bridge
from exeunt_terminator import commands, decision, machine
from exeunt_terminator.finalize import finalizing_patch
from exeunt_terminator.patience import Patience
from exeunt_terminator.stop import TRANSITIONS, Result
from exeunt_terminator.stop import StopState as State
from exeunt_timeout_scheduler import deadlines as armed
from exeunt_timeout_scheduler import machine as scheduler
from exeunt_timeout_scheduler import way
from exeunt_timeout_scheduler.commands import GetRun
from exeunt_watcher import machine as watcher
from exeunt_watcher.projection import Projection
from exeunt_watcher.strays import Strays
from simulation.unpublished import Unpublished

Patch = pytest.MonkeyPatch
FENCED: Final = "/metadata/annotations/" + bobrapet.CANCEL_OBSERVED_AT.replace("/", "~1")
ENABLED: Final = "/metadata/annotations/" + bobrapet.ENABLED.replace("/", "~1")


def without_rules(patch: Patch, *names: str) -> None:
    for module in (decision, scheduler):
        rules = getattr(module, "RULES", None)
        if rules is not None:
            patch.setattr(module, "RULES", tuple(rule for rule in rules if rule.name not in names))


def without_tests(patch: Patch, *paths: str) -> None:
    """The conditional write does not look at what is there."""

    def blind(run: RunState, now: Any) -> bytes:
        operations = msgspec.json.decode(finalizing_patch(run, now))
        return msgspec.json.encode(
            [each for each in operations if each["op"] != "test" or not each["path"].startswith(paths)]
        )

    patch.setattr(machine, "finalizing_patch", blind)


def eager(patch: Patch) -> None:
    """Runs are ended that nobody has canceled."""
    without_tests(patch, "/spec/cancelRequested")
    without_rules(patch, "not-canceled")
    (unfenced,) = (rule for rule in decision.RULES if rule.name == "unfenced")

    def of_canceled_runs(case: Case) -> bool:
        return case.snapshot.run.cancel_requested and unfenced.applies(case)

    rules = (rule._replace(applies=of_canceled_runs) if rule is unfenced else rule for rule in decision.RULES)
    patch.setattr(decision, "RULES", tuple(rules))


def ways(patch: Patch, state: State, result: Result, target: State) -> None:
    patch.setitem(TRANSITIONS[state], result, target)


def deadlines(patch: Patch, state: way.DeadlineState, result: way.Result, target: way.DeadlineState) -> None:
    patch.setitem(way.TRANSITIONS[state], result, target)


def without_late_signals(patch: Patch) -> None:
    def possible(topology: Any) -> Any:
        kinds = decision.possible_evidence(topology)
        late = topology.gone and topology.gone.kind != "signal"
        return [kind for kind in kinds if kind != "signal"] if late else kinds

    patch.setattr(machine, "possible_evidence", possible)


def claiming(patch: Patch) -> None:
    read = machine.Stopping._read
    patch.setattr(machine.Stopping, "_read", lambda stop, it: read(stop, replace(it, own=it.run.ended_by_exeunt)))


def late_for_ever(_: datetime, said_at: datetime, __: timedelta) -> datetime:
    return said_at + timedelta(days=1)


def deaf(patch: Patch) -> None:
    judge = bridge.Looking._judge

    def never_up(looking: Any, listed: Any) -> Any:
        return bridge.LookAgain(1.0) if looking._last_signal.gone else judge(looking, listed)

    patch.setattr(bridge.Looking, "_judge", never_up)


def blind_to_edits(patch: Patch) -> None:
    take = Projection.story

    def only_the_first(known: Projection, story: Story) -> Any:
        return [] if story.metadata.key in known._stories else take(known, story)

    patch.setattr(Projection, "story", only_the_first)


def for_ever_as_at_the_cancel(patch: Patch) -> None:
    as_published = scheduler.Scheduling._as_published

    def whole(scheduling: scheduler.Scheduling, message: Any) -> None:
        story = replace(scheduling.snapshot.story, resource_version=None)
        scheduling.snapshot = replace(scheduling.snapshot, story=story)
        as_published(scheduling, message)

    patch.setattr(scheduler.Scheduling, "_as_published", whole)


def still_reading(patch: Patch) -> None:
    have_read = watcher.Watching._have_read

    def waiting(machine: watcher.Watching, heard: Any, now: datetime) -> Any:
        yield from have_read(machine, heard, now)
        machine._reading.setdefault(heard.asked.key, heard.asked.uid)

    patch.setattr(watcher.Watching, "_have_read", waiting)


def by_name_alone(patch: Patch) -> None:
    """StepRuns are taken for a run's that have its name, whosoever they are."""

    def named(_: str, step_runs: Any, __: Any) -> Any:
        return tuple(StepRunRef(each.metadata.name, each.metadata.uid) for each in step_runs)

    patch.setattr(machine, "step_runs_to_delete", named)
    ways(patch, State.LISTING, Result.LISTED, State.DELETING)


Bug = Callable[[Patch], None]
BUGS: Final[dict[str, tuple[Bug, str]]] = {
    "a cancel is not waited for": (eager, "a run that is not canceled is not ended"),
    "the fence is not waited for": (
        lambda patch: without_rules(patch, "unfenced"),
        "no run is ended before its cancel is observed",
    ),
    "opted-out runs are ended": (
        lambda patch: without_rules(patch, "opted-out"),
        "a run that is opted out is not ended",
    ),
    "runs of opted-out Stories are ended": (
        lambda patch: without_rules(patch, "opted-out"),
        "a run whose Story is opted out is not ended",
    ),
    "runs that do not stream are ended": (
        lambda patch: patch.setattr(Snapshot, "realtime", property(lambda _: True)),
        "a run that is not realtime is not ended",
    ),
    "an opt-out that comes between is overwritten": (
        lambda patch: without_tests(patch, ENABLED),
        "a run that is opted out is not ended",
    ),
    "a Story is not read before a deadline": (
        lambda patch: patch.setattr(scheduler, "GetRun", lambda run, since, _: GetRun(run, since)),
        "a Story that is opted out in the middle of a stop is noticed",
    ),
    "where a run is read again its Story is not": (
        lambda patch: patch.setattr(machine, "GetRun", lambda run, since, **_: commands.GetRun(run, since)),
        "a Story that is opted out in the middle of a stop is noticed",
    ),
    "a Story that was edited is not looked at": (
        blind_to_edits,
        "what is published has the Story as it was shown",
    ),
    "a Story that is opted in again is left": (for_ever_as_at_the_cancel, "every stop ends"),
    "an event is believed that its topology is gone": (
        lambda patch: ways(patch, State.DECIDING, Result.FINALIZE, State.PATCHING),
        "no run is ended early",
    ),
    "a signal that was taken back counts": (
        lambda patch: patch.setattr(machine, "still_signaled", lambda *_, **__: True),
        "no run is ended early",
    ),
    "the deadline of an earlier cancellation counts": (
        lambda patch: without_rules(patch, "new-episode"),
        "no run is ended early",
    ),
    "a write is not conditional": (
        lambda patch: without_tests(patch, "/status/phase", "/status/finishedAt", "/status/conditions", FENCED),
        "a run ends once",
    ),
    "conditions are written wherever they were": (
        lambda patch: without_tests(patch, "/status/conditions"),
        "no condition is lost or doubled",
    ),
    "StepRuns go before the write": (
        lambda patch: ways(patch, State.CHECKING, Result.STILL_GONE, State.DELETING),
        "StepRuns go after the status was written",
    ),
    "what is listed is deleted unconfirmed": (
        lambda patch: ways(patch, State.LISTING, Result.LISTED, State.DELETING),
        "no StepRun of a later attempt is deleted",
    ),
    "StepRuns of another run of the name are deleted": (by_name_alone, "no StepRun of another run is deleted"),
    "StepRuns are deleted of whichever run was listed": (
        lambda patch: ways(patch, State.LISTING, Result.LISTED, State.DELETING),
        "StepRuns of a run that is no more are left alone",
    ),
    "nobody looks for StepRuns that are left": (
        lambda patch: patch.setattr(Strays, "due", lambda *_: []),
        "nothing is left",
    ),
    "a lost condition is the end": (
        lambda patch: ways(patch, State.PATCHING, Result.CONDITION_LOST, State.DONE),
        "topology gone and canceled is enough",
    ),
    "a topology that is up again is forgotten": (
        lambda patch: ways(patch, State.CHECKING, Result.UP_AGAIN, State.DONE),
        "topology gone and canceled is enough",
    ),
    "a request that failed is not tried again": (
        lambda patch: ways(patch, State.CHECKING, Result.FAILED, State.DONE),
        "topology gone and canceled is enough",
    ),
    "a late signal does not help an event that stands on something else": (
        without_late_signals,
        "topology gone and canceled is enough",
    ),
    "deadlines are not acted on": (lambda patch: without_rules(patch, "deadline"), "every stop ends"),
    "a time is recorded at which nothing was written": (
        lambda patch: patch.setattr(machine, "format_status_time", lambda _: "2026-11-24T18:13:33Z"),
        "what is recorded as written was written",
    ),
    "another's write of the same second is taken for an own one": (
        claiming,
        "nobody claims what somebody else has written",
    ),
    "a deadline is not held": (
        lambda patch: patch.setattr(scheduler.Scheduling, "_hold", lambda *_: way.Result.INSTANT),
        "no run is ended early",
    ),
    "an overdue stop is left": (
        lambda patch: patch.setattr(scheduler, "publish_again_at", late_for_ever),
        "every stop ends",
    ),
    "what is lost is not armed again": (
        lambda patch: deadlines(
            patch, way.DeadlineState.LOOKING_BACK, way.Result.NEVER_PUBLISHED, way.DeadlineState.DONE
        ),
        "every stop ends",
    ),
    "a schedule that has fired is never settled": (
        lambda patch: deadlines(patch, way.DeadlineState.CHECKING, way.Result.CLOSED, way.DeadlineState.GIVEN_BACK),
        "a message is never settled",
    ),
    "what has fired goes where nobody hears it": (
        lambda patch: patch.setattr(armed, "due_subject", lambda of: armed_subject(of) + ".spent"),
        "a schedule is left",
    ),
    "what was read is waited for still": (still_reading, "a watcher waits for ever"),
    "what holds is not offered again": (
        lambda patch: patch.setattr(watcher, "standing", lambda _: []),
        "topology gone and canceled is enough",
    ),
    "the end of a run waits for what is remembered of it": (
        lambda patch: patch.setattr(watcher.Watching, "_end_of_waiting", lambda *_: ()),
        "what a watcher saw end is not in the history",
    ),
    "runs that are no more are remembered": (
        lambda patch: patch.setattr(Projection, "run_gone", lambda *_: None),
        "a watcher knows runs that are no more",
    ),
    "nobody stands in for the bus": (
        lambda patch: patch.setattr(Patience, "look", lambda *_, **__: False),
        "every stop ends",
    ),
    "without the bus an outcome is not kept": (
        lambda patch: patch.setattr(Unpublished, "publish", lambda _: None),
        "what was done without the bus is not published",
    ),
    "a call is taken for over at once": (
        lambda patch: patch.setattr(bridge, "callers", lambda *_: ()),
        "the bridge says what it has seen",
    ),
    "a call that is on again is not taken back": (
        deaf,
        "what is known of",
    ),
    "a room that is no more is looked at again": (
        lambda patch: patch.setattr(bridge, "Done", partial(bridge.LookAgain, 1.0)),
        "is looked at for ever",
    ),
}
