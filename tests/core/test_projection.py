from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from core.objects import (
    CANCEL_OBSERVED_AT,
    FENCE_WAIT,
    NAMESPACE,
    NOW,
    OBSERVED_LATER,
    a_signal,
    binding,
    step_run,
    story,
    story_run,
    topology_terminated,
    written,
)
from exeunt.clock import format_instant, format_status_time, parse_instant
from exeunt.run import bobrapet
from exeunt.run.cancellations import Cancellation
from exeunt.run.managed_fields import FIELD_MANAGER
from exeunt.run.models import StoryRef, StoryRun, StoryRunSpec
from exeunt.run.shutdown_timeout import DEFAULT, STORY_POLICY, ShutdownTimeout
from exeunt.run.snapshot import Snapshot, StepRunRef, Topology
from exeunt_watcher.projection import Projection

CALL = (NAMESPACE, "call")
FIRST_ATTEMPT = Cancellation(*CALL, "uid-call", bobrapet.FIRST_ATTEMPT)
REDRIVEN = {bobrapet.REDRIVE[0][1]: "again"}
INDEXES = (
    "_known",
    "_stories",
    "_runs_of_story",
    "_step_runs",
    "_bindings",
    "_remembered",
    "_runs_of_token",
    "_fixed",
)


def projection(*, stale_after: timedelta | None = None) -> Projection:
    return Projection(default_timeout=timedelta(seconds=20), fence_wait=FENCE_WAIT, heartbeats_stale_after=stale_after)


def projected(known: Projection, run: StoryRun | None = None, *, now: datetime = NOW) -> Snapshot:
    """Take in `run`, if any, and project it (or the run `call`)."""
    if run is not None:
        known.story_run(run)
    answer = known.project(run.metadata.key if run else CALL, now)
    assert answer is not None
    return answer[1]


def names(snapshot: Snapshot) -> set[str]:
    assert snapshot.step_runs is not None
    return {ref.name for ref in snapshot.step_runs}


def sizes(known: Projection) -> Mapping[str, int]:
    return {index: len(getattr(known, index)) for index in INDEXES}


@pytest.fixture
def known() -> Projection:
    """A running call: its Story, one StepRun and its binding."""
    known = projection()
    known.story(story(timeout="5s"))
    known.step_run(step_run())
    known.binding(binding(owner=StepRunRef("call-listen", "uid-call-listen")))
    projected(known, story_run())
    return known


# Which StepRuns and bindings belong to a run.


def test_runs_whose_labels_collide_keep_their_own_children() -> None:
    known = projection()
    for name in ("a--b", "a-b"):
        known.step_run(step_run(f"{name}-listen", run=name, owner=f"uid-{name}"))
        known.binding(binding(f"{name}-listen-transport", run=name, run_uid=f"uid-{name}"))
    one, other = (projected(known, story_run(name, uid=f"uid-{name}")) for name in ("a--b", "a-b"))
    assert (names(one), names(other)) == ({"a--b-listen"}, {"a-b-listen"})
    assert known.binding_gone((NAMESPACE, "a-b-listen-transport")) == [(NAMESPACE, "a-b")]
    still_up = known.project((NAMESPACE, "a--b"), NOW)
    gone = known.project((NAMESPACE, "a-b"), NOW)
    assert still_up is not None
    assert gone is not None
    assert (still_up[1].topology.gone, gone[1].topology.gone is not None) == (None, True)


def test_a_step_run_without_an_owner_belongs_by_name() -> None:
    known = projection()
    known.step_run(step_run(owner=None))
    assert names(projected(known, story_run())) == {"call-listen"}


def test_a_step_run_of_another_uid_does_not_belong() -> None:
    known = projection()
    known.step_run(step_run(owner="uid-of-the-call-before"))
    snapshot = projected(known, story_run())
    assert snapshot.step_runs == ()
    assert not snapshot.topology.step_runs_seen


def test_a_binding_of_another_uid_or_of_no_run_is_no_evidence() -> None:
    known = projection()
    assert known.binding(binding(run_uid=None)) == []
    known.binding(binding("other", run_uid="uid-of-the-call-before"))
    assert not projected(known, story_run()).topology.established
    known.binding_gone((NAMESPACE, "other"))
    assert projected(known).topology == Topology()


@pytest.mark.parametrize("phase", sorted(bobrapet.TERMINAL_PHASES))
def test_terminal_step_runs_are_not_live(phase: str) -> None:
    known = projection()
    known.step_run(step_run(phase=phase))
    assert projected(known, story_run()).step_runs == ()


def test_a_step_run_that_is_being_deleted_is_not_live(known: Projection) -> None:
    known.step_run(step_run(deleting=True))
    known.binding_gone((NAMESPACE, "call-listen-transport"))
    assert projected(known).step_runs == ()


def test_a_terminal_step_run_with_a_live_binding_has_to_go_too(known: Projection) -> None:
    known.step_run(step_run(phase="Succeeded"))
    assert projected(known).step_runs == (StepRunRef("call-listen", "uid-call-listen"),)


def test_a_binding_that_is_being_deleted_counts_as_gone(known: Projection) -> None:
    assert known.binding(binding(deleting=True)) == [CALL]
    assert projected(known).topology.gone is not None


def test_heartbeats_are_read_from_the_bindings() -> None:
    known = projection(stale_after=timedelta(seconds=90))
    known.binding(binding(heartbeat=format_instant(NOW - timedelta(seconds=91))))
    assert projected(known, story_run()).topology.gone is not None
    known.binding(binding(heartbeat=format_instant(NOW)))
    assert projected(known).topology.gone is None


def test_a_step_run_that_is_moved_to_another_run_leaves_the_first(known: Projection) -> None:
    other = story_run("other", uid="uid-other")
    assert set(known.step_run(step_run(run="other", owner="uid-other"))) == {CALL, (NAMESPACE, "other")}
    assert names(projected(known, other)) == {"call-listen"}
    known.binding_gone((NAMESPACE, "call-listen-transport"))
    assert projected(known).step_runs == ()


def test_a_binding_that_is_moved_to_another_run_leaves_the_first(known: Projection) -> None:
    moved = binding(run="other", run_uid="uid-other")
    assert set(known.binding(moved)) == {CALL, (NAMESPACE, "other")}
    assert projected(known).topology.gone is not None
    assert projected(known, story_run("other", uid="uid-other")).topology.established


def test_a_binding_that_loses_its_run_is_gone_for_it(known: Projection) -> None:
    assert known.binding(binding(run_uid=None)) == [CALL]
    assert projected(known).topology.gone is not None


# Lives and names.


def test_a_run_that_is_deleted_and_created_again_starts_anew(known: Projection) -> None:
    last = known.run_gone(CALL)
    assert last is not None
    assert last.topology.established
    again = projected(known, story_run(uid="uid-again"))
    assert again.topology == Topology()
    assert again.step_runs == ()


def test_a_run_that_was_replaced_unseen_starts_anew_and_leaves_its_story(known: Projection) -> None:
    known.story(story("other-story"))
    answer = known.project(known.story_run(story_run(uid="uid-again", story="other-story"))[0], NOW)
    assert answer is not None
    previous, again = answer
    assert previous is None
    assert (again.run.uid, again.topology) == ("uid-again", Topology())
    assert known.story(story()) == []
    assert known.story(story("other-story")) == [CALL]


def test_a_redriven_run_forgets_that_its_topology_was_established(known: Projection) -> None:
    assert projected(known).topology.established
    known.binding_gone((NAMESPACE, "call-listen-transport"))
    known.step_run_gone((NAMESPACE, "call-listen"))
    assert projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).topology.gone is not None
    again = projected(known, story_run(canceled=True, annotations=REDRIVEN, phase=None))
    assert again.topology == Topology()


def test_a_cancel_does_not_forget_that_the_topology_was_established(known: Projection) -> None:
    known.binding_gone((NAMESPACE, "call-listen-transport"))
    assert projected(known, story_run(canceled=True)).topology.gone is not None
    assert projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).topology.gone is not None


def test_the_memory_of_the_stream_is_used_once_and_only_for_its_run() -> None:
    known = projection()
    for run in (story_run(), story_run("other", uid="uid-other")):
        known.story_run(run)
    known.remember(FIRST_ATTEMPT, Topology(established=True, step_runs_seen=True))
    assert projected(known).topology.gone is not None
    assert projected(known, story_run("other", uid="uid-other")).topology == Topology()
    assert sizes(known)["_remembered"] == 0
    assert projected(known, story_run(annotations=REDRIVEN)).topology == Topology()


def test_peek_changes_nothing(known: Projection) -> None:
    known.binding_gone((NAMESPACE, "call-listen-transport"))
    seen = known.peek(CALL, NOW)
    assert seen is not None
    assert seen.topology.gone is not None
    answer = known.project(CALL, NOW)
    assert answer is not None
    assert answer[0] is not None
    assert answer[0].topology.gone is None
    assert known.peek((NAMESPACE, "nobody"), NOW) is None
    assert known.project((NAMESPACE, "nobody"), NOW) is None


def test_a_signal_is_evidence_until_it_is_taken_back(known: Projection) -> None:
    assert known.signal(a_signal(gone=True)) == [CALL]
    first, second = projected(known), projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert first.topology.gone == second.topology.gone == a_signal(gone=True).evidence
    assert known.signal(a_signal(gone=False, at=NOW + timedelta(seconds=1))) == [CALL]
    assert projected(known).topology.gone is None
    assert known.signal(a_signal(gone=True)) == []  # late: something newer is known
    assert projected(known).topology.gone is None


def test_a_signal_of_before_a_redrive_says_nothing_of_the_new_attempt(known: Projection) -> None:
    known.signal(a_signal(gone=True))
    again = story_run(canceled=True, annotations=REDRIVEN, started_at=format_status_time(NOW + timedelta(seconds=2)))
    assert projected(known, again).topology.gone is None


def test_a_signal_says_nothing_of_the_next_run_of_the_same_name(known: Projection) -> None:
    known.signal(a_signal(gone=True, uid="uid-call"))
    projected(known)
    known.run_gone(CALL)
    assert projected(known, story_run(uid="uid-again")).topology.gone is None


def test_a_signal_by_trigger_token_is_about_all_runs_that_were_started_for_it(known: Projection) -> None:
    token = {bobrapet.TRIGGER_TOKEN: "RM_1"}
    for name in ("one", "two"):
        known.story_run(story_run(name, uid=f"uid-{name}", annotations=token))
    assert sorted(known.signal(a_signal(gone=True, token="RM_1"))) == [(NAMESPACE, "one"), (NAMESPACE, "two")]
    late = story_run("three", uid="uid-three", annotations=token)  # said before the run was there
    assert projected(known, late).topology.gone is not None
    known.story_run(story_run("one", uid="uid-one"))  # somebody has taken the annotation away
    back = known.signal(a_signal(gone=False, token="RM_1", at=NOW + timedelta(seconds=1)))
    assert sorted(back) == [(NAMESPACE, "three"), (NAMESPACE, "two")]


# Stories.


def test_a_story_may_arrive_after_its_run() -> None:
    known = projection()
    before = projected(known, story_run())
    assert (before.realtime, before.story.resource_version) == (False, None)
    assert known.story(story(timeout="5s")) == [CALL]
    after = projected(known)
    assert after.realtime
    assert after.shutdown.rule == STORY_POLICY


def test_a_run_of_a_batch_story_is_not_realtime_even_when_it_streams(known: Projection) -> None:
    known.story(story(pattern="batch"))
    assert not projected(known).realtime


def test_a_run_without_a_story_is_realtime_once_it_has_been_seen_streaming() -> None:
    known = projection()
    assert not projected(known, story_run()).realtime
    known.binding(binding())
    assert projected(known).realtime
    known.binding_gone((NAMESPACE, "call-listen-transport"))
    assert projected(known).realtime


def test_a_late_edit_of_the_story_does_not_move_a_captured_timeout(known: Projection) -> None:
    captured = projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert captured.deadline == parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=5)
    known.story(story(timeout="1h", resource_version="2"))
    assert projected(known).deadline == captured.deadline


def test_a_restarted_watcher_keeps_to_what_was_published_at_the_cancel(known: Projection) -> None:
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT)
    published = replace(projected(known, run), shutdown=ShutdownTimeout("7s", STORY_POLICY))
    known.run_gone(CALL)
    known.fix(published)
    assert projected(known, run).deadline == parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=7)
    assert projected(known).deadline == parse_instant(CANCEL_OBSERVED_AT) + timedelta(seconds=7)
    # of this cancel, not of one before it
    known.run_gone(CALL)
    known.fix(published)
    again = projected(known, story_run(cancel_observed_at=OBSERVED_LATER))
    assert again.deadline == parse_instant(OBSERVED_LATER) + timedelta(seconds=5)


def test_a_deleted_story_does_not_move_a_captured_timeout(known: Projection) -> None:
    captured = projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert known.story_gone((NAMESPACE, "talk")) == [CALL]
    for _ in range(3):
        snapshot = projected(known)
        assert snapshot.deadline == captured.deadline
        assert snapshot.realtime


def test_before_the_cancel_an_edit_of_the_story_counts(known: Projection) -> None:
    known.story(story(timeout="1h", resource_version="2"))
    assert projected(known).shutdown.timeout == "1h"
    assert projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).shutdown.timeout == "1h"


def test_a_new_cancellation_captures_anew(known: Projection) -> None:
    projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    known.story(story(timeout="1h", resource_version="2"))
    assert projected(known, story_run(cancel_observed_at=OBSERVED_LATER, annotations=REDRIVEN)).shutdown.timeout == "1h"


def test_a_story_that_arrives_after_the_cancel_is_still_consulted() -> None:
    known = projection()
    assert projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).shutdown.rule == DEFAULT
    known.story(story(timeout="5s"))
    assert projected(known).shutdown.rule == STORY_POLICY


@pytest.mark.parametrize(
    ("run", "of_story", "enabled"),
    [(None, None, True), ("false", None, False), (None, "false", False), ("true", "no", False), ("maybe", None, True)],
)
def test_a_run_or_its_story_opts_out_with_false(run: str | None, of_story: str | None, *, enabled: bool) -> None:
    def says(value: str | None) -> dict[str, str]:
        return {} if value is None else {bobrapet.ENABLED: value}

    known = projection()
    known.story(story(annotations=says(of_story)))
    snapshot = projected(known, story_run(annotations=says(run)))
    assert (snapshot.run.enabled and snapshot.story.enabled) is enabled


def test_a_story_is_looked_for_in_the_namespace_that_the_run_names() -> None:
    known = projection()
    known.story(story())
    shared = story(pattern="realtime", resource_version="7")
    known.story(replace(shared, metadata=replace(shared.metadata, namespace="shared")))
    assert projected(known, story_run()).story.resource_version == "1"
    elsewhere = replace(story_run(), spec=StoryRunSpec(story_ref=StoryRef(name="talk", namespace="shared")))
    assert projected(known, elsewhere).story.resource_version == "7"


# The cancel_observed_at, and what is waited for without it.


def test_without_cancel_observed_at_the_cancel_counts_from_when_it_was_written() -> None:
    known = projection()
    cancel = [written("status", "2026-11-24T18:13:01Z"), written("cancelRequested", "2026-11-24T18:13:20Z")]
    early = projected(known, story_run(canceled=True, managed_fields=cancel), now=NOW)
    assert (early.run.canceled_at, early.run.observation_overdue) == (
        "2026-11-24T18:13:21.000000Z",
        False,
    )  # rounded up
    at = parse_instant("2026-11-24T18:13:21Z") + FENCE_WAIT
    assert not projected(known, now=at - timedelta(microseconds=1)).run.observation_overdue
    assert projected(known, now=at).run.observation_overdue


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-24T18:13:00+24:00"])
def test_when_no_time_of_a_cancel_can_be_read_it_counts_from_when_it_was_first_seen(text: str) -> None:
    known = projection()
    entries = [written("cancelRequested", "2026-11-24T18:13:20Z"), written("cancelRequested", text)]
    run = story_run(canceled=True, started_at=text, finished_at=text, managed_fields=entries)
    assert projected(known, run, now=NOW).run.canceled_at == format_instant(NOW)
    assert projected(known, now=NOW + FENCE_WAIT).run.observation_overdue


def test_a_run_was_ended_by_exeunt_if_it_wrote_the_phase() -> None:
    """A cancel that was passed on to a sub-story is a write of the same manager, to the spec."""
    passed_on = {**written("cancelRequested", "2026-11-24T18:13:20Z"), "manager": FIELD_MANAGER}
    ended = {**written("phase", "2026-11-24T18:13:21Z"), "manager": FIELD_MANAGER, "subresource": "status"}
    other = {**written("observedGeneration", "2026-11-24T18:13:21Z"), "manager": FIELD_MANAGER, "subresource": "status"}
    by_a_stop = ended | {"manager": f"{FIELD_MANAGER}/1a2b3c4d"}
    by_another = ended | {"manager": f"{FIELD_MANAGER}s"}
    for entries, by_exeunt in (
        ([passed_on], False),
        ([passed_on, ended], True),
        ([passed_on, by_a_stop], True),
        ([passed_on, by_another], False),
        ([passed_on, other], False),
    ):
        run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished", managed_fields=entries)
        assert projected(projection(), run).run.ended_by_exeunt is by_exeunt


def test_without_managed_fields_the_cancel_counts_from_when_it_was_first_seen() -> None:
    known = projection()
    projected(known, story_run())
    first = projected(known, story_run(canceled=True), now=NOW)
    later = projected(known, now=NOW + FENCE_WAIT)
    assert first.run.canceled_at == later.run.canceled_at == format_instant(NOW)
    assert (first.run.observation_overdue, later.run.observation_overdue) == (False, True)


def test_cancel_observed_at_ends_the_wait_and_begins_the_cancellation() -> None:
    known = projection()
    projected(known, story_run(canceled=True))
    observed_cancel = projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT), now=NOW + timedelta(days=1))
    assert (observed_cancel.run.canceled_at, observed_cancel.run.observation_overdue) == (CANCEL_OBSERVED_AT, False)
    assert observed_cancel.run.cancellation.token != observed_cancel.run.attempt


def test_a_redriven_run_gets_the_whole_wait_for_its_new_cancel_observed_at() -> None:
    """It is still canceled by the old write, long ago; that must not make cancel_observed_at overdue at once."""
    known = projection()
    old = written("cancelRequested", "2026-11-24T17:00:00Z")
    projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, managed_fields=[old]))
    observed = [written(name, format_status_time(NOW)) for _, name in bobrapet.REDRIVE]
    for redrive in observed:
        again = story_run(canceled=True, annotations=REDRIVEN, phase=None, managed_fields=[redrive, old])
        begun = NOW + timedelta(seconds=1)  # managed fields are cut to seconds
        assert not projected(known, again, now=begun).run.observation_overdue
        assert projected(known, again, now=begun + FENCE_WAIT).run.observation_overdue


def test_a_redriven_run_is_first_seen_canceled_in_its_new_attempt() -> None:
    known = projection()
    projected(known, story_run(canceled=True))
    again = projected(known, story_run(canceled=True, annotations=REDRIVEN), now=NOW + timedelta(hours=1))
    assert (again.run.canceled_at, again.run.observation_overdue) == (format_instant(NOW + timedelta(hours=1)), False)


@pytest.mark.parametrize(("asked", "observed"), bobrapet.REDRIVE)
def test_a_redrive_is_under_way_until_it_was_observed(asked: str, observed: str) -> None:
    known = projection()
    reported: list[tuple[dict[str, Any], bool]] = [
        ({asked: "1"}, True),
        ({asked: "1", observed: "1"}, False),
        ({asked: "2", observed: "1"}, True),
        ({observed: "1"}, False),
        ({asked: ""}, False),
    ]
    for annotations, redriving in reported:
        assert projected(known, story_run(annotations=annotations)).run.redriving is redriving


# Forgetting.


def test_a_run_that_became_terminal_is_reported_once_and_forgotten(known: Projection) -> None:
    known.story_run(story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished"))
    answer = known.project(CALL, NOW)
    assert answer is not None
    previous, current = answer
    assert previous is not None
    assert (previous.run.terminal, current.run.terminal) == (False, True)
    assert known.snapshot(CALL) is None
    assert list(known.known_runs()) == []


def test_the_memory_of_the_stream_may_come_after_the_run_was_seen() -> None:
    known = projection()
    assert projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).topology == Topology()
    known.remember(FIRST_ATTEMPT, Topology(established=True, step_runs_seen=True))
    gone = projected(known).topology.gone
    assert gone is not None
    assert gone.kind == "bindings-gone"


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("observed_at", [None, CANCEL_OBSERVED_AT])
def test_a_story_that_is_deleted_during_the_stop_takes_its_opt_out_not_along(
    known: Projection, observed_at: str | None, *, restarted: bool
) -> None:
    known.story(story(annotations={bobrapet.ENABLED: "false"}))
    published = projected(known, story_run(canceled=True, cancel_observed_at=observed_at))
    assert not published.story.enabled
    known.story_gone((NAMESPACE, "talk"))
    if restarted:
        known.run_gone(CALL)
        known.fix(published)
    for _ in range(3):
        assert not projected(known, story_run(canceled=True, cancel_observed_at=CANCEL_OBSERVED_AT)).story.enabled
    # one that is made anew has the word
    known.story(story(resource_version="9"))
    assert projected(known).story.enabled


def test_more_step_runs_than_an_event_can_hold_are_not_told(known: Projection) -> None:
    for number in range(499):
        known.step_run(step_run(f"call-{number}"))
    assert len(projected(known, story_run(cancel_observed_at=CANCEL_OBSERVED_AT)).step_runs or ()) == 500
    known.step_run(step_run("call-one-more"))
    assert projected(known).step_runs is None


def test_nothing_is_kept_of_what_was_deleted(known: Projection) -> None:
    known.story_run(
        story_run("other", uid="uid-other", cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[topology_terminated()])
    )
    known.remember(replace(FIRST_ATTEMPT, uid="uid-other"), Topology(established=True))
    known.signal(a_signal(gone=True, run="other", uid="uid-other"))
    before = known.peek((NAMESPACE, "other"), NOW)
    assert before is not None
    known.fix(before)
    known.step_run(step_run("orphan", run="nobody", owner=None))
    known.binding(binding("orphan", run="nobody", run_uid="uid-nobody"))
    known.binding(binding("call-listen-transport", run="other", run_uid="uid-other"))
    known.step_run(step_run(run="other", owner="uid-other"))
    known.story_run(story_run("other", uid="uid-other", phase="Finished"))
    known.project((NAMESPACE, "other"), NOW)
    for name in ("call-listen", "orphan", "never-seen"):
        known.step_run_gone((NAMESPACE, name))
    for name in ("call-listen-transport", "orphan", "never-seen"):
        known.binding_gone((NAMESPACE, name))
    for name in ("talk", "never-seen"):
        known.story_gone((NAMESPACE, name))
    for name in ("call", "other", "never-seen"):
        known.run_gone((NAMESPACE, name))
    for _ in range(2):  # bindings of a run that does not show until the second time are forgotten, too
        known.forget(NOW)
    assert sizes(known) == dict.fromkeys(INDEXES, 0)


def test_the_indexes_above_are_all_that_a_projection_keeps() -> None:
    assert {name for name, value in vars(projection()).items() if isinstance(value, dict)} == set(INDEXES)
